"""`/ws`: streams cancelled in every stage."""

from __future__ import annotations

import asyncio

from harness import Gate, echo, echoed, run_async

from server.harness import busy_prompt_workers
from server.websocket.peer import ENDLESS, LONG, connected, finished, heard, wait


def test_cancelling_while_decoding() -> None:
    async def run() -> None:
        gate = Gate()
        async with connected(ENDLESS, before_step=gate) as (server, peer):
            peer.generate()
            await asyncio.to_thread(gate.step, 3)
            await asyncio.to_thread(gate.wait)
            await peer.until(lambda: len(peer.text()) == 3)
            peer.say(type="cancel", id="a")
            peer.say(type="cancel", id="a")
            await peer.until_pong()
            gate.pass_one()
            done = await peer.until_last()
            assert (done["type"], done["finish_reason"]) == ("done", "cancelled")
            assert done["usage"]["completion_tokens"] <= 4
            await server.settled()
            assert finished(server) == {"cancelled": 1}
            gate.open()
            peer.generate("b", max_tokens=2)
            assert (await peer.until_last("b"))["finish_reason"] == "length", "the socket lives"

    run_async(run())


def test_cancelling_while_the_prompt_is_read() -> None:
    async def run() -> None:
        gate = Gate()
        async with connected("abc", before_step=gate, max_batch=16) as (server, peer):
            peer.generate(prompt=LONG)
            await asyncio.to_thread(gate.wait)
            peer.say(type="cancel", id="a")
            await peer.until_pong()
            gate.pass_one()
            assert (await peer.until_last())["finish_reason"] == "cancelled"
            assert server.scripted.num_computed() <= 16

    run_async(run())


def test_cancelling_while_queued() -> None:
    async def run() -> None:
        gate = Gate()
        async with connected(echo, before_step=gate, max_streams=1) as (_, peer):
            peer.generate("first")
            await asyncio.to_thread(gate.wait)
            peer.generate("second")
            await peer.until(lambda: peer.of("second"))
            peer.say(type="cancel", id="second")
            assert (await peer.until_last("second"))["finish_reason"] == "cancelled"  # without a single step
            gate.open()
            assert (await peer.until_last("first"))["finish_reason"] == "stop"
            assert peer.text("first") == echoed("hi")

    run_async(run())


def test_cancelling_while_the_prompt_is_made() -> None:
    async def run() -> None:
        async with connected("abc") as (server, peer):
            async with busy_prompt_workers(server):
                peer.generate("a")
                await peer.until_pong()
                peer.say(type="cancel", id="a")
                done = await peer.until_last()
                assert (done["finish_reason"], done["usage"]["total_tokens"]) == ("cancelled", 0)
                assert [frame["type"] for frame in peer.of("a")] == ["done"], "it never started"
                assert not server.service.live
            peer.generate("b")
            assert (await peer.until_last("b"))["finish_reason"] == "stop"
            assert server.scripted.engine.metrics().streams_started == 1

    run_async(run())


def test_cancelling_right_after_asking() -> None:
    async def run() -> None:
        async with connected(ENDLESS) as (server, peer):
            for number in range(20):
                peer.generate(str(number))
                peer.say(type="cancel", id=str(number))
            for number in range(20):
                assert (await peer.until_last(str(number)))["finish_reason"] == "cancelled"
            await server.settled()

    run_async(run())


def test_cancelling_what_was_sent_already() -> None:
    async def run() -> None:
        gate = Gate()
        async with connected("abc", before_step=gate) as (server, peer):
            peer.generate(max_tokens=1)
            await peer.until(lambda: peer.of("a"))
            peer.stop_taking()
            gate.open()
            await wait(lambda: finished(server) == {"length": 1})
            await wait(lambda: peer._is_sending)
            peer.say(type="cancel", id="a")
            await heard(peer)
            peer.go_on_taking()
            assert (await peer.until_last())["finish_reason"] == "length"
            assert peer.text() == "a"

    run_async(run())
