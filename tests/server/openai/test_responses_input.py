"""`/v1/responses`: outputs that are sent back as input, and input that is refused."""

from __future__ import annotations

from typing import Any

import pytest
from harness import echo, run_async

from server.harness import running
from server.openai.responding import PATH, ask, request, said
from server.openai.responding_tools import (
    CALL,
    OUTPUT,
    THINKS,
    TOOLS,
)

SAID = [{"role": "user", "content": "2+3?"}]
THOUGHT_ITEM = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
CALL_ITEM = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "add", "arguments": '{"a": 2}'}
OTHER_CALL = {"type": "function_call", "call_id": "c2", "name": "name", "arguments": "{}", "status": "completed"}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "5"}
OTHER_RESULT = {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "Ada"}]}
MESSAGE = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Let me see."}]}
SHOWN = (
    "{% for message in messages %}{{ message.role }}({{ message.name }}{{ message.tool_call_id }}"
    "|{{ message.reasoning_content }}|{{ message.content }}"
    "|{% for call in message.tool_calls %}{{ call.id }}{{ call.function.name }}{{ call.function.arguments }};"
    '{% endfor %}){% endfor %}{# tools <tool_call> "arguments" #}'
)


@pytest.mark.parametrize(
    ("items", "prompt"),
    [
        ([CALL_ITEM, RESULT], "assistant(|||c1add{'a': 2};)tool(addc1||5|)"),
        (
            [CALL_ITEM, OTHER_CALL, OTHER_RESULT, RESULT],
            "assistant(|||c1add{'a': 2};c2name{};)tool(namec2||Ada|)tool(addc1||5|)",
        ),
        (
            [THOUGHT_ITEM, MESSAGE, CALL_ITEM, RESULT, MESSAGE],
            "assistant(|hm|Let me see.|c1add{'a': 2};)tool(addc1||5|)assistant(||Let me see.|)",
        ),
        ([THOUGHT_ITEM, CALL_ITEM, RESULT], "assistant(|hm||c1add{'a': 2};)tool(addc1||5|)"),
        ([THOUGHT_ITEM, *SAID], "assistant(|hm||)user(||2+3?|)"),
        ([THOUGHT_ITEM, THOUGHT_ITEM, MESSAGE, *SAID], "assistant(|hm\nhm|Let me see.|)user(||2+3?|)"),
        ([MESSAGE, THOUGHT_ITEM, MESSAGE, *SAID], "assistant(||Let me see.|)assistant(|hm|Let me see.|)user(||2+3?|)"),
        (
            [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "short"}]}, MESSAGE, *SAID],
            "assistant(|short|Let me see.|)user(||2+3?|)",
        ),
        (
            [{"type": "reasoning", "id": "rs_1", "summary": []}, MESSAGE, *SAID],
            "assistant(||Let me see.|)user(||2+3?|)",
        ),
    ],
)
def test_items_of_former_answers_are_messages_again(items: list[Any], prompt: str) -> None:
    answer = ask(echo, chat_template=SHOWN, input=[*SAID, *items])
    assert said(answer) == f"[user(||2+3?|){prompt}]" * 3


def test_an_output_with_calls_can_be_sent_back() -> None:
    async def run() -> None:
        async with running(OUTPUT, chat_template=THINKS) as server:
            first = await server.ask("POST", PATH, request(tools=TOOLS))
            *said, add, name = first.json["output"]
            results = [
                {"type": "function_call_output", "call_id": call["call_id"], "output": "ok"} for call in (add, name)
            ]
            turns = [*SAID, *said, add, name, *results]
            assert (await server.ask("POST", PATH, request(tools=TOOLS, input=turns))).status == 200

    run_async(run())


def test_a_template_without_tools_is_told_in_words() -> None:
    text = said(ask(echo, input=[*SAID, CALL_ITEM, RESULT, *SAID]))
    called = CALL.format("add", '{"a": 2}')
    assert text.startswith(f"[<user>2+3?<assistant>{called}<user><tool_response>\n5\n</tool_response><user>2+3?]")


def tool(**changes: Any) -> list[dict[str, Any]]:
    return [TOOLS[1], {**TOOLS[0], **changes}]


def form(**format: Any) -> dict[str, Any]:
    return {"text": {"format": format}}


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "web_search"),
        ({"tools": [{"type": "custom", "name": "x"}]}, "tools[0].type", "custom"),
        ({"tools": [{"name": "x"}]}, "tools[0].type", "missing"),
        ({"tools": [{"type": "function"}]}, "tools[0].name", "missing"),
        ({"tools": tool(name="a b")}, "tools[1].name", "a b"),
        ({"tools": tool(name="name")}, "tools[1].name", "another tool"),
        ({"tools": tool(colour=1)}, "tools[1].colour", "no such parameter"),
        ({"tools": tool(parameters={"type": "string"})}, "tools[1].parameters.type", "object"),
        ({"tools": tool(parameters=[])}, "tools[1].parameters", "object"),
        ({"tools": tool(parameters={"properties": {"a": {"type": "colour"}}})}, "tools[1].parameters", "colour"),
        (
            {
                "tools": tool(parameters={"properties": {"a": {"type": "colour"}}}),
                "tool_choice": {"type": "function", "name": "add"},
            },
            "tools[1].parameters",
            "colour",
        ),
        ({"tools": {"type": "function"}}, "tools", "array"),
        ({"tools": TOOLS, "tool_choice": "sometimes"}, "tool_choice", "sometimes"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "name": "sub"}}, "tool_choice.name", "sub"),
        ({"tools": TOOLS, "tool_choice": {"type": "file_search"}}, "tool_choice.type", "file_search"),
        ({"tool_choice": "required"}, "tool_choice", "required"),
        ({"tools": TOOLS, "parallel_tool_calls": 1}, "parallel_tool_calls", "boolean"),
        (form(type="yaml"), "text.format.type", "yaml"),
        (form(type="json_schema", name="n"), "text.format.schema", "missing"),
        (form(type="json_schema", name="n", schema={"type": "colour"}), "text.format.schema", "colour"),
        (form(type="json_schema", name="n", schema={"$ref": "#/x"}), "text.format.schema", "#/x"),
        (form(type="json_schema", name="n", schema=5), "text.format.schema", "5"),
        ({**form(type="json_object"), "regex": "a"}, "regex", "text.format"),
        ({"regex": "("}, "regex", "("),
        ({"grammar": "start"}, "grammar", ""),
        ({"regex": "a", "grammar": "start: x"}, "grammar", "regex"),
        ({"thinking": "loud"}, "thinking", "loud"),
        ({"thinking_budget": -1}, "thinking_budget", "0"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort", "huge"),
        ({"reasoning": {"effort": "low"}}, "reasoning.effort", "low"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs", "messages"),
        ({"input": [RESULT]}, "input[0].call_id", "c1"),
        ({"input": [RESULT, CALL_ITEM]}, "input[0].call_id", "c1"),
        ({"input": [*SAID, {**CALL_ITEM, "name": "a\0"}, RESULT]}, "input[1].name", "NUL"),
        ({"input": [*SAID, {**CALL_ITEM, "arguments": "\0"}, RESULT]}, "input[1].arguments", "NUL"),
        ({"input": [*SAID, CALL_ITEM, {**OTHER_CALL, "call_id": "\0"}, RESULT]}, "input[2].call_id", "NUL"),
        ({"input": [*SAID, CALL_ITEM, {**RESULT, "output": "\0"}]}, "input[2].output", "NUL"),
        (
            {"input": [{**THOUGHT_ITEM, "content": [{"type": "reasoning_text", "text": "\0"}]}]},
            "input[0].content",
            "NUL",
        ),
        ({"input": [*SAID, {**CALL_ITEM, "arguments": {}}]}, "input[1].arguments", "string"),
        ({"input": [*SAID, {**CALL_ITEM, "call_id": None}]}, "input[1].call_id", "string"),
        ({"input": [*SAID, CALL_ITEM, {**RESULT, "output": None}]}, "input[2].output", "string or a list"),
        (
            {"input": [*SAID, CALL_ITEM, {**RESULT, "output": [{"type": "input_image", "image_url": "x"}]}]},
            "input[2].output[0].type",
            "input_image",
        ),
        ({"input": [{**THOUGHT_ITEM, "encrypted_content": "x"}]}, "input[0].encrypted_content", "not supported"),
        ({"input": [{**CALL_ITEM, "namespace": "x"}]}, "input[0].namespace", "not supported"),
        ({"input": [{"type": "web_search_call", "id": "x"}]}, "input[0].type", "function_call_output"),
    ],
)
def test_refusals_name_what_is_wrong(body: Any, param: str, says: str) -> None:
    async def run() -> None:
        async with running("fine") as server:
            for stream in (False, True):
                answer = await server.ask("POST", PATH, request(stream=stream, **body))
                assert answer.status == 400, answer.body
                error = answer.error
                assert (error["param"] or "").startswith(param), error
                assert error["message"].startswith(error["param"]), error
                assert says in error["message"], error

    run_async(run())
