"""Tool calls are read out of the output, and streamed, however it falls apart into tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from typing import Any

import pytest
from harness import BYTES, Gate, ids, scripted, within
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace import GenerationError, GenerationResult, Token
from headrace.chat.call_reader import CallReader
from headrace.chat.tool_formats import HERMES, format_of
from headrace.chat.tool_messages import with_instructions
from headrace.values.accumulator import Accumulator
from headrace.values.output_format import ToolFormat
from headrace.values.results import Part

CONTENT = "{{ messages[-1].content }}"
HERMES_TEMPLATE = '{% if tools %}<tool_call> {"name": ..., "arguments": ...} </tool_call>{% endif %}' + CONTENT
MISTRAL_TEMPLATE = "{% if tools %}[TOOL_CALLS] {% endif %}" + CONTENT
MISTRAL_ARGS_TEMPLATE = "{% if tools %}[TOOL_CALLS]name[ARGS]{}{% endif %}" + CONTENT
LLAMA_TEMPLATE = '{% if tools %}{"name": function, "parameters": dictionary}{% endif %}' + CONTENT


def known(template: str) -> ToolFormat:
    format = format_of(template)
    assert format is not None
    return format


MISTRAL, MISTRAL_ARGS, LLAMA = map(known, (MISTRAL_TEMPLATE, MISTRAL_ARGS_TEMPLATE, LLAMA_TEMPLATE))

Call = tuple[str, str, bool]


def split_up(format: ToolFormat, pieces: Sequence[str]) -> tuple[str, list[Call]]:
    """The answer and the calls; what the deltas must keep is checked on the way."""
    reader = CallReader(format)
    parts = [part for piece in pieces for part in reader.feed(piece)]
    parts += reader.flush()
    calls = Accumulator(parts).tool_calls
    assert rebuilt(parts) == [(call.id, call.name, call.arguments) for call in calls]
    assert reader.num_complete == sum(call.is_complete for call in calls)
    assert all(call.is_complete for call in calls[:-1])
    answer = "".join(part.text for part in parts if part.kind == "text")
    return answer, [(call.name, call.arguments, call.is_complete) for call in calls]


def rebuilt(parts: Sequence[Part]) -> list[tuple[str | None, str | None, str]]:
    """The calls as a client puts them together: id and name come first and once, then pieces of the arguments."""
    calls: list[tuple[str | None, str | None, str]] = []
    for part in parts:
        delta = part.tool_call
        assert (delta is not None) == (part.kind == "tool_call")
        if delta is None:
            continue
        assert part.text == delta.arguments
        if delta.index == len(calls):
            assert delta.id
            assert delta.name
            calls.append((delta.id, delta.name, delta.arguments))
        else:
            assert delta.index == len(calls) - 1
            assert delta.id is None
            assert delta.name is None
            id, name, arguments = calls[-1]
            calls[-1] = (id, name, arguments + delta.arguments)
    return calls


def cut(text: str, cuts: Sequence[int]) -> list[str]:
    return [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]


def splits(text: str) -> Iterator[list[str]]:
    """As a whole, cut once anywhere, cut twice anywhere in the short ones, and as single characters."""
    for count in (0, 1, 2) if len(text) < 100 else (0, 1):
        for cuts in combinations(range(1, len(text)), count):
            yield cut(text, cuts)
    yield list(text)


TRICKY = '{"a": "}]\\"{", "b": [{"c": {}}, "\\\\"], "é": "</tool_call>[ARGS]"}'
CASES: list[tuple[str, ToolFormat, str, str, list[Call]]] = [
    (
        "one",
        HERMES,
        '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>',
        "",
        [("add", '{"a": 1}', True)],
    ),
    ("dense", HERMES, '<tool_call>{"name":"add","arguments":{}}</tool_call>', "", [("add", "{}", True)]),
    (
        "two",
        HERMES,
        '<tool_call>{"name": "a", "arguments": {}}</tool_call>\n<tool_call>{"name": "b", "arguments": {}}</tool_call>',
        "",
        [("a", "{}", True), ("b", "{}", True)],
    ),
    (
        "text before, between and behind",
        HERMES,
        'Wait. <tool_call>{"name": "a", "arguments": {}}</tool_call>\n and <tool_call>{"name": "b", "arguments": {}}'
        "\n</tool_call>\ndone",
        "Wait. and done",
        [("a", "{}", True), ("b", "{}", True)],
    ),
    (
        "tricky arguments",
        HERMES,
        f'<tool_call>{{"name": "a", "arguments": {TRICKY}}}</tool_call>',
        "",
        [("a", TRICKY, True)],
    ),
    ("Unicode", HERMES, '<tool_call>{"name": "größe.x-1", "arguments": {}}', "", [("größe.x-1", "{}", True)]),
    ("cut", HERMES, '<tool_call>{"name": "a", "arguments": {"x": "1}', "", [("a", '{"x": "1}', False)]),
    ("cut before the arguments", HERMES, '<tool_call>{"name": "a", "arguments": ', "", [("a", "", False)]),
    ("cut behind the arguments", HERMES, '<tool_call>{"name": "a", "arguments": {}', "", [("a", "{}", True)]),
    ("cut before the name", HERMES, 'so <tool_call>{"name": "a', "so ", []),
    ("garbage", HERMES, "see <tool_call>s are nice", "see <tool_call>s are nice", []),
    ("garbage for a name", HERMES, '<tool_call>{"name": 5}', '<tool_call>{"name": 5}', []),
    ("no name", HERMES, '<tool_call>{"name": "", "arguments": {}}', '<tool_call>{"name": "", "arguments": {}}', []),
    ("other order", HERMES, '<tool_call>{"arguments": {}}', '<tool_call>{"arguments": {}}', []),
    (
        "garbage, then a call",
        HERMES,
        '<tool_call><tool_call>{"name": "a", "arguments": {}}',
        "<tool_call>",
        [("a", "{}", True)],
    ),
    (
        "garbage behind a call",
        HERMES,
        '<tool_call>{"name": "a", "arguments": {}}</tool_call><tool_call>no',
        "<tool_call>no",
        [("a", "{}", True)],
    ),
    ("part of a trigger", HERMES, "a <tool_", "a <tool_", []),
    ("a closing tag alone", HERMES, "</tool_call>", "</tool_call>", []),
    ("nothing", HERMES, "", "", []),
    ("one", MISTRAL, '[TOOL_CALLS][{"name": "a", "arguments": {"x": [1]}}]', "", [("a", '{"x": [1]}', True)]),
    (
        "two",
        MISTRAL,
        '[TOOL_CALLS] [{"name": "a", "arguments": {}}, {"name": "b", "arguments": {}}]',
        "",
        [("a", "{}", True), ("b", "{}", True)],
    ),
    ("text", MISTRAL, 'hm [TOOL_CALLS][{"name": "a", "arguments": {}}]  so', "hm so", [("a", "{}", True)]),
    ("garbage", MISTRAL, "[TOOL_CALLS]{}", "[TOOL_CALLS]{}", []),
    (
        "garbage behind a comma",
        MISTRAL,
        '[TOOL_CALLS][{"name": "a", "arguments": {}}, no',
        " no",
        [("a", "{}", True)],
    ),
    ("one", MISTRAL_ARGS, '[TOOL_CALLS]a[ARGS]{"x": 1}', "", [("a", '{"x": 1}', True)]),
    ("white space", MISTRAL_ARGS, '[TOOL_CALLS] a [ARGS] {"x": 1}', "", [("a", '{"x": 1}', True)]),
    (
        "two",
        MISTRAL_ARGS,
        '[TOOL_CALLS]a[ARGS]{"x": "[TOOL_CALLS]"}[TOOL_CALLS]b[ARGS]{}',
        "",
        [("a", '{"x": "[TOOL_CALLS]"}', True), ("b", "{}", True)],
    ),
    ("garbage", MISTRAL_ARGS, "[TOOL_CALLS]!", "[TOOL_CALLS]!", []),
    ("one", LLAMA, '{"name": "a", "parameters": {"x": 1}}', "", [("a", '{"x": 1}', True)]),
    ("white space before", LLAMA, '\n {"name": "a", "parameters": {}}', "\n ", [("a", "{}", True)]),
    ("text before", LLAMA, 'so {"name": "a", "parameters": {}}', 'so {"name": "a", "parameters": {}}', []),
    ("another object", LLAMA, '{"name": "Bob", "age": 3}', '{"name": "Bob", "age": 3}', []),
    ("cut", LLAMA, '{"name": "a", "parameters": {"x"', "", [("a", '{"x"', False)]),
    (
        "only the first",
        LLAMA,
        '{"name": "a", "parameters": {}}; {"name": "b", "parameters": {}}',
        '; {"name": "b", "parameters": {}}',
        [("a", "{}", True)],
    ),
]
NAMES = {id(HERMES): "hermes", id(MISTRAL): "mistral", id(MISTRAL_ARGS): "mistral-args", id(LLAMA): "llama"}


@pytest.mark.parametrize(
    ("format", "text", "answer", "calls"),
    [case[1:] for case in CASES],
    ids=[f"{NAMES[id(case[1])]}: {case[0]}" for case in CASES],
)
def test_every_split_gives_the_same(format: ToolFormat, text: str, answer: str, calls: list[Call]) -> None:
    for pieces in splits(text):
        assert split_up(format, pieces) == (answer, calls), pieces


_HEAD = {
    "hermes": r'<tool_call>\s*\{\s*"name"\s*:\s*"([\w.-]+)\s*"\s*,\s*"arguments"\s*:\s*',
    "args": r"\[TOOL_CALLS\]\s*([\w.-]+)\s*\[ARGS\]\s*",
}
_BEHIND = {"hermes": r"(?:\s*\})?(?:\s*</tool_call>)?\s*", "args": r"\s*"}
_END = "§"  # no format goes on with it, so that nothing is left open


def reference(kind: str, trigger: str, text: str) -> tuple[str, list[Call]]:
    """What the docstring of CallReader says, for one who sees the whole text."""
    answer, calls = "", list[Call]()
    while (at := text.find(trigger)) >= 0:
        answer, text = answer + text[:at], text[at:]
        head = re.match(_HEAD[kind], text)
        if head is None:
            answer, text = answer + trigger, text[len(trigger) :]
            continue
        text = text[head.end() :]
        try:
            _, end = json.JSONDecoder().raw_decode(text)
        except ValueError:
            return answer, [*calls, (head[1], text, False)]
        calls.append((head[1], text[:end], True))
        behind = re.match(_BEHIND[kind], text[end:])
        assert behind is not None
        text = text[end + behind.end() :]
    return answer + text, calls


_ATOMS = {
    "hermes": [
        "<tool_call>",
        "</tool_call>",
        '{"name": "',
        "f",
        '", "arguments": ',
        '{"x": [1, "}"]}',
        "{}",
        "}",
        "\n",
    ],
    "args": ["[TOOL_CALLS]", "f", " g", "[ARGS]", '{"x": "]"}', "{}", "\n", "[", "!"],
}
_WHOLE = {
    "hermes": '<tool_call>\n{"name": "f", "arguments": {"x": "\\"}"}}\n</tool_call>',
    "args": '[TOOL_CALLS]f[ARGS]{"x": "\\"}"}',
}


@settings(max_examples=600, deadline=None, derandomize=True)
@given(st.sampled_from(["hermes", "args"]), st.data())
def test_any_text_at_any_split(kind: str, data: st.DataObject) -> None:
    format = HERMES if kind == "hermes" else MISTRAL_ARGS
    text = "".join(data.draw(st.lists(st.sampled_from([*_ATOMS[kind], _WHOLE[kind], "a "]), max_size=8)))
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(text))))))
    answer, calls = split_up(format, cut(text + _END, cuts))
    assert (answer, calls) == split_up(format, [text + _END])
    expected = reference(kind, format.trigger, text + _END)
    if all(is_complete and arguments[0] == "{" for _, arguments, is_complete in expected[1]):  # else it is no object
        assert (answer, calls) == expected


def test_arguments_arrive_as_they_come() -> None:
    reader = CallReader(HERMES)
    shown = [
        [(part.kind, part.text) for part in reader.feed(piece)]
        for piece in ("so", "<tool", '_call>{"name": "a"', ', "arguments": ', '{"x"', ": 1", "}", "}", "</tool_call>")
    ]
    call = "tool_call"
    assert shown == [[("text", "so")], [], [], [(call, "")], [(call, '{"x"')], [(call, ": 1")], [(call, "}")], [], []]


@pytest.mark.parametrize(
    ("format", "pattern"),
    [(HERMES, "call_[0-9a-f]{24}"), (MISTRAL, "[A-Za-z0-9]{9}"), (MISTRAL_ARGS, "[A-Za-z0-9]{9}")],
    ids=["hermes", "mistral", "mistral-args"],
)
def test_every_call_has_an_id_of_its_own(format: ToolFormat, pattern: str) -> None:
    texts = {
        id(HERMES): '<tool_call>{"name": "a", "arguments": {}}</tool_call>' * 50,
        id(MISTRAL): "[TOOL_CALLS][" + ", ".join(['{"name": "a", "arguments": {}}'] * 50) + "]",
        id(MISTRAL_ARGS): "[TOOL_CALLS]a[ARGS]{}" * 50,
    }
    ids = [call.id for call in Accumulator(CallReader(format).feed(texts[id(format)])).tool_calls]
    assert len(set(ids)) == 50
    assert all(re.fullmatch(pattern, id) for id in ids)


def test_it_knows_which_text_would_reach_over_a_trigger() -> None:
    reader = CallReader(HERMES)
    reader.feed("a <tool_ca")
    assert reader.overshoots('ll>{"')
    assert not reader.overshoots("ll>\n")
    assert not reader.overshoots("ll> ")
    assert not reader.overshoots("x>{")
    reader.feed("ll>")
    assert not reader.overshoots("<tool_call>{")


@pytest.mark.parametrize(
    ("template", "format"),
    [
        (HERMES_TEMPLATE, HERMES),
        (MISTRAL_TEMPLATE, MISTRAL),
        (MISTRAL_ARGS_TEMPLATE, MISTRAL_ARGS),
        (LLAMA_TEMPLATE, LLAMA),
        ("{{ messages[0] }}", None),
        ("{{ tools }}", None),
        ("<tool_call>", None),
    ],
)
def test_the_format_is_found_in_the_template(template: str, format: ToolFormat | None) -> None:
    assert format_of(template) == format


def test_tools_in_words() -> None:
    tool: dict[str, Any] = {"type": "function", "function": {"name": "add", "description": "ä", "parameters": {}}}
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"x": 1}'}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "two", "tool_call_id": "1"},
        {"role": "assistant", "content": "it is two"},
    ]
    before = json.dumps(messages)
    turns = with_instructions(messages, [tool])
    assert json.dumps(messages) == before, "the caller's messages were changed"
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user", "assistant"]
    assert json.dumps(tool, ensure_ascii=False) in turns[0]["content"]
    assert turns[3]["content"] == "<tool_response>\ntwo\n</tool_response>"
    # What is shown to the model of its earlier call is what would be read as one.
    assert split_up(HERMES, [turns[2]["content"]]) == ("", [("add", '{"x": 1}', True)])
    assert with_instructions([{"role": "system", "content": "Be brief."}, *messages], [tool])[0]["content"].startswith(
        "Be brief.\n\n"
    )
    assert [turn["role"] for turn in with_instructions(messages, [])] == ["user", "assistant", "user", "assistant"]


# The whole way through an engine.

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
