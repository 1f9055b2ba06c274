"""`/v1/responses`: tool calls, and formats of the answer."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from cases import sampled
from harness import UNHURRIED, echo, run_async

from headrace import Model, Pricing
from headrace.server import Settings, create_app
from server.harness import MODEL, Socket, running
from server.openai.responding import PATH, ask, checked, open_response, request, said
from server.openai.responding_tools import (
    ADD,
    ANSWER,
    CALL,
    CALLS,
    NAME,
    OUTPUT,
    THINKS,
    TOOLS,
    WHOLE,
    both,
    shapes,
)


def test_calls_are_items() -> None:
    response = both(OUTPUT, chat_template=THINKS, tools=TOOLS)
    assert shapes(response["output"]) == WHOLE
    assert (response["status"], response["incomplete_details"], response["error"]) == ("completed", None, None)
    call = response["output"][2]
    assert set(call) == {"id", "type", "status", "call_id", "name", "arguments"}
    assert call["id"] == "fc_r1_2"


def test_the_events_of_a_call() -> None:
    script = CALL.format("add", ADD)
    events = checked(ask(script, stream=True, tools=TOOLS, tool_choice="required", parallel_tool_calls=False))
    added, *deltas, done, item_done = events[2:-1]
    assert added["item"]["arguments"] == ""
    assert all(set(delta) == {"type", "sequence_number", "item_id", "output_index", "delta"} for delta in deltas)
    assert "".join(delta["delta"] for delta in deltas) == ADD
    assert all(delta["delta"] for delta in deltas), "an empty delta says nothing"
    assert set(done) == {"type", "sequence_number", "item_id", "output_index", "name", "arguments"}
    assert item_done["item"]["status"] == "completed"
    assert events[-1]["response"]["output"] == [item_done["item"]]


def test_what_was_asked_for_is_shown() -> None:
    choice = {"type": "function", "name": "name"}
    response = both(CALL.format("name", NAME), tools=TOOLS, tool_choice=choice, parallel_tool_calls=False)
    assert (response["tool_choice"], response["parallel_tool_calls"]) == (choice, False)
    add, name = response["tools"]
    assert add == TOOLS[0]
    assert name == {**TOOLS[1], "description": None, "strict": True}


@pytest.mark.parametrize("first", sampled(range(1, 9), 3))
def test_a_limit_at_every_place_of_calls(first: int) -> None:
    async def run() -> None:
        async with running(CALLS) as server:
            for limit in range(first, len(CALLS), 8):
                body = {"tools": TOOLS, "max_output_tokens": limit, "stream": True}
                response = checked(await open_response(server, "r1", **body).until_over())[-1]["response"]
                await server.settled()
                assert response["status"] == "incomplete"
                cut, items = CALLS[:limit], shapes(response["output"])
                count = cut.count('", "arguments":')
                if not count:  # what may become a trigger is text after all; what follows one is nothing as yet
                    shown = cut if cut in "<tool_call" else ""
                    assert items == [("message", shown, "incomplete")]
                    continue
                calls: list[Any] = []
                for name, arguments in (("add", ADD), ("name", NAME))[:count]:
                    begin = CALLS.index(arguments)
                    written = cut[begin : begin + len(arguments)]
                    status = "completed" if written == arguments else "incomplete"
                    calls.append(("function_call", name, written, status))
                assert items == calls

    run_async(run())


def test_one_call_where_there_may_be_only_one() -> None:
    response = both(CALLS, tools=TOOLS, parallel_tool_calls=False)
    assert shapes(response["output"]) == WHOLE[2:3]
    assert response["status"] == "completed"


@pytest.mark.parametrize(
    ("choice", "name"),
    [
        ("required", "add"),
        ({"type": "function", "name": "name"}, "name"),
        ({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "name"}]}, "name"),
    ],
)
def test_a_tool_that_has_to_be_called(choice: Any, name: str) -> None:
    # The script knows only arguments: all the rest may be nothing else.
    arguments = {"add": ADD, "name": NAME}[name]
    script = CALL.format(name, arguments)
    response = both(script, tools=TOOLS, tool_choice=choice, parallel_tool_calls=False)
    assert shapes(response["output"]) == [("function_call", name, arguments, "completed")]
    refused = ask("No, thanks.", tools=TOOLS, tool_choice=choice)
    assert refused.status == 500, "this model can only say what its script has"


def test_none_shows_the_model_no_tools() -> None:
    assert said(ask(echo, tools=TOOLS, tool_choice="none")) == "[<user>hi]" * 3


def test_a_price_is_shown_where_there_is_one() -> None:
    config = UNHURRIED.replace(pricing=Pricing(prompt=2_000_000, completion=1_000_000, currency="EUR"))
    usage = both("abc", config=config)["usage"]
    assert (usage["cost"], usage["cost_currency"]) == (2 * len("<user>hi") + 4, "EUR")
    assert set(both("abc")["usage"]).isdisjoint({"cost", "cost_currency"})


# A real model

REGEX = r"<think>\n[a-z ]{5,20}\n</think>\n\nHello [a-z]{1,9}\."
DIGIT = {"type": "integer", "minimum": 0, "maximum": 9}
DIGITS = {
    "type": "function",
    "name": "add",
    "parameters": {
        "type": "object",
        "properties": {"a": DIGIT, "b": DIGIT},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
}


def test_a_real_model_thinks_answers_and_calls() -> None:
    """SmolLM2 does none of it by itself, so its tokens are forced; the way from its logits to here is real."""

    async def run() -> None:
        with Model.load("smollm2", n_ctx=2048, n_threads=1) as model:
            app = create_app({MODEL: model}, Settings(timeout_ms=0))
            thought = {"thinking_tags": ["<think>", "</think>"], "regex": REGEX}
            for body in (thought, {"tools": [DIGITS], "tool_choice": "required", "parallel_tool_calls": False}):
                asked = request(input="Add 2 and 3.", temperature=0, max_output_tokens=100, **body)
                whole = await Socket(app, "POST", PATH, asked, {"X-Request-Id": "r1"}).start().until_over()
                await app.state.service.settle()
                streamed = Socket(app, "POST", PATH, {**asked, "stream": True}, {"X-Request-Id": "r1"}).start()
                response = checked(await streamed.until_over())[-1]["response"]
                await app.state.service.settle()
                assert response["status"] == whole.json["status"] == "completed", response
                for output in (response["output"], whole.json["output"]):
                    if body is thought:
                        reasoning, message = shapes(output)
                        assert re.fullmatch("[a-z ]{5,20}", reasoning[1])
                        assert re.fullmatch(r"Hello [a-z]{1,9}\.", message[1])
                    else:
                        ((*call, arguments, status),) = shapes(output)
                        assert (call, status) == (["function_call", "add"], "completed")
                        assert all(number in range(10) for number in json.loads(arguments).values())
                details = response["usage"]["output_tokens_details"]
                assert (details["reasoning_tokens"] > 0) == (body is thought)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("place", "kinds"),
    [
        ("<think>", []),
        ("<think>\nhm", ["reasoning"]),
        (OUTPUT[: OUTPUT.index(ANSWER) + 2], ["reasoning", "message"]),
        (OUTPUT[: OUTPUT.index(ADD) + 5], ["reasoning", "message", "function_call"]),
        (OUTPUT[: OUTPUT.index(NAME) + 2], ["reasoning", "message", "function_call", "function_call"]),
    ],
)
def test_a_failure_in_every_item(place: str, kinds: list[str]) -> None:
    left = len(place.encode())

    def fail(part: Any, sample: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise RuntimeError("broken")

    events = checked(ask(OUTPUT, on_sample=fail, chat_template=THINKS, tools=TOOLS, stream=True))
    response = events[-1]["response"]
    assert (response["status"], response["usage"]) == ("failed", None)
    assert [item["type"] for item in response["output"]] == kinds
    assert [item["status"] for item in response["output"]] == [*["completed"] * (len(kinds) - 1), "incomplete"][
        : len(kinds)
    ]


# Forms

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}


@pytest.mark.parametrize(
    ("body", "text", "shown"),
    [
        ({"text": {"format": {"type": "text"}}}, "{]", {"type": "text"}),
        ({"text": {"format": {"type": "json_object"}}}, '{"a":[1]}', {"type": "json_object"}),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}}},
            '{"a":1}',
            {"type": "json_schema", "name": "n", "description": None, "schema": SCHEMA, "strict": True},
        ),
        ({"json_schema": SCHEMA}, '{"a":1}', {"type": "text"}),
        ({"regex": "[ab]+c"}, "abac", {"type": "text"}),
        ({"grammar": 'start: ("x" | "y") "z"'}, "yz", {"type": "text"}),
    ],
)
def test_every_form(body: Any, text: str, shown: Any) -> None:
    response = both(text, **body)
    assert shapes(response["output"]) == [("message", text, "completed")]
    assert response["text"] == {"format": shown}
    if shown != {"type": "text"} or "text" not in body:
        assert ask("{]", **body).status == 500, "this model can only say what its script has"


def test_a_thought_comes_before_the_form() -> None:
    body = {"text": {"format": {"type": "json_object"}}, "chat_template": THINKS}
    response = both('<think>{]</think>{"a": 1}', **body)
    assert shapes(response["output"]) == [("reasoning", "{]", "completed"), ("message", '{"a": 1}', "completed")]
