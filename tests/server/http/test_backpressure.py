"""Backpressure: a client that does not read pauses its own stream only, and is cut off after the stall timeout."""

from __future__ import annotations

import asyncio

from harness import UNHURRIED, Gate, run_async, wait_until

from server.harness import content_of, running

LONG = "x" * 2000
SMALL_BUFFER = UNHURRIED.replace(buffer_size=4)


def test_a_full_socket_pauses_the_stream_and_going_on_resumes_it() -> None:
    async def run() -> None:
        async with running(LONG) as server:
            engine = server.scripted.engine
            socket = server.open_chat()
            socket.stop_taking()
            await asyncio.to_thread(wait_until, lambda: engine.metrics().paused == 1)
            assert engine.metrics().completion_tokens <= 64 + 1, "no more than the buffer was generated"
            neighbour = await server.chat(stream=True, messages=[{"role": "user", "content": "other"}])
            assert content_of(neighbour.chunks) == LONG
            socket.go_on_taking()
            assert content_of((await socket.until_over()).chunks) == LONG
            assert engine.metrics().streams_finished == {"stop": 2}

    run_async(run())


def test_the_sixty_fifth_is_served_beside_sixty_four_that_do_not_read() -> None:
    async def run() -> None:
        async with running(LONG, max_streams=16, max_queue=64, num_cells=16_384, num_rows=96) as server:
            engine = server.scripted.engine
            stuck = [server.open_chat(messages=[{"role": "user", "content": str(i)}]) for i in range(64)]
            for socket in stuck:
                socket.stop_taking()
            # They take turns: a paused one gives its place up to those that wait.
            await asyncio.to_thread(wait_until, lambda: engine.metrics().paused == 64)
            assert engine.metrics().completion_tokens <= 64 * 66
            reader = await server.chat(stream=True, messages=[{"role": "user", "content": "65"}])
            assert content_of(reader.chunks) == LONG
            assert engine.metrics().completion_tokens <= 64 * 66 + 2001
            for socket in stuck:
                socket.leave()
            for socket in stuck:
                await socket.until_over()
            await server.settled()
            assert engine.metrics().streams_finished == {"stop": 1, "cancelled": 64}

    run_async(run())


def test_a_client_that_takes_nothing_is_let_go() -> None:
    async def run() -> None:
        async with running(LONG, {"stall_timeout_ms": 100}) as server:
            engine = server.scripted.engine
            socket = server.open_chat()
            socket.stop_taking()
            await socket.until_over()
            assert socket.aborted
            await server.settled()
            assert engine.metrics().streams_finished == {"cancelled": 1}
            assert engine.metrics().paused == 0

    run_async(run())


def test_a_slow_client_is_not_a_stalled_one() -> None:
    async def run() -> None:
        async with running("x" * 300, {"stall_timeout_ms": 300}, config=SMALL_BUFFER) as server:
            socket = server.open_chat()
            taken = 0
            while not socket.is_complete:
                socket.stop_taking()
                await asyncio.sleep(0.01)
                socket.go_on_taking()
                await socket.until_events(taken + 1)
                taken = len(socket.answer.events)
            assert not socket.aborted
            assert content_of((await socket.until_over()).chunks) == "x" * 300

    run_async(run())


def test_silence_is_filled_with_comments() -> None:
    async def run() -> None:
        gate = Gate()
        async with running("abc", {"ping_interval": 0.02}, before_step=gate) as server:
            socket = server.open_chat(resumable=True)
            await socket.until(b": ping\n: ping\n")
            gate.open()
            answer = await socket.until_over()
            assert content_of(answer.chunks) == "abc"
            assert b"\n\n\n" not in answer.body, "an empty event breaks clients that have seen an id"

    run_async(run())


def test_no_comments_where_there_are_events() -> None:
    async def run() -> None:
        async with running("x" * 500) as server:
            assert b": ping" not in (await server.chat(stream=True)).body

    run_async(run())
