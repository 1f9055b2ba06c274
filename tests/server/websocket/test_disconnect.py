"""`/ws`: clients that leave in every stage."""

from __future__ import annotations

import asyncio

import pytest
from harness import Gate, echo, echoed, run_async

from server.harness import busy_prompt_workers, running
from server.websocket.peer import ENDLESS, LONG, Peer, connected, finished, noted_ends, wait


def test_leaving_while_decoding() -> None:
    async def run() -> None:
        gate = Gate()
        async with connected(LONG, before_step=gate) as (server, peer):
            ended = noted_ends(server)
            peer.generate("a")
            peer.generate("b")
            await peer.until(lambda: peer.of("a") and peer.of("b"))
            await asyncio.to_thread(gate.step, 3)
            await asyncio.to_thread(gate.wait)
            peer.leave()
            await peer.until_over()
            gate.pass_one()  # the step that was running when it left is the last one
            await server.settled()
            assert [one.cancelled_by for one in ended] == ["disconnect", "disconnect"]
            assert finished(server) == {"cancelled": 2}
            assert server.scripted.engine.metrics().completion_tokens <= 8

    run_async(run())


def test_leaving_while_the_prompt_is_read() -> None:
    async def run() -> None:
        gate = Gate()
        async with connected("abc", before_step=gate, max_batch=16) as (server, peer):
            peer.generate(prompt=LONG)
            await asyncio.to_thread(gate.wait)
            peer.leave()
            await peer.until_over()
            gate.pass_one()
            await server.settled()
            assert finished(server) == {"cancelled": 1}
            assert server.scripted.num_computed() <= 16

    run_async(run())


def test_leaving_while_queued() -> None:
    async def run() -> None:
        gate = Gate()
        async with connected(echo, before_step=gate, max_streams=1) as (server, peer):
            peer.generate()
            await asyncio.to_thread(gate.wait)
            other = Peer(server.app)
            other.generate()
            await other.until(lambda: other.of("a"))
            other.leave()
            await other.until_over()
            await wait(lambda: finished(server) == {"cancelled": 1})  # without a single step
            gate.open()
            await peer.until_last()
            assert peer.text() == echoed("hi")

    run_async(run())


def test_leaving_while_the_prompt_is_made() -> None:
    async def run() -> None:
        async with connected("abc") as (server, peer):
            async with busy_prompt_workers(server):
                peer.generate("a")
                await peer.until_pong()
                peer.leave()
                await peer.until_over()
                assert not server.service.live
            await server.settled()
            assert server.scripted.engine.metrics().streams_started == 0

    run_async(run())


def test_leaving_in_every_moment() -> None:
    """Whatever the event loop was about to do: no stream is left, and the app does not fail."""

    async def run() -> None:
        async with running("ab", {"websocket": True}) as server:
            for moments in range(60):
                peer = Peer(server.app)
                peer.generate("a")
                peer.generate("b", window=1)
                for _ in range(moments):
                    await asyncio.sleep(0)
                peer.leave()
                await peer.until_over()
            await server.settled()

    run_async(run())


def test_being_cancelled_by_the_asgi_server() -> None:
    async def run() -> None:
        async with running(ENDLESS, {"websocket": True}) as server:
            peer = Peer(server.app)
            peer.generate()
            await peer.until(lambda: peer.text())
            peer.task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await peer.until_over()
            await server.settled()
            assert finished(server) == {"cancelled": 1}

    run_async(run())


def test_a_server_that_has_closed_the_socket_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        gate = Gate()
        async with connected(ENDLESS, before_step=gate) as (server, peer):
            ended = noted_ends(server)
            peer.generate()
            await asyncio.to_thread(gate.step, 2)
            await peer.until(lambda: len(peer.text()) == 2)
            peer.refusal = RuntimeError("Unexpected ASGI message 'websocket.send', after sending 'websocket.close'.")
            gate.open()
            await server.settled()
            assert finished(server) == {"cancelled": 1}
            assert [one.cancelled_by for one in ended] == ["disconnect"]
            assert not caplog.records

    run_async(run())
