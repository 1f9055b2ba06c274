"""`/ws`: flow control by windows and acks."""

from __future__ import annotations

import pytest
from harness import UNHURRIED, echo, echoed, run_async

from server.websocket.peer import ENDLESS, LONG, Peer, connected, finished, heard, wait


def test_no_more_than_the_window_is_sent_and_the_engine_waits() -> None:
    async def run() -> None:
        async with connected(LONG, config=UNHURRIED.replace(buffer_size=8)) as (server, peer):
            engine = server.scripted.engine
            peer.generate(window=5)
            await peer.until(lambda: len(peer.text()) == 5)
            await wait(lambda: engine.metrics().paused == 1)
            await peer.until_pong()
            assert len(peer.text()) == 5
            assert engine.metrics().completion_tokens <= 5 + 8 + 1
            peer.say(type="ack", id="a", index=1)
            await peer.until(lambda: len(peer.text()) == 7)
            await wait(lambda: engine.metrics().paused == 1)
            await peer.until_pong()
            assert len(peer.text()) == 7
            assert engine.metrics().completion_tokens <= 7 + 8 + 1
            neighbour = Peer(server.app)
            neighbour.generate()
            assert (await neighbour.until_last())["finish_reason"] == "stop"
            neighbour.leave()
            await neighbour.until_over()

    run_async(run())


@pytest.mark.parametrize("window", [1, 2, 3, 64, 1000])
def test_acknowledging_every_token_brings_all_of_them(window: int) -> None:
    async def run() -> None:
        async with connected(echo) as (_, peer):
            peer.generate(window=window)
            assert (await peer.next())["type"] == "started"
            ahead = 0
            while (frame := await peer.next())["type"] != "done":
                ahead = max(ahead, sum(one["type"] == "token" for one in peer.frames) - frame["index"])
                peer.say(type="ack", id="a", index=frame["index"])
            assert ahead <= window
            assert peer.text() == echoed("hi")
            await peer.until_pong()
            assert not any(frame["type"] == "error" for frame in peer.frames), (
                "the last ack came too late, but not wrong"
            )

    run_async(run())


def test_a_window_as_long_as_the_stream_needs_no_ack() -> None:
    async def run() -> None:
        async with connected("abc") as (_, peer):
            peer.generate(window=4)
            assert (await peer.until_last())["finish_reason"] == "stop"
            peer.generate("b", window=3, max_tokens=3)
            assert (await peer.until_last("b"))["finish_reason"] == "length"

    run_async(run())


def test_what_is_held_back_comes_after_the_end_of_the_stream() -> None:
    async def run() -> None:
        async with connected("abcdef") as (server, peer):
            peer.generate(window=1)
            await wait(lambda: finished(server) == {"stop": 1})
            for index in range(6):
                await peer.until_pong()
                assert len([frame for frame in peer.of("a") if frame["type"] == "token"]) == index + 1
                peer.say(type="ack", id="a", index=index)
            await peer.until_last()
            assert peer.text() == "abcdef"

    run_async(run())


@pytest.mark.parametrize("by", ["frame", "name", "shutdown", "leaving"])
@pytest.mark.parametrize("script", [ENDLESS, "xyz"], ids=["running", "generated"])
def test_a_stream_that_waits_for_an_ack_can_be_cancelled(script: str, by: str) -> None:
    async def run() -> None:
        async with connected(script) as (server, peer):
            engine = server.scripted.engine
            peer.generate(window=1)
            await peer.until(lambda: peer.text() == "x")
            await wait(lambda: engine.metrics().paused == 1 or finished(server) == {"stop": 1})
            await heard(peer)
            match by:
                case "frame":
                    peer.say(type="cancel", id="a")
                case "name":
                    (name,) = server.service.live
                    await server.ask("DELETE", f"/v1/streams/{name}")
                case "shutdown":
                    await server.service.drain(0)
                case _:
                    peer.leave()
                    await peer.until_over()
            if by == "shutdown":
                assert (await peer.until_last())["code"] == "server_shutdown"
            elif by != "leaving":
                assert (await peer.until_last())["finish_reason"] == "cancelled"
            await server.settled()
            assert finished(server) == ({"cancelled": 1} if script == ENDLESS else {"stop": 1})
            assert peer.text() == "x"

    run_async(run())


@pytest.mark.parametrize("script", [ENDLESS, "xyz"], ids=["running", "generated"])
def test_a_stream_that_waits_too_long_for_an_ack_is_ended(script: str) -> None:
    async def run() -> None:
        async with connected(script, {"stall_timeout_ms": 5000}) as (server, peer):
            peer.generate(window=1, stall_timeout_ms=200)
            error = await peer.until_last()
            assert (error["code"], error["final"]) == ("timeout", True)
            assert "stall_timeout_ms" in error["message"]
            await server.settled()
            assert finished(server) == ({"timeout": 1} if script == ENDLESS else {"stop": 1})
            await peer.until_pong()
            assert peer.text() == "x"

    run_async(run())
