"""`/ws`: clients that do not read."""

from __future__ import annotations

import asyncio
from collections import Counter

from harness import UNHURRIED, run_async

from server.websocket.peer import ENDLESS, LONG, Peer, connected, finished, noted_ends, wait


def test_a_socket_that_takes_nothing_pauses_all_its_streams() -> None:
    async def run() -> None:
        async with connected(LONG) as (server, peer):
            engine = server.scripted.engine
            await peer.until_pong()
            peer.stop_taking()
            for id in "abcd":
                peer.generate(id)
            await wait(lambda: engine.metrics().paused == 4)
            assert engine.metrics().completion_tokens <= 4 * (64 + 1)
            neighbour = Peer(server.app)
            neighbour.generate()
            await neighbour.until_last()
            assert neighbour.text() == LONG
            neighbour.leave()
            await neighbour.until_over()
            peer.go_on_taking()
            for id in "abcd":
                await peer.until_last(id)
                assert peer.text(id) == LONG

    run_async(run())


def test_streams_of_one_socket_take_turns() -> None:
    async def run() -> None:
        async with connected(LONG, config=UNHURRIED.replace(buffer_size=500)) as (server, peer):
            engine = server.scripted.engine
            await peer.until_pong()
            peer.stop_taking()
            for id in "abcd":
                peer.generate(id)
            await wait(lambda: engine.metrics().paused == 4)
            peer.go_on_taking()
            for id in "abcd":
                await peer.until_last(id)
            # As long as all of them have something to send, none gets far ahead.
            counts: Counter[str] = Counter()
            for frame in (frame for frame in peer.frames if frame["type"] == "token"):
                counts[frame["id"]] += 1
                if max(counts.values()) >= 500:
                    break
                assert max(counts.values()) - min(counts[id] for id in "abcd") <= 2 * 32

    run_async(run())


def test_a_socket_that_takes_nothing_is_cut_in_the_end() -> None:
    async def run() -> None:
        async with connected(ENDLESS, {"stall_timeout_ms": 200}) as (server, peer):
            await peer.until_pong()
            peer.stop_taking()
            ended = noted_ends(server)
            peer.generate("a", stall_timeout_ms=200)
            peer.generate("b")
            await peer.until_over()
            assert peer.aborted
            await server.settled()
            assert [one.cancelled_by for one in ended] == ["stall", "stall"]
            assert sum(finished(server).values()) == 2
            assert server.scripted.engine.metrics().paused == 0

    run_async(run())


def test_an_idle_socket_is_not_a_stalled_one() -> None:
    async def run() -> None:
        async with connected("abc", {"stall_timeout_ms": 5}) as (_, peer):
            await peer.until_pong()
            other = asyncio.get_running_loop().time() + 0.05
            while asyncio.get_running_loop().time() < other:
                await peer.until_pong()
            peer.generate()
            assert (await peer.until_last())["finish_reason"] == "stop"

    run_async(run())


def test_a_client_that_asks_and_does_not_read_the_answers_is_not_heard_any_more() -> None:
    async def run() -> None:
        async with connected("abc") as (_, peer):
            await peer.until_pong()
            peer.stop_taking()
            for _ in range(1000):
                peer.say(type="ping")
            for _ in range(100):
                await asyncio.sleep(0)
            assert peer._said.qsize() >= 998, "answers pile up in the server"
            peer.go_on_taking()
            await peer.until(lambda: peer.frames.count({"type": "pong"}) == 1001)

    run_async(run())
