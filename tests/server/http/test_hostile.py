"""Requests made to cost the server more than their sender: each is refused, and delays no others."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from harness import Gate, echo, run_async

from server.harness import MODEL, USER, busy_prompt_workers, content_of, running

LIMIT = {"max_body_mb": 4}


def chat(**changes: Any) -> bytes:
    """A chat request as bytes."""
    return json.dumps({"model": MODEL, "messages": USER, **changes}).encode()


def complete(prompt: Any, **changes: Any) -> bytes:
    """A completion request as bytes."""
    return json.dumps({"model": MODEL, "prompt": prompt, **changes}).encode()


@pytest.mark.parametrize(
    ("path", "body", "param", "says"),
    [
        ("completions", complete([1] + [[]] * 45_000), "prompt[1]", "integer"),
        ("completions", complete([[1, []]] * 22_000), "prompt[0][1]", "integer"),
        ("completions", complete([1] * 1_300_000, n=80), "prompt", "1300000 tokens"),
        ("completions", complete(["x"] * 100_000), "prompt", "128"),
        ("completions", complete("x" * 3_000_000), "prompt", "at least"),
        ("chat/completions", chat(**{f"key{i}": 1 for i in range(200_000)}), None, "200002 keys"),
        ("chat/completions", chat(metadata={f"key{i}": 1 for i in range(200_000)}), None, "200000 keys"),
        ("chat/completions", chat(messages=USER * 10_001), "messages", "10000"),
        ("chat/completions", chat(messages=[{"role": "user"}] * 10_000), "messages[0].content", "missing"),
        ("chat/completions", chat(messages=[{"role": "user", "content": "x" * 3_000_000}]), "messages", "at least"),
        ("chat/completions", chat(stop="x" * 257), "stop", "256"),
        ("chat/completions", chat(stop=["x"] * 65), "stop", "64"),
        ("chat/completions", chat(stop=[5] * 1_000_000), "stop[0]", "string"),
        ("responses", json.dumps({"model": MODEL, "input": [5] * 1_000_000}).encode(), "input[0]", "object"),
    ],
)
def test_it_is_refused(path: str, body: bytes, param: str | None, says: str) -> None:
    async def run() -> None:
        async with running("fine", LIMIT) as server:
            answer = await server.ask("POST", f"/v1/{path}", body)
            assert answer.status == 400, answer.body[:500]
            assert answer.error["param"] == param, answer.error
            assert says in answer.error["message"], answer.error
            assert len(answer.error["message"]) < 1000

    run_async(run())


def test_a_prompt_of_many_choices_is_made_once() -> None:
    async def run() -> None:
        async with running(echo) as server:
            render, rendered = server.scripted.core.prompts.render, []

            def count(messages: Any, *options: Any) -> Any:
                rendered.append(messages)
                return render(messages, *options)

            server.scripted.core.prompts.render = count  # type: ignore[method-assign]
            answer = await server.chat(n=20, seed=2**64 - 1)
            assert [one["message"]["content"] for one in answer.json["choices"]] == ["[<user>hi]" * 3] * 20
            assert len(rendered) == 1

    run_async(run())


def test_cancelling_by_name_while_the_prompt_is_made() -> None:
    async def run() -> None:
        async with running("x" * 500) as server:
            async with busy_prompt_workers(server):
                streamed = server.open_chat(id="streamed")
                whole = server.open("POST", "/v1/chat/completions", chat(), X_Request_Id="whole")
                while set(server.service.live) != {"streamed", "whole"}:
                    await asyncio.sleep(0)
                for id in ("streamed", "whole"):
                    assert (await server.ask("DELETE", f"/v1/streams/{id}")).json["cancelled"] is True
            assert (await streamed.until_over()).chunks[-1]["error"]["code"] == "cancelled"
            assert (await whole.until_over()).status == 499

    run_async(run())


def test_spaces_before_a_key_do_not_buy_another_turn() -> None:
    async def run() -> None:
        gate = Gate()
        keys = {"api_keys": ["greedy", "polite"]}
        async with running(echo, keys, before_step=gate, max_streams=1) as server:
            for number, name in enumerate("abcdp"):
                key = "polite" if name == "p" else " " * number + "greedy"
                body = {"model": MODEL, "messages": [{"role": "user", "content": name}], "stream": True}
                headers = {"authorization": f"Bearer {key}", "X_Request_Id": name}
                await server.open("POST", "/v1/chat/completions", body, **headers).until(b"assistant")
            gate.open()
            for socket in server.sockets:
                await socket.until_over()
            # The last token of each prompt, in the order in which they were read.
            read = [
                part.tokens[-1] for step in server.scripted.steps for part in step if part.start + len(part.tokens) == 7
            ]
            assert "".join(chr(token - 1) for token in read) == "abpcd", "b came before p did"

    run_async(run())


def test_nobody_is_told_of_progress_who_did_not_ask() -> None:
    async def run() -> None:
        gate = Gate()
        async with running("abc", before_step=gate, max_streams=1) as server:
            first = server.open_chat()
            await asyncio.to_thread(gate.wait)
            queued = server.open_chat(id="queued")
            await queued.until(b"assistant")
            await server.ask("DELETE", "/v1/streams/queued")
            assert b"prompt_progress" not in (await queued.until_over()).body
            gate.open()
            assert content_of((await first.until_over()).chunks) == "abc"

    run_async(run())


def test_a_client_that_does_not_even_take_comments_is_let_go() -> None:
    async def run() -> None:
        gate = Gate()
        settings = {"ping_interval": 0.05, "stall_timeout_ms": 100}
        async with running("abc", settings, before_step=gate) as server:
            socket = server.open_chat()
            await socket.until(b"assistant")
            socket.stop_taking()
            await socket.until_over()
            assert socket.aborted
            gate.open()

    run_async(run())


def test_a_fault_of_ours_ends_the_stream_with_an_error() -> None:
    async def run() -> None:
        async with running("abc") as server:

            def fail(*_: Any) -> Any:
                raise RuntimeError("secret")

            for resumable in (False, True):
                socket = server.open_chat(id=f"s{resumable}", resumable=resumable)
                while not server.service.live.get(f"s{resumable}"):
                    await asyncio.sleep(0)
                server.service.live[f"s{resumable}"].checked = fail  # type: ignore[union-attr, method-assign]
                answer = await socket.until_over()
                assert answer.chunks[-1]["error"]["code"] == "internal_error"
                assert b"secret" not in answer.body

    run_async(run())


def test_other_encodings_are_not_taken() -> None:
    async def run() -> None:
        async with running("abc") as server:
            answer = await server.ask("POST", "/v1/chat/completions", chat(), content_encoding="gzip")
            assert (answer.status, answer.error["param"]) == (415, "Content-Encoding")

    run_async(run())


def test_logs_have_no_word_of_a_request(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with running("abc") as server:
            await server.chat(**{"my secret question": 1})
            await server.chat(metadata={"my secret": 1}, logit_bias={"my secret": 1})
            await server.chat(messages=[{"role": "user", "content": "my secret", "mood": 1}])
            await server.ask("GET", "/v1/streams/my secret")
            await server.chat(messages=[{"role": "user", "content": "my secret"}])

    with caplog.at_level("DEBUG"):
        run_async(run())
    assert len(caplog.records) >= 5
    assert "secret" not in "".join(str(record.__dict__) for record in caplog.records if record.name != "asyncio")
