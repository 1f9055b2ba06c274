"""The responses endpoint with thoughts, tools and forms: its items at every split, what goes in, what is refused."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from harness import BYTES, UNHURRIED, echo, ids, run_async

from headrace import Model, Pricing, StreamConfig
from headrace.chat.tool_formats import HERMES
from headrace.engine.output import Output
from headrace.server import Settings, create_app
from headrace.server.openai.responses_output import OutputWriter
from headrace.server.openai.responses_schema import ResponseObject
from headrace.values.output_format import OutputFormat, Tags
from headrace.values.results import Part, Token
from server.harness import MODEL, TEMPLATE, Server, Socket, events_of, running
from server.openai.responding import PATH, ask, checked, items_of, open_response, request, said

THINKS = TEMPLATE + "{# <think></think> #}"
THOUGHT, ANSWER = "hm, é 🌊", "So: 5 <b>!"
CALL = '<tool_call>\n{{"name": "{}", "arguments": {}}}\n</tool_call>'
ADD, NAME = '{"a": 2, "b": [3, "}"]}', '{"name": "Ada"}'
OUTPUT = f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}\n{CALL.format('add', ADD)}\n{CALL.format('name', NAME)}"
CALLS = OUTPUT[OUTPUT.index("<tool_call>") :]

NUMBERS = {"type": "array", "items": {}}
TOOLS = [
    {
        "type": "function",
        "name": "add",
        "description": "Adds.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": NUMBERS}},
        "strict": False,
    },
    {"type": "function", "name": "name", "parameters": {"type": "object", "properties": {"name": {"type": "string"}}}},
]


def shapes(items: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Items without what is made up: their kinds, contents and ends."""
    found: list[tuple[Any, ...]] = []
    for item in items:
        kind, status = item["type"], item["status"]
        if kind == "function_call":
            assert item["call_id"].startswith("call_")
            found.append((kind, item["name"], item["arguments"], status))
        else:
            found.append((kind, "".join(part["text"] for part in item["content"]), status))
    ids = [item["id"] for item in items] + [item["call_id"] for item in items if "call_id" in item]
    assert len(set(ids)) == len(ids)
    return found


WHOLE = [
    ("reasoning", THOUGHT, "completed"),
    ("message", f"{ANSWER}\n", "completed"),
    ("function_call", "add", ADD, "completed"),
    ("function_call", "name", NAME, "completed"),
]


async def both_of(server: Server, **body: Any) -> dict[str, Any]:
    """The response, which is the same streamed and whole."""
    whole = await open_response(server, "r1", **body).until_over()
    assert whole.status == 200, whole.body
    await server.settled()  # the id is free again
    streamed = checked(await open_response(server, "r1", stream=True, **body).until_over())[-1]["response"]
    await server.settled()
    response = whole.json
    ResponseObject.model_validate_json(whole.body)
    assert shapes(response["output"]) == shapes(streamed["output"])
    assert response["usage"]["output_tokens_details"] == streamed["usage"]["output_tokens_details"]
    volatile = dict.fromkeys(("created_at", "completed_at", "timings", "output", "usage"))
    assert {**response, **volatile} == {**streamed, **volatile}
    return response


def both(script: Any, **body: Any) -> dict[str, Any]:
    """The same of a server of its own."""
    options = {name: body.pop(name) for name in ("chat_template", "config", "pieces") if name in body}

    async def run() -> dict[str, Any]:
        async with running(script, **options) as server:
            return await both_of(server, **body)

    return run_async(run())


# Items


def tokens_of(pieces: list[bytes]) -> list[Token]:
    """Tokens with these bytes, and what each of them shows, as the engine makes them."""
    output = Output(StreamConfig(), OutputFormat(tags=Tags("<think>", "</think>"), tools=HERMES))
    tokens: list[Token] = []
    for index, piece in enumerate(pieces):
        output.feed(piece)
        is_last = index == len(pieces) - 1
        if is_last:
            output.flush()
        part = output.take() or Part(output.kind, "")
        rest = output.take_rest() if is_last else ()
        tokens.append(Token(part.text, 1, index, 0.0, kind=part.kind, tool_call=part.tool_call, rest=rest))
    return tokens


def written(pieces: list[bytes]) -> list[dict[str, Any]]:
    """The items that tokens with these bytes become; their events are checked."""
    writer = OutputWriter("r1")
    events = b"".join(event for token in tokens_of(pieces) for event in writer.feed(token.parts))
    events += b"".join(writer.close("completed"))
    put_together = items_of([json.loads(event.data) for event in events_of(events)])
    assert put_together == writer.output("completed")
    return put_together


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 1000])
def test_items_of_pieces_of_every_size(size: int) -> None:
    data = OUTPUT.encode()
    assert shapes(written([data[at : at + size] for at in range(0, len(data), size)])) == WHOLE


def test_items_at_every_split() -> None:
    data = OUTPUT.encode()
    for first in range(1, len(data), 3):
        for second in range(first, len(data)):
            pieces = [data[:first], data[first:second], data[second:]]
            assert shapes(written([piece for piece in pieces if piece])) == WHOLE, pieces


def test_a_text_behind_a_call_is_an_item_of_its_own() -> None:
    items = written([f"{CALL.format('add', ADD)} and so on".encode()])
    assert shapes(items) == [("function_call", "add", ADD, "completed"), ("message", "and so on", "completed")]


def test_an_answer_that_is_empty_is_a_message() -> None:
    response = both("")
    assert shapes(response["output"]) == [("message", "", "completed")]


# Thoughts


def test_a_thought_is_an_item() -> None:
    script = f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}"
    response = both(script, chat_template=THINKS)
    assert shapes(response["output"]) == [*WHOLE[:1], ("message", ANSWER, "completed")]
    thought = response["output"][0]
    assert thought == {
        "id": "rs_r1_0",
        "type": "reasoning",
        "status": "completed",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": THOUGHT}],
    }
    details = response["usage"]["output_tokens_details"]
    assert details["reasoning_tokens"] == len(f"<think>\n{THOUGHT}\n</think>".encode())


@pytest.mark.parametrize(
    ("limit", "shape"),
    [
        (3, [("message", "<th", "incomplete")]),
        (len("<think>\nhm,"), [("reasoning", "hm,", "incomplete")]),
        (len("<think>\nhm, so\n</thi"), [("reasoning", "hm, so\n</thi", "incomplete")]),
        (len("<think>\nhm, so\n</think>"), [("reasoning", "hm, so", "incomplete")]),
        (
            len("<think>\nhm, so\n</think>\n\nYe"),
            [("reasoning", "hm, so", "completed"), ("message", "Ye", "incomplete")],
        ),
    ],
)
def test_a_limit_in_every_stage_of_a_thought(limit: int, shape: list[Any]) -> None:
    script = "<think>\nhm, so\n</think>\n\nYes."
    response = both(script, chat_template=THINKS, max_output_tokens=limit)
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert shapes(response["output"]) == shape


def test_a_last_token_with_two_kinds_of_text() -> None:
    pieces = {**BYTES, 300: b"<think>hm</think>So: "}
    for include in (None, ["message.output_text.logprobs"]):
        body = {"chat_template": THINKS, "max_output_tokens": 1, "include": include}
        response = both([300, *ids("x")], pieces=pieces, **body)
        assert shapes(response["output"]) == [("reasoning", "hm", "completed"), ("message", "So: ", "incomplete")]


def test_thinking_has_three_forms_and_a_budget() -> None:
    script = "<think>\nhm, so\n</think>\n\nYes."
    hidden = both(script, chat_template=THINKS, thinking="hide")
    assert shapes(hidden["output"]) == [("message", "Yes.", "completed")]
    raw = both(script, chat_template=THINKS, thinking="raw")
    assert shapes(raw["output"]) == [("message", script, "completed")]
    cut = both(ids("<think>\nhm") + ids("Yes."), chat_template=THINKS, thinking_budget=3)
    assert shapes(cut["output"]) == [("reasoning", "hm", "completed"), ("message", "Yes.", "completed")]


def test_effort() -> None:
    response = both("Yes.", chat_template=THINKS, reasoning={"effort": "none"})
    assert response["reasoning"] == {"effort": "none", "summary": None}
    template = "{{ reasoning_effort }}" + TEMPLATE
    assert said(ask(echo, chat_template=template, reasoning={"effort": "low"})).startswith("[low<user>hi]")
    assert said(ask(echo, chat_template="{{ x }}" + TEMPLATE, chat_template_kwargs={"x": 7})).startswith("[7<user>hi]")
    refused = ask("Yes.", chat_template=THINKS, reasoning={"effort": "low"})
    assert (refused.status, refused.error["param"]) == (400, "reasoning.effort")


def test_log_probabilities_are_those_of_the_answer() -> None:
    script = f"<think>\nhm\n</think>\n\nSo: 5\n{CALL.format('add', ADD)}"
    body = {"chat_template": THINKS, "tools": TOOLS, "include": ["message.output_text.logprobs"]}
    for response in (ask(script, **body).json, checked(ask(script, stream=True, **body))[-1]["response"]):
        (part,) = response["output"][1]["content"]
        assert part["text"] == "So: 5\n"
        assert "".join(entry["token"] for entry in part["logprobs"]) == part["text"]


# Calls


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


@pytest.mark.parametrize("first", range(1, 9))
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


# What goes in

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
