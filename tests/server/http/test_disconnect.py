"""A disconnect cancels the client's streams at once, in every stage, and no others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from harness import Gate, echo, run_async, wait_until

from server.harness import MODEL, USER, Server, Socket, busy_prompt_workers, content_of, running

LONG = "x" * 3000


def finished(server: Server) -> dict[str, int]:
    """How many streams ended how."""
    return server.scripted.engine.metrics().streams_finished


def whole_or_streamed(server: Server, stream: bool, **body: Any) -> Socket:
    """A chat request that is open."""
    return server.open_chat(**body, stream=stream)


async def in_thread(function: Any, *args: Any) -> None:
    """Wait for the engine's thread without holding the event loop."""
    await asyncio.to_thread(function, *args)


@pytest.mark.parametrize("stream", [True, False])
def test_while_decoding(stream: bool) -> None:
    async def run() -> None:
        gate = Gate()
        async with running(LONG, before_step=gate) as server:
            socket = whole_or_streamed(server, stream)
            await in_thread(gate.step, 3)
            await in_thread(gate.wait)
            socket.leave()
            await socket.until_over()
            gate.pass_one()  # the step that was running when it left is the last one
            await server.settled()
            assert finished(server) == {"cancelled": 1}
            assert server.scripted.engine.metrics().completion_tokens <= 4

    run_async(run())


@pytest.mark.parametrize("stream", [True, False])
def test_while_the_prompt_is_read(stream: bool) -> None:
    async def run() -> None:
        gate = Gate()
        async with running("abc", before_step=gate, max_batch=16) as server:
            socket = whole_or_streamed(server, stream, messages=[{"role": "user", "content": LONG}])
            await in_thread(gate.wait)
            socket.leave()
            await socket.until_over()
            gate.pass_one()
            await server.settled()
            assert finished(server) == {"cancelled": 1}
            assert server.scripted.num_computed() <= 16, "it went on after the chunk that was running"

    run_async(run())


@pytest.mark.parametrize("stream", [True, False])
def test_while_queued(stream: bool) -> None:
    async def run() -> None:
        gate = Gate()
        async with running(echo, before_step=gate, max_streams=1) as server:
            first = server.open_chat()
            await in_thread(gate.wait)
            second = whole_or_streamed(server, stream, messages=[{"role": "user", "content": "second"}])
            await in_thread(wait_until, lambda: server.scripted.engine.metrics().queued == 1)
            second.leave()
            await second.until_over()
            await in_thread(wait_until, lambda: finished(server) == {"cancelled": 1})  # without a single step
            gate.open()
            answer = await first.until_over()
            assert content_of(answer.chunks) == "[<user>hi]" * 3

    run_async(run())


@pytest.mark.parametrize("stream", [True, False])
def test_while_the_prompt_is_made(stream: bool) -> None:
    async def run() -> None:
        async with running("abc") as server:
            async with busy_prompt_workers(server):
                socket = whole_or_streamed(server, stream)
                while not server.service.live:
                    await asyncio.sleep(0)
                socket.leave()
                await socket.until_over()
                assert not server.service.live
            await server.settled()
            assert server.scripted.engine.metrics().streams_started == 0

    run_async(run())


def test_a_client_that_leaves_before_its_body_is_there() -> None:
    async def run() -> None:
        async with running("abc") as server:
            socket = Socket(server.app, "POST", "/v1/chat/completions", {"model": MODEL, "messages": USER})
            socket._body = None
            socket.start().leave()
            await socket.until_over()
            assert server.scripted.engine.metrics().streams_started == 0

    run_async(run())


def test_all_choices_are_cancelled() -> None:
    async def run() -> None:
        gate = Gate()
        async with running(LONG, before_step=gate) as server:
            socket = server.open_chat(n=5)
            await socket.until(b'"index":4')
            await in_thread(gate.step, 2)
            socket.leave()
            await socket.until_over()
            gate.open()
            await server.settled()
            assert finished(server) == {"cancelled": 5}

    run_async(run())


def test_the_neighbour_notices_nothing() -> None:
    async def run() -> None:
        gate = Gate()
        async with running(echo, before_step=gate) as server:
            leaver = server.open_chat(messages=[{"role": "user", "content": LONG[:100]}])
            stayer = server.open_chat(messages=[{"role": "user", "content": "stay"}])
            await in_thread(gate.step, 4)
            leaver.leave()
            gate.open()
            assert content_of((await stayer.until_over()).chunks) == "[<user>stay]" * 3

    run_async(run())


def test_one_write_for_each_step() -> None:
    """What a step brings leaves in one piece and is not held back: not for more, and not for the end."""

    async def run() -> None:
        gate = Gate()
        async with running("abc", before_step=gate) as server:
            socket = server.open_chat()
            await socket.until(b'"role":"assistant"')
            for number, letter in enumerate("abc", start=1):
                await in_thread(gate.step)
                await socket.until(b'"content":"%b"' % letter.encode())
                assert len(socket.writes) == 1 + number
            gate.open()
            await socket.until_over()
            assert len(socket.writes) == 5, "the end, its reason and [DONE] are of one step"

    run_async(run())


def test_cancelling_by_name() -> None:
    async def run() -> None:
        gate = Gate()
        async with running(LONG, before_step=gate) as server:
            streamed = server.open_chat(id="streamed")
            whole = server.open(
                "POST", "/v1/chat/completions", {"model": MODEL, "messages": USER}, X_Request_Id="whole"
            )
            await in_thread(gate.step, 2)
            while set(server.service.live) != {"streamed", "whole"} or None in server.service.live.values():
                await asyncio.sleep(0)
            for id in ("streamed", "whole"):
                answer = await server.ask("DELETE", f"/v1/streams/{id}")
                assert answer.json == {"id": id, "object": "stream", "cancelled": True}
            gate.open()
            answer = await streamed.until_over()
            assert answer.status == 200
            last = answer.chunks[-1]
            assert last["error"]["code"] == "cancelled"
            assert answer.events[-1].data != "[DONE]", "it was not done"
            answer = await whole.until_over()
            assert (answer.status, answer.error["code"]) == (499, "cancelled")
            await server.settled()
            assert finished(server) == {"cancelled": 2}
            assert (await server.ask("DELETE", "/v1/streams/streamed")).status == 404
            assert (await server.ask("DELETE", "/v1/streams/nobody")).status == 404

    run_async(run())


@pytest.mark.parametrize("resumable", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_who_cancels_by_name_is_told_what_was_used(path: str, resumable: bool) -> None:
    async def run() -> None:
        gate = Gate()
        prices = {"price_prompt": 1_000_000, "price_completion": 1_000_000}
        async with running(LONG, prices, before_step=gate) as server:
            asked = {"messages": USER} if "chat" in path else {"prompt": "abc", "max_tokens": 50}
            body = {"model": MODEL, **asked, "stream": True, "stream_options": {"include_usage": True}}
            socket = server.open("POST", path, {**body, "resumable": resumable}, X_Request_Id="a")
            await in_thread(gate.step, 4)
            await in_thread(gate.wait)
            await server.ask("DELETE", "/v1/streams/a")
            gate.open()
            *_, account, last = (await socket.until_over()).chunks
            assert last["error"]["code"] == "cancelled"
            assert account["choices"] == []
            usage, timings = account["usage"], account["timings"]
            prompt = 8 if "chat" in path else 3
            assert (usage["prompt_tokens"], usage["total_tokens"]) == (prompt, prompt + usage["completion_tokens"])
            assert timings["predicted_n"] == usage["completion_tokens"] in (4, 5)
            assert usage["cost"] == pytest.approx(usage["total_tokens"])

    run_async(run())


def test_an_error_after_the_first_byte() -> None:
    """It is one event, and then the end; what was generated until then came before it."""

    def fail(part: Any, sample: Any) -> None:
        if part.start > 10:
            raise RuntimeError("broken")

    async def run() -> None:
        async with running(LONG, on_sample=fail) as server:
            answer = await server.chat(stream=True)
            assert answer.status == 200
            *chunks, last = answer.chunks
            assert content_of(chunks) == "xxxx"
            assert set(last) == {"error"}
            assert set(last["error"]) == {"message", "type", "param", "code"}
            assert last["error"]["type"] == "server_error"
            assert "[DONE]" not in [one.data for one in answer.events]
            whole = await server.chat()
            assert (whole.status, whole.error["type"]) == (500, "server_error")
            assert whole.headers["x-should-retry"] == "false"

    run_async(run())


def test_timeouts() -> None:
    async def run() -> None:
        gate = Gate()
        async with running(LONG, {"timeout_ms": 50}, before_step=gate) as server:
            streamed, whole = server.open_chat(), server.open_chat(stream=False)
            await in_thread(gate.wait)
            await asyncio.sleep(0.06)  # the deadline itself, which must pass before the next step
            gate.open()
            answer = await streamed.until_over()
            assert (answer.status, answer.chunks[-1]["error"]["code"]) == (200, "timeout")
            answer = await whole.until_over()
            assert (answer.status, answer.error["type"]) == (504, "timeout_error")

    run_async(run())


def test_a_full_queue_is_said_at_once_and_harms_nobody() -> None:
    async def run() -> None:
        gate = Gate()
        async with running(echo, before_step=gate, max_streams=2, max_queue=2) as server:
            taken = [server.open_chat(messages=[{"role": "user", "content": str(i)}]) for i in range(4)]
            for socket in taken:
                await socket.until(b"assistant")
            refused = [await server.chat(stream=stream) for stream in (True, False) for _ in range(3)]
            for answer in refused:
                assert (answer.status, answer.error["code"]) == (429, "queue_full")
                assert int(answer.headers["retry-after"]) >= 1
            gate.open()
            for i, socket in enumerate(taken):
                assert content_of((await socket.until_over()).chunks) == f"[<user>{i}]" * 3
            assert (await server.chat(n=4)).status == 200
            assert (await server.chat(n=5)).status == 400

    run_async(run())


def test_choices_are_all_taken_or_none() -> None:
    async def run() -> None:
        gate = Gate()
        async with running(echo, before_step=gate, max_streams=1, max_queue=3) as server:
            first = server.open_chat()
            await first.until(b"assistant")
            assert (await server.chat(n=4)).status == 429
            await in_thread(wait_until, lambda: server.scripted.engine.metrics().queued <= 1)
            gate.open()
            await first.until_over()

    run_async(run())


def test_five_hundred_at_once() -> None:
    async def run() -> None:
        async with running(echo, max_streams=4, max_queue=16) as server:
            sockets = [
                server.open_chat(messages=[{"role": "user", "content": str(i)}], stream=i % 2 == 0) for i in range(500)
            ]
            answers = [await socket.until_over() for socket in sockets]
            served = 0
            for i, answer in enumerate(answers):
                if answer.status == 429:
                    continue
                assert answer.status == 200
                served += 1
                expected = f"[<user>{i}]" * 3
                text = content_of(answer.chunks) if i % 2 == 0 else answer.json["choices"][0]["message"]["content"]
                assert text == expected
            assert served >= 20

    run_async(run())
