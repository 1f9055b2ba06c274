"""`/ws` with thoughts, tools and structured output: its frames, and refusals."""

from __future__ import annotations

from typing import Any

import pytest
from harness import BYTES, UNHURRIED, echo, echoed, ids, run_async

from headrace import Pricing
from server.harness import TEMPLATE
from server.websocket.peer import Peer, connected

THINKS = TEMPLATE + "{# <think></think> #}"
USER = [{"role": "user", "content": "hi"}]
ADD, NAME = '{"a": 2}', '{"name": "Ada"}'
CALL = '<tool_call>\n{{"name": "{}", "arguments": {}}}\n</tool_call>'
CALLS = f"{CALL.format('add', ADD)}\n{CALL.format('name', NAME)}"
OUTPUT = f"<think>\nhm, é\n</think>\n\nSo: 5\n{CALLS}"
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {key: {}}}}}
    for name, key in (("add", "a"), ("name", "name"))
]


def chat(peer: Peer, **fields: Any) -> None:
    peer.generate("a", prompt=None, messages=USER, **fields)


def parts_of(peer: Peer) -> list[dict[str, Any]]:
    """What the tokens brought, in order; those of the last one that are left at the end included."""
    tokens = [frame for frame in peer.of("a") if frame["type"] == "token"]
    assert [token["index"] for token in tokens] == list(range(len(tokens)))
    assert not any("rest" in token for token in tokens[:-1])
    return [part for token in tokens for part in (token, *token.get("rest", ()))]


def said(peer: Peer, kind: str) -> str:
    return "".join(part["text"] for part in parts_of(peer) if part["kind"] == kind)


def called(peer: Peer) -> list[dict[str, Any]]:
    """The calls, put together from the tokens."""
    calls: list[dict[str, Any]] = []
    for part in parts_of(peer):
        if (delta := part.get("tool_call")) is None:
            continue
        assert (part["kind"], part["text"]) == ("tool_call", delta["arguments"])
        if delta["id"] is not None:
            assert delta["index"] == len(calls)
            calls.append({"id": delta["id"], "name": delta["name"], "arguments": "", "is_complete": True})
        else:
            assert delta["name"] is None
        calls[delta["index"]]["arguments"] += delta["arguments"]
    return calls


def test_a_thought_an_answer_and_calls() -> None:
    async def run() -> None:
        async with connected(OUTPUT, chat_template=THINKS) as (_, peer):
            chat(peer, tools=TOOLS)
            done = await peer.until_last()
            assert (said(peer, "thinking"), said(peer, "text")) == ("hm, é", "So: 5\n")
            calls = called(peer)
            assert [(call["name"], call["arguments"]) for call in calls] == [("add", ADD), ("name", NAME)]
            assert (done["tool_calls"], done["finish_reason"]) == (calls, "tool_calls")
            assert done["usage"]["thinking_tokens"] == len("<think>\nhm, é\n</think>".encode())

    run_async(run())


@pytest.mark.parametrize("window", [1, 2, 7])
def test_windows_count_tokens_whatever_they_bring(window: int) -> None:
    async def run() -> None:
        async with connected(OUTPUT, chat_template=THINKS) as (_, peer):
            chat(peer, tools=TOOLS, window=window, max_tokens=60, logprobs=0)
            seen = -1
            while (frame := await peer.next())["type"] != "done":
                if frame["type"] == "token":
                    seen += 1
                    assert frame["index"] == seen
                    peer.say(type="ack", id="a", index=seen)
            assert frame["usage"]["completion_tokens"] == seen + 1 == 60
            assert frame["tool_calls"] == []

    run_async(run())


@pytest.mark.parametrize("logprobs", [None, 0])
def test_a_last_token_with_two_kinds_of_text(logprobs: int | None) -> None:
    async def run() -> None:
        pieces = {**BYTES, 300: b"<think>hm</think>So: "}
        async with connected([300, *ids("x")], chat_template=THINKS, pieces=pieces) as (_, peer):
            chat(peer, max_tokens=1, window=1, logprobs=logprobs)
            await peer.until_last()
            _, token, done = peer.of("a")
            assert (token["kind"], token["text"]) == ("thinking", "hm")
            assert token["rest"] == [{"text": "So: ", "kind": "text"}]
            assert (token["index"], done["usage"]["completion_tokens"]) == (0, 1)

    run_async(run())


def test_a_call_that_is_cut() -> None:
    async def run() -> None:
        async with connected(CALLS) as (_, peer):
            chat(peer, tools=TOOLS, max_tokens=CALLS.index(ADD) + 3)
            done = await peer.until_last()
            (call,) = done["tool_calls"]
            assert (call["name"], call["arguments"], call["is_complete"]) == ("add", ADD[:3], False)
            assert done["finish_reason"] == "length"

    run_async(run())


def test_a_choice_of_tools() -> None:
    async def run() -> None:
        async with connected(CALL.format("name", NAME)) as (_, peer):
            named = {"type": "function", "function": {"name": "name"}}
            chat(peer, tools=TOOLS, tool_choice=named, parallel_tool_calls=False)
            assert [call["name"] for call in (await peer.until_last())["tool_calls"]] == ["name"]
        async with connected(echo) as (_, peer):
            chat(peer, tools=TOOLS, tool_choice="none")
            await peer.until_last()
            assert said(peer, "text") == echoed("<user>hi")

    run_async(run())


@pytest.mark.parametrize(
    ("fields", "thinking", "text"),
    [
        ({"thinking": "hide"}, "", "So: 5"),
        ({"thinking": "raw"}, "", "<think>\nhm\n</think>So: 5"),
        ({"thinking_tags": ["<t>", "</t>"]}, "", "<think>\nhm\n</think>So: 5"),
        ({"thinking_tags": ["<think>", "hm"]}, "", "</think>So: 5"),
        ({"regex": "S.*", "thinking": "split"}, "hm", "So: 5"),
        ({"grammar": "start: /S[^\\n]*/"}, "hm", "So: 5"),
    ],
)
def test_thoughts_and_forms(fields: dict[str, Any], thinking: str, text: str) -> None:
    async def run() -> None:
        async with connected("<think>\nhm\n</think>So: 5", chat_template=THINKS) as (_, peer):
            chat(peer, **fields)
            done = await peer.until_last()
            assert done["finish_reason"] == "stop", done
            assert (said(peer, "thinking"), said(peer, "text")) == (thinking, text)

    run_async(run())


def test_a_schema_for_a_prompt_and_for_a_chat() -> None:
    async def run() -> None:
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False}
        async with connected('{"a":12}') as (_, peer):
            for id, asked in (("p", {"prompt": "hi"}), ("c", {"prompt": None, "messages": USER})):
                peer.generate(id, **asked, json_schema=schema)
                assert (await peer.until_last(id))["finish_reason"] == "stop"
                assert peer.text(id) == '{"a":12}'

    run_async(run())


def test_variables_of_the_template_and_a_continued_message() -> None:
    async def run() -> None:
        async with connected(echo, chat_template="{{ mood }}" + TEMPLATE) as (_, peer):
            messages = [*USER, {"role": "assistant", "content": "he"}]
            peer.generate(
                "a", prompt=None, messages=messages, continue_final_message=True, template_kwargs={"mood": "!"}
            )
            await peer.until_last()
            assert peer.text() == echoed("!<user>hi<assistant>he")

    run_async(run())


def test_a_cost_where_there_are_prices() -> None:
    async def run() -> None:
        config = UNHURRIED.replace(pricing=Pricing(prompt=2_000_000, completion=1_000_000, currency="EUR"))
        async with connected("abc", config=config) as (_, peer):
            peer.generate("a", "hi")
            usage = (await peer.until_last())["usage"]
            assert (usage["cost"], usage["currency"]) == (2 * 2 + 4, "EUR")

    run_async(run())


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"messages": [*USER, {"role": "user"}]}, "messages[1].content: it is missing"),
        ({"messages": [*USER, {"role": "tool", "content": "5"}]}, "messages[1].tool_call_id: it is missing"),
        ({"tools": [{**TOOLS[0], "function": {"name": "a b"}}]}, "tools[0].function.name is 'a b'"),
        (
            {"tools": [TOOLS[0], {"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}]},
            "tools[1].function.parameters.type is 'array'",
        ),
        (
            {
                "tools": [TOOLS[0], {"type": "function", "function": {"name": "f", "parameters": {"$ref": "#/x"}}}],
                "tool_choice": {"type": "function", "function": {"name": "f"}},
            },
            "tools[1].function.parameters",
        ),
        ({"json_schema": {"type": "colour"}}, "json_schema"),
        ({"json_schema": {}, "regex": "a"}, "regex"),
        ({"regex": "("}, "regex"),
        ({"grammar": "start"}, "grammar"),
        ({"thinking": "loud"}, "thinking is 'loud'"),
        ({"thinking_budget": -1}, "thinking_budget is -1"),
        ({"thinking_tags": ["a"]}, "thinking_tags is "),
        ({"continue_final_message": True}, "messages[0]"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], says: str) -> None:
    async def run() -> None:
        async with connected("fine") as (_, peer):
            peer.generate("a", prompt=None, **{"messages": USER, **fields})
            error = await peer.until_last()
            assert error["type"] == "error", error
            assert error["message"].startswith(says), error
            assert error["code"] in ("invalid_value", "missing_required_parameter")
            peer.generate("b", "hi")
            assert (await peer.until_last("b"))["finish_reason"] == "stop", "the socket lives on"

    run_async(run())
