"""Tool calls in streams of an engine: what the grammar allows, what is streamed, and how streams end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from harness import BYTES, Gate, ids, scripted, within

from chat.test_call_reader import (
    CONTENT,
    HERMES_TEMPLATE,
    LLAMA_TEMPLATE,
    MISTRAL_ARGS_TEMPLATE,
    MISTRAL_TEMPLATE,
    rebuilt,
)
from headrace import GenerationError, GenerationResult, Token

TEMPLATES = {
    "hermes": HERMES_TEMPLATE,
    "mistral": MISTRAL_TEMPLATE,
    "args": MISTRAL_ARGS_TEMPLATE,
    "llama": LLAMA_TEMPLATE,
    "in words": CONTENT,
}
SEVERAL = ["hermes", "mistral", "args", "in words"]
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {key: {"type": kind}},
                "required": [key],
                "additionalProperties": False,
            },
        },
    }
    for name, key, kind in (("add", "a", "integer"), ("say", "text", "string"), ("adder", "a", "integer"))
]
ADD, SAY = ("add", '{"a": 12}'), ("say", '{"text": "é {\\"}"}')
SCHEMA = {
    "type": "object",
    "properties": {"x": {"type": "boolean"}},
    "required": ["x"],
    "additionalProperties": False,
}


def written(kind: str, *calls: tuple[str, str]) -> str:
    """Calls as a model writes them."""
    if kind == "args":
        return "".join(f"[TOOL_CALLS]{name}[ARGS]{arguments}" for name, arguments in calls)
    if kind == "llama":
        return "; ".join(f'{{"name": "{name}", "parameters": {arguments}}}' for name, arguments in calls)
    objects = [f'{{"name": "{name}", "arguments": {arguments}}}' for name, arguments in calls]
    if kind == "mistral":
        return f"[TOOL_CALLS][{', '.join(objects)}]"
    return "\n".join(f"<tool_call>\n{one}\n</tool_call>" for one in objects)


def chat(script: str, kind: str = "hermes", **overrides: Any) -> tuple[list[Token], GenerationResult]:
    """Chat with a model that writes this, a token a byte; what every stream must keep is checked on the way."""
    with scripted(ids(script), chat_template=TEMPLATES[kind]) as made:
        settings = {"tools": TOOLS, **overrides}
        stream = made.model.chat_stream([{"role": "user", "content": "p"}], **settings)
        tokens = within(list, stream)
        result = within(stream.result)
    check(tokens, result)
    return tokens, result


def check(tokens: Sequence[Token], result: GenerationResult) -> None:
    parts = [part for token in tokens for part in token.parts]
    assert [token.index for token in tokens] == list(range(result.usage.completion_tokens))
    assert not any(token.rest for token in tokens[:-1])
    assert "".join(part.text for part in parts if part.kind == "text") == result.text
    assert rebuilt(parts) == [(call.id, call.name, call.arguments) for call in result.tool_calls]


def called(result: GenerationResult) -> list[tuple[str, str]]:
    assert all(call.is_complete for call in result.tool_calls)
    return [(call.name, call.arguments) for call in result.tool_calls]


@pytest.mark.parametrize("choice", ["auto", "required"])
@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_call(kind: str, choice: str) -> None:
    _, result = chat(written(kind, SAY), kind, tool_choice=choice)
    assert called(result) == [SAY]
    assert (result.text, result.finish_reason, result.parsed) == ("", "tool_calls", None)


@pytest.mark.parametrize("choice", ["auto", "required"])
@pytest.mark.parametrize("kind", SEVERAL)
def test_three_calls(kind: str, choice: str) -> None:
    _, result = chat(written(kind, ADD, SAY, ADD), kind, tool_choice=choice)
    assert called(result) == [ADD, SAY, ADD]
    assert (result.text, result.finish_reason) == ("", "tool_calls")
    assert len({call.id for call in result.tool_calls}) == 3


@pytest.mark.parametrize("kind", TEMPLATES)
def test_without_parallel_calls_the_first_one_ends_it(kind: str) -> None:
    _, result = chat(written(kind, ADD, SAY), kind, parallel_tool_calls=False)
    assert called(result) == [ADD]
    assert result.finish_reason == "tool_calls"


@pytest.mark.parametrize("kind", SEVERAL)
def test_calls_end_even_where_no_end_may_be_sampled(kind: str) -> None:
    _, result = chat(written(kind, ADD), kind, tool_choice="required", parallel_tool_calls=False, ignore_eos=True)
    assert called(result) == [ADD]
    assert result.finish_reason == "tool_calls"


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_named_tool_is_called_once(kind: str) -> None:
    choice = {"type": "function", "function": {"name": "add"}}
    # The script begins with the arguments: where only one token may come, it need not say which.
    _, result = chat(written(kind, ADD, ADD), kind, tool_choice=choice)
    assert called(result) == [ADD]
    assert result.finish_reason == "tool_calls"
    assert called(chat(written(kind, ADD), kind, tool_choice="add")[1]) == [ADD]


def test_another_than_the_named_one_cannot_be_called() -> None:
    with pytest.raises(GenerationError, match="may not come here"):
        chat(written("hermes", SAY), tool_choice="add")


@pytest.mark.parametrize("kind", TEMPLATES)
def test_arguments_must_fit_the_schema(kind: str) -> None:
    for arguments in ('{"a": "x"}', '{"b": 1}', "{}", '{"a": 1, "b": 2}', "[1]"):
        with pytest.raises(GenerationError, match="may not come here"):
            chat(written(kind, ("add", arguments)), kind)


def test_a_tool_whose_name_begins_another_name() -> None:
    assert called(chat(written("hermes", ADD, ("adder", '{"a": 12}')))[1]) == [ADD, ("adder", '{"a": 12}')]


def test_tools_that_are_not_to_be_called() -> None:
    _, result = chat(written("hermes", ADD), tool_choice="none")
    assert (result.text, result.tool_calls, result.finish_reason) == (written("hermes", ADD), (), "stop")


@pytest.mark.parametrize("kind", ["hermes", "mistral", "args", "in words"])
def test_text_before_a_call(kind: str) -> None:
    tokens, result = chat("Wait. é " + written(kind, ADD), kind)
    assert (result.text, called(result), result.finish_reason) == ("Wait. é ", [ADD], "tool_calls")
    kinds = [part.kind for token in tokens for part in token.parts]
    assert kinds == sorted(kinds), "text comes before the call"


@pytest.mark.parametrize("kind", TEMPLATES)
def test_an_answer_without_a_call(kind: str) -> None:
    _, result = chat("I < you [TOOL", kind)
    assert (result.text, result.tool_calls, result.finish_reason) == ("I < you [TOOL", (), "stop")


def test_an_answer_is_no_call() -> None:
    with pytest.raises(GenerationError, match="may not come here"):
        # The trigger is forced, so the script waits until it may choose.
        chat("no", tool_choice="required")


def test_a_required_call_needs_no_trigger_of_the_model() -> None:
    assert called(chat('{"name": "add", "arguments": {"a": 12}}', tool_choice="required")[1]) == [ADD]


@pytest.mark.parametrize("kind", TEMPLATES)
def test_max_tokens_cuts_a_call_at_every_position(kind: str) -> None:
    text = written(kind, ADD)
    end = text.encode().index(ADD[1].encode()) + len(ADD[1])
    for most in range(1, len(text)):
        tokens, result = chat(text, kind, tool_choice="required", max_tokens=most)
        assert len(tokens) == most
        assert result.text == "", "half a trigger is no text, where it had to become one"
        if kind == "llama" and most >= end:  # it can have only one
            assert result.finish_reason == "tool_calls"
            return
        assert result.finish_reason == "length"
        for call in result.tool_calls:
            assert ADD[1].startswith(call.arguments)
            assert call.is_complete == (most >= end) == (call.arguments == ADD[1])
    assert len(result.tool_calls) == 1


@pytest.mark.parametrize("kind", SEVERAL)
def test_a_cancel_at_every_position_leaves_what_was_shown(kind: str) -> None:
    text = "so " * (kind != "llama") + written(kind, ADD, SAY)
    for count in range(1, len(text), 3):
        gate = Gate()
        with scripted(ids(text), chat_template=TEMPLATES[kind], before_step=gate) as made:
            stream = made.model.chat_stream([{"role": "user", "content": "p"}], tools=TOOLS, buffer_size=1000)
            gate.step(count)
            gate.wait()
            stream.cancel()
            gate.open()
            tokens = within(list, stream)
            result = within(stream.result)
        assert result.finish_reason == "cancelled"
        check(tokens, result)
        assert all(call.is_complete for call in result.tool_calls[:-1])


def test_a_stop_sequence_ends_the_answer_but_not_a_call() -> None:
    _, result = chat("so " + written("hermes", SAY), stop_sequences=["text", "so <"])
    assert (result.text, called(result), result.stop_sequence) == ("so ", [SAY], None)
    _, result = chat("so STOP" + written("hermes", SAY), stop_sequences=["STOP"])
    assert (result.text, result.tool_calls, result.finish_reason) == ("so ", (), "stop_sequence")


@pytest.mark.parametrize("kind", ["hermes", "mistral", "args", "in words"])
def test_a_schema_beside_tools(kind: str) -> None:
    _, result = chat('{"x": true}', kind, json_schema=SCHEMA)
    assert (result.text, result.parsed, result.finish_reason) == ('{"x": true}', {"x": True}, "stop")
    _, result = chat(written(kind, ADD), kind, json_schema=SCHEMA)
    assert (result.text, called(result), result.parsed) == ("", [ADD], None)
    assert result.finish_reason == "tool_calls"
    _, result = chat(written(kind, ADD), kind, json_schema=SCHEMA, tool_choice="required")
    assert called(result) == [ADD]
    with pytest.raises(GenerationError, match="may not come here"):
        chat("text", kind, json_schema=SCHEMA)


def test_a_schema_that_a_call_of_the_same_form_does_not_disturb() -> None:
    schema = {**SCHEMA, "properties": {"name": {"type": "string"}}, "required": ["name"]}
    _, result = chat('{"name": "add"}', "llama", json_schema=schema)
    assert (result.text, result.parsed, result.tool_calls) == ('{"name": "add"}', {"name": "add"}, ())


@pytest.mark.parametrize("mode", ["split", "hide", "raw"])
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_thought_before_a_call(choice: str, mode: str) -> None:
    thought = f"<think>{written('hermes', ADD)}</think>"
    space = "\n\n" if choice == "auto" else ""  # where it has to come, the trigger comes at once
    script = f"{thought}{space}{written('hermes', SAY)}"
    tokens, result = chat(script, tool_choice=choice, thinking_tags=("<think>", "</think>"), thinking=mode)
    assert called(result) == [SAY]
    assert result.finish_reason == "tool_calls"
    assert result.thinking == (written("hermes", ADD) if mode == "split" else None)
    assert result.text.strip() == (thought if mode == "raw" else "")
    assert result.usage.thinking_tokens == len(thought)
    assert "".join(part.text for token in tokens for part in token.parts if part.kind == "thinking") == (
        result.thinking or ""
    )


def test_a_required_call_may_come_without_a_thought() -> None:
    """Both begin alike here, and the model chooses once they part."""
    _, result = chat(written("hermes", SAY), tool_choice="required", thinking_tags=("<think>", "</think>"))
    assert (result.thinking, called(result)) == (None, [SAY])


@pytest.mark.parametrize("text", ["", '{"x": true}'])
def test_a_thought_does_not_replace_what_was_asked_for(text: str) -> None:
    with pytest.raises(GenerationError, match="may not come here"):
        chat(f"<think>a{text}", json_schema=SCHEMA, thinking_tags=("<think>", "</think>"))


def test_tools_may_be_functions() -> None:
    def add(a: int) -> int:
        return a

    assert called(chat(written("hermes", ADD), tools=[add], tool_choice="add")[1]) == [ADD]


def test_many_streams_with_and_without_tools_at_once() -> None:
    """Each is kept to its own."""
    texts = [written("hermes", *[ADD] * (number % 3 + 1)) for number in range(12)]
    scripts = iter(texts)
    with scripted(lambda _: ids(next(scripts)), chat_template=HERMES_TEMPLATE, pieces=BYTES) as made:
        with made.hold():
            streams = [
                made.model.chat_stream(
                    [{"role": "user", "content": "p"}], tools=TOOLS, tool_choice="none" if number % 2 else "auto"
                )
                for number in range(12)
            ]
        results = [within(stream.result) for stream in streams]
    for number, (text, result) in enumerate(zip(texts, results, strict=True)):
        if number % 2:
            assert (result.text, result.tool_calls) == (text, ())
        else:
            assert (result.text, called(result)) == ("", [ADD] * (number % 3 + 1))
