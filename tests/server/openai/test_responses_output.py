"""`/v1/responses`: thoughts, answers and tool calls as items of the output."""

from __future__ import annotations

import json
from typing import Any

import pytest
from harness import BYTES, echo, ids

from headrace import StreamConfig
from headrace.chat.tool_formats import HERMES
from headrace.engine.output import Output
from headrace.server.openai.responses_output import OutputWriter
from headrace.values.output_format import OutputFormat, Tags
from headrace.values.results import Part, Token
from server.harness import TEMPLATE, events_of
from server.openai.responding import ask, checked, items_of, said
from server.openai.responding_tools import (
    ADD,
    ANSWER,
    CALL,
    OUTPUT,
    THINKS,
    THOUGHT,
    TOOLS,
    WHOLE,
    both,
    shapes,
)


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
