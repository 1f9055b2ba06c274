"""`/v1/chat/completions`: requests that are refused."""

from __future__ import annotations

from typing import Any

import pytest
from harness import run_async

from server.harness import MODEL, USER, running

TOO_DEEP = '{"model":"scripted","messages":' + "[" * 40_000 + "]" * 40_000 + "}"
MANY = '{"model":"scripted","messages":[' + ",".join(['{"role":"user","content":"x"}'] * 20_001) + "]}"


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        (b"", None, "not valid JSON"),
        (b"{", None, "not valid JSON"),
        (b'{"model": "scripted", "messages": [{"role": "user", "content": "\xff"}]}', None, "not valid JSON"),
        (b"[1]", None, "object"),
        (b"null", None, "object"),
        (TOO_DEEP.encode(), None, "recursion limit"),
        (MANY.encode(), "messages", "10000"),
        ({"model": MODEL, "messages": USER, "json_schema": {"enum": [[]] * 100_000}}, None, "objects and lists"),
        ({"messages": USER}, "model", "missing"),
        ({"model": MODEL}, "messages", "missing"),
        ({"model": 5, "messages": USER}, "model", "string"),
        ({"model": MODEL, "messages": []}, "messages", "at least 1"),
        ({"model": MODEL, "messages": "hi"}, "messages", "array"),
        ({"model": MODEL, "messages": [{"role": "user", "content": 5}]}, "messages[0].content", "string"),
        ({"model": MODEL, "messages": [{"role": "user"}]}, "messages[0].content", "missing"),
        ({"model": MODEL, "messages": [{"role": "user", "content": ""}]}, "messages[0].content", "empty"),
        ({"model": MODEL, "messages": [{"role": "boss", "content": "x"}]}, "messages[0].role", "boss"),
        ({"model": MODEL, "messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", "missing"),
        ({"model": MODEL, "messages": [{"role": "user", "content": "x", "mood": 1}]}, "messages[0].mood", "no such"),
        (
            {"model": MODEL, "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content[0].type",
            "text",
        ),
        ({"model": MODEL, "messages": USER, "colour": 1}, "colour", "no such parameter"),
        ({"model": MODEL, "messages": USER, "temperature": "hot"}, "temperature", "number"),
        ({"model": MODEL, "messages": USER, "temperature": -1}, "temperature", "at least 0"),
        ({"model": MODEL, "messages": USER, "temperature": True}, "temperature", "number"),
        (
            b'{"model":"scripted","messages":[{"role":"user","content":"x"}],"temperature":1e999}',
            "temperature",
            "finite",
        ),
        (b'{"model":"scripted","messages":[{"role":"user","content":"x"}],"temperature":NaN}', "temperature", "finite"),
        ({"model": MODEL, "messages": USER, "top_p": 2}, "top_p", "0 to 1"),
        ({"model": MODEL, "messages": USER, "max_tokens": 0}, "max_tokens", "1 to"),
        ({"model": MODEL, "messages": USER, "max_tokens": 1.5}, "max_tokens", "integer"),
        ({"model": MODEL, "messages": USER, "max_tokens": 2**70}, "max_tokens", "1 to"),
        ({"model": MODEL, "messages": USER, "max_completion_tokens": 0}, "max_completion_tokens", "1 to"),
        ({"model": MODEL, "messages": USER, "seed": -1}, "seed", "0 to"),
        (
            b'{"model":"scripted","messages":[{"role":"user","content":"x"}],"seed":1' + b"0" * 4000 + b"}",
            "seed",
            "0 to",
        ),
        ({"model": MODEL, "messages": USER, "n": 0}, "n", "1"),
        ({"model": MODEL, "messages": USER, "n": 1000}, "n", "128"),
        ({"model": MODEL, "messages": USER, "n": 100}, "n", "80"),
        ({"model": MODEL, "messages": USER, "stop": [""]}, "stop", "none of them empty"),
        ({"model": MODEL, "messages": USER, "stop": ["a", 5]}, "stop[1]", "string"),
        ({"model": MODEL, "messages": USER, "stop": 5}, "stop", "string"),
        ({"model": MODEL, "messages": USER, "top_logprobs": 3}, "top_logprobs", "logprobs"),
        ({"model": MODEL, "messages": USER, "logprobs": True, "top_logprobs": 21}, "top_logprobs", "20"),
        ({"model": MODEL, "messages": USER, "logit_bias": {"x": 1}}, "logit_bias", "token id"),
        ({"model": MODEL, "messages": USER, "stream_options": {"include_usage": True}}, "stream_options", "stream"),
        ({"model": MODEL, "messages": USER, "stream": "yes"}, "stream", "boolean"),
        ({"model": MODEL, "messages": USER, "resumable": True}, "resumable", "stream"),
        ({"model": MODEL, "messages": USER, "audio": {"voice": "x"}}, "audio", "not supported"),
        ({"model": MODEL, "messages": USER, "modalities": ["audio"]}, "modalities", "not supported"),
        (
            {"model": MODEL, "messages": USER, "max_tokens": 1, "max_completion_tokens": 2},
            "max_completion_tokens",
            "same",
        ),
    ],
)
def test_refusals_name_what_is_wrong(body: Any, param: str | None, says: str) -> None:
    async def run() -> None:
        async with running("fine") as server:
            answer = await server.ask("POST", "/v1/chat/completions", body)
            assert answer.status == 400, answer.body
            error = answer.error
            assert set(error) == {"message", "type", "param", "code"}
            assert error["param"] == param
            assert error["type"] == "invalid_request_error"
            assert says in error["message"], error["message"]
            assert len(error["message"]) < 600
            if param is not None:
                assert param in error["message"]
            assert (await server.chat()).status == 200, "the server lives on"

    run_async(run())


def test_other_statuses() -> None:
    async def run() -> None:
        async with running("fine", {"max_body_mb": 0.001}, num_cells=64) as server:
            answer = await server.chat(model="other")
            assert (answer.status, answer.error["param"], answer.error["code"]) == (404, "model", "model_not_found")
            assert "scripted" in answer.error["message"]
            answer = await server.chat(messages=[{"role": "user", "content": "x" * 200}])
            assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded")
            assert answer.error["param"] == "messages"
            answer = await server.chat(messages=[{"role": "user", "content": "x" * 2000}])
            assert (answer.status, answer.error["code"]) == (413, "body_too_large")
            answer = await server.ask("POST", "/v1/chat/completions", b"{}", content_type="text/plain")
            assert (answer.status, answer.error["param"]) == (415, "Content-Type")
            answer = await server.ask("GET", "/v1/chat/completions")
            assert answer.status == 405
            answer = await server.ask("GET", "/v1/nothing")
            assert (answer.status, answer.error["code"]) == (404, "not_found")
            assert answer.headers["x-request-id"]
            service = server.service
            service.expect("later")
            answer = await server.chat(model="later")
            assert (answer.status, answer.error["code"], answer.headers["retry-after"]) == (503, "model_loading", "1")

    run_async(run())


def test_a_body_without_a_length_is_bounded_too() -> None:
    async def run() -> None:
        async with running("fine", {"max_body_mb": 0.001}) as server:
            socket = server.open("POST", "/v1/chat/completions", b"x" * 2000)
            socket.scope["headers"] = [one for one in socket.scope["headers"] if one[0] != b"content-length"]
            assert (await socket.until_over()).status == 413

    run_async(run())
