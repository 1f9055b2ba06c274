"""`/v1/chat/completions`: answers, streamed or not."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from harness import Gate, echo, ids, run_async

from headrace import StreamConfig
from headrace.server.openai.answer_schema import Model, ModelList
from headrace.values.request import Request
from server.harness import MODEL, USER, content_of, running, serving
from server.openai.chatting import TEXT, ask


def test_the_whole_answer() -> None:
    answer = ask()
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json
    assert body["id"] == f"chatcmpl-{answer.headers['x-request-id']}"
    assert body["object"] == "chat.completion"
    assert body["model"] == MODEL
    message = {"role": "assistant", "content": TEXT, "refusal": None, "annotations": []}
    assert body["choices"] == [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]
    num_prompt, num_answer = len(b"<user>hi"), len(TEXT.encode()) + 1
    assert body["usage"] == {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_answer,
        "total_tokens": num_prompt + num_answer,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    assert body["timings"]["predicted_n"] == num_answer


def test_the_stream() -> None:
    answer = ask(stream=True)
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.events[-1].data == "[DONE]"
    chunks = answer.chunks
    heads = {(one["id"], one["object"], one["created"], one["model"]) for one in chunks}
    assert len(heads) == 1
    assert next(iter(heads))[:2] == (f"chatcmpl-{answer.headers['x-request-id']}", "chat.completion.chunk")
    assert chunks[0]["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    ]
    assert content_of(chunks) == TEXT
    for chunk in chunks[1:-1]:
        (choice,) = chunk["choices"]
        assert set(choice["delta"]) == {"content"}
        assert choice["delta"]["content"], "an empty chunk says nothing"
        assert choice["finish_reason"] is None
    assert chunks[-1]["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]
    assert chunks[-1]["timings"]["predicted_n"] == len(TEXT.encode()) + 1
    assert all("usage" not in chunk for chunk in chunks)
    assert all("timings" not in chunk for chunk in chunks[:-1])


def test_the_stream_is_ascii() -> None:
    """A client that cuts the bytes anywhere, or splits lines at U+2028, sees whole characters."""
    assert ask(stream=True).body.isascii()


def test_usage_comes_last_where_it_was_asked_for() -> None:
    answer = ask(stream=True, stream_options={"include_usage": True})
    *others, last = answer.chunks
    assert all(chunk["usage"] is None for chunk in others)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == len(TEXT.encode()) + 1
    assert last["id"] == others[0]["id"]


def test_streamed_and_whole_are_the_same() -> None:
    whole, streamed = ask(echo, n=3), ask(echo, n=3, stream=True)
    texts = [choice["message"]["content"] for choice in whole.json["choices"]]
    assert texts == [content_of(streamed.chunks, choice) for choice in range(3)]
    assert texts == ["[<user>hi]" * 3] * 3


def test_choices_come_with_their_roles_first_and_in_order() -> None:
    chunks = ask(stream=True, n=4, stream_options={"include_usage": True}).chunks
    assert [(one["choices"][0]["index"], one["choices"][0]["delta"]) for one in chunks[:4]] == [
        (index, {"role": "assistant", "content": ""}) for index in range(4)
    ]
    ends = [one["choices"][0]["index"] for one in chunks if one["choices"] and one["choices"][0]["finish_reason"]]
    assert sorted(ends) == [0, 1, 2, 3]
    usage = chunks[-1]["usage"]
    assert usage["prompt_tokens"] == len(b"<user>hi"), "the prompt counts once"
    assert usage["completion_tokens"] == 4 * (len(TEXT.encode()) + 1)


@pytest.mark.parametrize("stop", ["END", ["never", "END"], ["END", "ENDING", "E"]])
@pytest.mark.parametrize("stream", [False, True])
def test_stop_never_leaks(stop: Any, stream: bool) -> None:
    answer = ask("abcENDdef", stop=stop, stream=stream, logprobs=True)
    if stream:
        assert content_of(answer.chunks) == "abc"
        entries = [
            one
            for chunk in answer.chunks
            for c in chunk["choices"]
            for one in (c["logprobs"] or {"content": []})["content"]
        ]
        assert answer.chunks[-1]["choices"][0]["finish_reason"] == "stop"
    else:
        (choice,) = answer.json["choices"]
        assert choice["message"]["content"] == "abc"
        assert choice["finish_reason"] == "stop"
        entries = choice["logprobs"]["content"]
    assert [entry["token"] for entry in entries] == ["a", "b", "c"]


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs(stream: bool) -> None:
    answer = ask("aé", logprobs=True, top_logprobs=2, stream=stream)
    if stream:
        entries = [
            one
            for chunk in answer.chunks
            for c in chunk["choices"]
            for one in (c["logprobs"] or {"content": []})["content"]
        ]
    else:
        assert answer.json["choices"][0]["logprobs"]["refusal"] is None
        entries = answer.json["choices"][0]["logprobs"]["content"]
    pieces = [bytes(entry["bytes"]) for entry in entries]
    assert pieces == [b"a", b"\xc3", b"\xa9"]
    assert all(set(entry) == {"token", "logprob", "bytes", "top_logprobs"} for entry in entries)
    assert json.dumps(entries, allow_nan=False)


def test_logprobs_do_not_leak_behind_broken_characters() -> None:
    """A byte that is no character is sent as one of three bytes."""
    (choice,) = ask(ids(b"a\xffENDz"), stop="END", logprobs=True).json["choices"]
    assert choice["message"]["content"] == "a\ufffd"
    assert [bytes(one["bytes"]) for one in choice["logprobs"]["content"]] == [b"a", b"\xff"]


def test_length() -> None:
    assert ask("abcdef", max_tokens=3).json["choices"][0]["finish_reason"] == "length"
    assert ask("abcdef", max_completion_tokens=3).json["choices"][0]["message"]["content"] == "abc"


def test_without_a_limit_the_context_is_the_limit() -> None:
    choice = ask("x" * 3000).json["choices"][0]
    assert len(choice["message"]["content"]) == 3000


def test_messages_reach_the_template() -> None:
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": " two"}]},
        # What an answer of this server looks like when it is sent back.
        {
            "role": "assistant",
            "content": "three",
            "refusal": None,
            "annotations": [],
            "tool_calls": None,
            "audio": None,
        },
        {"role": "user", "content": "four", "name": "Ann"},
    ]
    text = ask(echo, messages=messages).json["choices"][0]["message"]["content"]
    assert text == "[<system>be brief<user>one two<assistant>three<user>four]" * 3


def test_settings_reach_the_engine() -> None:
    async def run() -> None:
        async with running("abc") as server:
            make_sampler = server.scripted.runner.make_sampler
            configs: list[StreamConfig] = []

            def note(request: Request) -> Any:
                configs.append(request.config)
                return make_sampler(request)

            server.scripted.runner.make_sampler = note
            settings = {
                "temperature": 0.5,
                "top_p": 0.8,
                "top_k": 7,
                "min_p": 0.1,
                "seed": 11,
                "frequency_penalty": 0.1,
                "presence_penalty": 0.2,
                "repeat_penalty": 1.1,
                "ignore_eos": False,
                "max_tokens": 9,
                "logit_bias": {"5": -1.5},
            }
            answer = await server.chat(**settings, n=2)
            assert answer.status == 200, answer.body
            first, second = configs
            for name, value in settings.items():
                expected = {5: -1.5} if name == "logit_bias" else value
                assert getattr(first, name) == expected
            assert second.seed == 12, "two choices with one seed would be one choice twice"

    run_async(run())


def test_what_has_no_effect_is_accepted() -> None:
    answer = ask(
        user="u", metadata={"a": "b"}, store=True, service_tier="auto", safety_identifier="s", prompt_cache_key="k",
        tools=[], tool_choice=None, parallel_tool_calls=True, response_format={"type": "text"}, modalities=["text"],
        top_logprobs=None, stop=None, n=None, seed=None, logit_bias=None, stream_options=None, functions=None,
    )  # fmt: skip
    assert answer.status == 200, answer.body


def test_request_ids() -> None:
    async def run() -> None:
        gate = Gate()
        async with running("abc", before_step=gate) as server:
            first = server.open_chat(id="mine")
            await first.until(b"assistant")
            assert first.headers["x-request-id"] == "mine"
            taken = await server.ask(
                "POST", "/v1/chat/completions", {"model": MODEL, "messages": USER}, X_Request_Id="mine"
            )
            assert (taken.status, taken.error["code"]) == (409, "id_in_use")
            gate.open()
            await first.until(b"[DONE]")
            await server.settled()
            again = await server.ask(
                "POST", "/v1/chat/completions", {"model": MODEL, "messages": USER}, X_Request_Id="mine"
            )
            assert again.json["id"] == "chatcmpl-mine"
            for bad in ("a b", "x" * 129, "é", ""):
                body = {"model": MODEL, "messages": USER}
                answer = await server.ask("POST", "/v1/chat/completions", body, X_Request_Id=bad)
                assert (answer.status, answer.error["param"]) == (400, "X-Request-Id")
                answer = await server.ask("GET", "/health", X_Request_Id=bad)
                assert answer.status == 200, "what starts nothing needs no name"
                assert answer.headers["x-request-id"] != bad
            assert (await server.ask("GET", "/health")).headers["x-request-id"]

    run_async(run())


def test_progress_is_reported_while_the_prompt_is_read() -> None:
    async def run() -> None:
        gate = Gate()
        async with running("abc", before_step=gate, max_batch=8, max_streams=4) as server:
            socket = server.open_chat(messages=[{"role": "user", "content": "x" * 50}], return_progress=True)
            await asyncio.to_thread(gate.step, 2)
            await socket.until(b"prompt_progress")
            seen = 0
            while seen < 2:
                progress = [one["prompt_progress"] for one in socket.answer.chunks if "prompt_progress" in one]
                seen = len({one["processed"] for one in progress})
                await asyncio.to_thread(gate.step)
                await socket.until_events(len(socket.answer.events) + 1)
            assert all(one["total"] == len(b"<user>") + 50 for one in progress)
            assert [one["processed"] for one in progress] == sorted(one["processed"] for one in progress)
            gate.open()
            chunks = (await socket.until_over()).chunks
            assert content_of(chunks) == "abc"
            first = next(i for i, chunk in enumerate(chunks) if chunk["choices"][0]["delta"].get("content"))
            assert not any("prompt_progress" in chunk for chunk in chunks[first:])

    run_async(run())


def test_models() -> None:
    async def run() -> None:
        async with running("abc") as server:
            answer = await server.ask("GET", "/v1/models")
            ModelList.model_validate_json(answer.body)
            (model,) = answer.json["data"]
            Model.model_validate(model)
            assert (model["id"], model["object"], model["owned_by"]) == (MODEL, "model", "headrace")
            assert (await server.ask("GET", f"/v1/models/{MODEL}")).json == model
            assert (await server.ask("GET", "/v1/models/a/b")).status == 404

    run_async(run())


def test_a_model_without_a_template_cannot_chat_but_continue() -> None:
    with serving("abc", chat_template=None) as server:

        async def run() -> None:
            answer = await server.chat()
            assert (answer.status, answer.error["param"]) == (400, "messages")
            assert "chat template" in answer.error["message"]
            assert (await server.complete()).json["choices"][0]["text"] == "abc"
            await server.settled()

        run_async(run())
