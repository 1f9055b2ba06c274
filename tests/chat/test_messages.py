"""Messages of all kinds make a prompt, or a clear error: real templates, odd messages, hostile tools."""

from __future__ import annotations

import logging
import os
import signal
import threading
from decimal import Decimal
from typing import Any

import pytest
from harness import PATIENCE, ids, scripted, within

from headrace import InvalidRequestError
from headrace.chat.tool_formats import format_of
from headrace.structured.schema import Schema

PLAIN = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
KNOWS_THOUGHTS = PLAIN + "{# </think> #}"
OPENS_THOUGHTS = KNOWS_THOUGHTS.replace("assistant: ", "assistant: <think>\n")
CLOSES_THOUGHTS = KNOWS_THOUGHTS.replace("assistant: ", "assistant: <think>\n\n</think>\n\n")
HERMES = '{# tools <tool_call> "arguments" #}'
HI = {"role": "user", "content": "Hi"}
CALL = '<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call>'
COUNT: dict[str, Any] = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}


def tool(parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "look", "parameters": parameters}}


def called(*calls: object) -> list[dict[str, Any]]:
    return [HI, {"role": "assistant", "content": None, "tool_calls": list(calls)}, HI]


# Messages.


def test_a_template_that_looks_into_contents_takes_calls_without_one() -> None:
    template = "{% for m in messages if '</think>' not in m.content %}{{ m.role }}.{% endfor %}" + HERMES
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    with scripted(chat_template=template) as s:
        assert s.model.apply_chat_template(called(call)) == "user.assistant.user."


@pytest.mark.parametrize("template", [PLAIN, PLAIN + HERMES])
@pytest.mark.parametrize(
    ("call", "field"),
    [
        (1, ""),
        ("x", ""),
        ({}, ""),
        ({"function": {"arguments": "{}"}}, ".function.name"),
        ({"function": {"name": "look"}}, ".function.arguments"),
        ({"function": {"name": "look", "arguments": None}}, ".function.arguments"),
    ],
)
def test_calls_in_messages_that_are_none(template: str, call: object, field: str) -> None:
    with scripted(chat_template=template) as s, pytest.raises(InvalidRequestError) as caught:
        s.model.chat(called(call))
    assert caught.value.field == f"messages[1].tool_calls[0]{field}"


def test_arguments_in_messages_may_be_a_mapping() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": {"deep": True}}}
    with scripted(chat_template=PLAIN) as s:
        assert '{"name": "look", "arguments": {"deep": true}}' in s.model.apply_chat_template(called(call))


@pytest.mark.parametrize("name", ["messages", "tools", "self", "continue_final_message", "bos_token", 1])
def test_template_kwargs_do_not_replace_what_a_template_has_from_elsewhere(name: object) -> None:
    with scripted(chat_template=PLAIN) as s, pytest.raises(InvalidRequestError, match="template_kwargs"):
        s.model.chat([HI], template_kwargs={name: []})


# Thoughts.


@pytest.mark.parametrize("words", ["What is <think>", "<think>", "<think>\n", "Hi"])
def test_no_words_of_a_user_uncover_a_thought(words: str) -> None:
    with scripted("secret</think>answer", chat_template=OPENS_THOUGHTS) as s:
        result = s.model.chat([{"role": "user", "content": words}], thinking="hide")
    assert result.text == "answer"


def test_a_tag_that_the_user_wrote_last_opens_a_thought_in_no_chat() -> None:
    with scripted("answer", chat_template="{{ messages[-1].content }}{# </think> #}") as s:
        assert s.model.chat([{"role": "user", "content": "What is <think>"}]).text == "answer"


@pytest.mark.parametrize(
    ("begun", "thinking"),
    [("The tag <think>", None), ("<think>so", "it is"), ("<think>so</think>Well", None)],
)
def test_which_answers_are_continued_inside_a_thought(begun: str, thinking: str | None) -> None:
    with scripted("it is", chat_template=KNOWS_THOUGHTS) as s:
        result = s.model.chat([HI, {"role": "assistant", "content": begun}], continue_final_message=True)
    assert (result.thinking, result.text) == (thinking, "" if thinking else "it is")


@pytest.mark.parametrize("thought", ["<think>hm</think>", ""])
def test_no_thought_comes_before_an_object_where_the_template_has_closed_it(thought: str) -> None:
    with scripted(thought + '{"n": 1}', chat_template=CLOSES_THOUGHTS) as s:
        stream = s.model.chat_stream([HI], json_schema=COUNT)
        if thought:
            with pytest.raises(Exception, match="may not come here"):
                stream.result()
        else:
            assert stream.result().parsed == {"n": 1}


# Tools.


def test_a_call_that_is_required_comes_although_there_is_a_schema_for_the_answer() -> None:
    with scripted(ids('{"n": 1}') + ids(CALL), chat_template=PLAIN) as s:
        stream = s.model.chat_stream([HI], tools=[tool({})], tool_choice="required", json_schema=COUNT)
        with pytest.raises(Exception, match="may not come here"):  # the script would rather answer
            stream.result()
    with scripted(CALL, chat_template=PLAIN) as s:
        result = s.model.chat([HI], tools=[tool({})], tool_choice="required", json_schema=COUNT)
    assert result.finish_reason == "tool_calls"


def test_arguments_are_an_object_wherever_the_schema_says_so() -> None:
    referring = {"$ref": "#/$defs/a", "$defs": {"a": {"type": ["object", "null"]}}}
    with scripted(CALL.replace("{}", "null"), chat_template=PLAIN) as s:
        stream = s.model.chat_stream([HI], tools=[tool(referring)], tool_choice="required")
        with pytest.raises(Exception, match="may not come here"):
            stream.result()


def test_a_tool_that_nothing_fits_is_named() -> None:
    impossible = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 3, "maximum": 2}}}
    tools = [tool({}), tool({**impossible, "required": ["n"]})]
    tools[1]["function"]["name"] = "impossible"
    with scripted(chat_template=PLAIN) as s, pytest.raises(InvalidRequestError) as caught:
        s.model.chat([HI], tools=tools)
    assert caught.value.field == "tools[1].function.parameters"


def test_a_result_with_a_nul_is_one() -> None:
    def look() -> str:
        return "a\0b"

    def script(prompt: tuple[int, ...]) -> list[int]:
        return ids("done") if bytes(id - 1 for id in prompt).decode().count("\ufffd") else ids(CALL)

    with scripted(script, chat_template=PLAIN) as s:
        run = within(s.model.run_tools, [HI], [look])
    assert run.messages[2]["content"] == "a\ufffdb"
    assert run.text == "done"


def test_ctrl_c_while_tools_run_is_all_that_is_heard(caplog: pytest.LogCaptureFixture) -> None:
    over = threading.Event()

    def look() -> str:
        os.kill(os.getpid(), signal.SIGINT)
        over.wait(PATIENCE)
        return ""

    with scripted(CALL, chat_template=PLAIN) as s, caplog.at_level(logging.WARNING):
        with pytest.raises(KeyboardInterrupt):
            s.model.run_tools([HI], [look])
        over.set()
    assert caplog.messages == []


@pytest.mark.parametrize(
    "template",
    [
        # Command R7B and Apriel: they list tools as others do, and write calls as nobody else does.
        '{% for t in tools %}{"name": "{{ t.function.name }}", "parameters": {{ t.function.parameters }}}{% endfor %}',
        '{{ tools }} within <tool_call></tool_call>: <tool_calls>[{"name": <name>, "arguments": <dict>}]</tool_calls>',
    ],
)
def test_a_format_that_is_only_similar_is_not_known(template: str) -> None:
    assert format_of(template) is None


# Objects.


def test_a_decimal_is_a_number() -> None:
    schema = Schema.of("json_schema", Decimal)
    assert schema.json == {"type": "number"}
    assert schema.parse("2.5") == Decimal("2.5")


NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% if loop.index0 and m.role == messages[loop.index0 - 1].role %}{{ raise_exception('twice') }}{% endif %}"
    "{{ m.role }}: {{ m.content }}\n{% endfor %}"
)


def test_a_template_without_system_messages_is_told_of_tools_by_the_first_message() -> None:
    results = [{"role": "tool", "tool_call_id": id, "content": id} for id in ("c1", "c2")]
    calls = [{"id": id, "type": "function", "function": {"name": "look", "arguments": "{}"}} for id in ("c1", "c2")]
    turns = [HI, {"role": "assistant", "content": None, "tool_calls": calls}, *results]
    with scripted(chat_template=NO_SYSTEM) as made:
        text = made.model.apply_chat_template(turns, tools=[tool(COUNT)])
        with pytest.raises(InvalidRequestError, match="System role"):
            made.model.apply_chat_template([{"role": "system", "content": "be"}, *turns], tools=[tool(COUNT)])
    assert text.startswith("user: You may call")
    assert text.count("user: ") == 2
    assert "\n\nHi\n" in text
    assert "<tool_response>\nc1\n</tool_response>\n<tool_response>\nc2\n</tool_response>" in text
