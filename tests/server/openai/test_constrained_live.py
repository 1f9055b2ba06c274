"""A real model behind the server, constrained to think, to call tools and to fit a schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from harness import run_async

from headrace import Model
from headrace.server import Settings, create_app
from headrace.server.serving.service import Service
from server.harness import Answer, Socket, checked, content_of

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "maximum": 150}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": PERSON}}


@pytest.fixture(scope="module")
def app() -> Iterator[Any]:
    with Model.load("smollm2", n_ctx=2048, n_threads=1) as model:
        yield create_app({"smollm2": model}, Settings(timeout_ms=0))


def ask(app: Any, **body: Any) -> Answer:
    """A chat; no generation may be left behind it."""

    async def run() -> Answer:
        messages = [{"role": "user", "content": "Bob is 42."}]
        body_of = {"model": "smollm2", "messages": messages, "temperature": 0, "seed": 1, "max_tokens": 200, **body}
        answer = await Socket(app, "POST", "/v1/chat/completions", body_of).start().until_over()
        service: Service = app.state.service
        await service.settle()
        assert answer.status == 200, answer.body
        return checked(answer)

    return run_async(run())


@pytest.mark.parametrize("mode", ["split", "hide", "raw"])
def test_a_thought_is_kept_apart(app: Any, mode: str) -> None:
    form = {
        "regex": r"<think>\n[a-z ]{5,20}\n</think>\n\nHello [a-z]{1,10}\.",
        "thinking_tags": ["<think>", "</think>"],
        "thinking": mode,
    }
    whole, streamed = ask(app, **form), ask(app, **form, stream=True)
    message = whole.json["choices"][0]["message"]
    deltas = [chunk["choices"][0]["delta"] for chunk in streamed.chunks]
    thought = "".join(delta.get("reasoning_content", "") for delta in deltas)
    assert message.get("reasoning_content", "") == thought
    assert bool(thought) == (mode == "split")
    assert message["content"] == content_of(streamed.chunks)
    assert message["content"].startswith("<think>" if mode == "raw" else "Hello ")
    assert message["content"].endswith(".")
    assert whole.json["usage"]["completion_tokens_details"]["reasoning_tokens"] > 5


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_call_is_forced(app: Any, choice: Any) -> None:
    asked = {"tools": [WEATHER], "tool_choice": choice, "parallel_tool_calls": False}
    (choice,) = ask(app, **asked).json["choices"]
    assert choice["finish_reason"] == "tool_calls"
    (call,) = choice["message"]["tool_calls"]
    arguments = json.loads(call["function"]["arguments"])
    assert (call["function"]["name"], set(arguments)) == ("weather", {"name", "age"})

    chunks = ask(app, **asked, stream=True).chunks
    calls = [one for chunk in chunks for one in chunk["choices"][0]["delta"].get("tool_calls", [])]
    assert calls[0]["function"] == {"name": "weather", "arguments": ""}
    assert "".join(one["function"]["arguments"] for one in calls) == call["function"]["arguments"]
    assert len(calls) > 5, "arguments come as they are written"


def test_an_answer_fits_its_schema(app: Any) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    (choice,) = ask(app, response_format=form, n=1).json["choices"]
    assert choice["finish_reason"] == "stop"
    assert set(json.loads(choice["message"]["content"])) == {"name", "age"}
    answers = ask(app, response_format=form, temperature=1, seed=1, n=3).json["choices"]
    assert all(set(json.loads(one["message"]["content"])) == {"name", "age"} for one in answers)
