"""`/ws`: clients at the end of a pipe, which have sent Close but listen, and the server's shutdown."""

from __future__ import annotations

import asyncio

from harness import PATIENCE, Gate, echo, echoed, run_async

from server.websocket.peer import ENDLESS, connected, finished, wait


def test_the_end_of_the_input_is_not_the_end_of_the_answer() -> None:
    async def run() -> None:
        gate = Gate()
        async with connected(echo, before_step=gate) as (_, peer):
            peer.say("Hello!\n")
            peer.end_input()
            await peer.until(lambda: peer.of("0"))
            gate.open()
            await peer.until(lambda: peer.closed_with is not None)
            await peer.until_over()
            assert peer.closed_with == 1000
            assert peer.text("0") == echoed("Hello!")
            assert peer.frames[-1]["type"] == "done"

    run_async(run())


def test_the_end_of_the_input_after_the_last_answer() -> None:
    async def run() -> None:
        async with connected(echo) as (_, peer):
            peer.say("Hello!")
            await peer.until_last("0")
            peer.end_input()
            await peer.until_over()
            assert peer.closed_with == 1000

    run_async(run())


def test_a_refused_prompt_is_an_answer_too() -> None:
    async def run() -> None:
        async with connected(echo) as (_, peer):
            peer.say("\n")
            peer.end_input()
            await peer.until_over()
            assert [frame["code"] for frame in peer.frames] == ["invalid_value"]
            assert peer.closed_with == 1000

    run_async(run())


def test_a_listener_that_leaves_cancels_its_stream() -> None:
    async def run() -> None:
        gate = Gate()
        async with connected(ENDLESS, before_step=gate) as (server, peer):
            peer.say("Hello!")
            peer.end_input()
            await asyncio.to_thread(gate.wait)
            peer.leave()
            await peer.until_over()
            gate.open()
            await server.settled()
            assert finished(server) == {"cancelled": 1}

    run_async(run())


def test_a_draining_server_takes_no_more_and_ends_what_runs() -> None:
    async def run() -> None:
        gate = Gate()
        async with connected(echo, before_step=gate) as (server, peer):
            peer.generate("a")
            await asyncio.to_thread(gate.wait)
            draining = asyncio.ensure_future(server.service.drain(PATIENCE))
            while not server.service.is_draining:
                await asyncio.sleep(0)
            peer.generate("b")
            error = await peer.until_last("b")
            assert (error["code"], error["final"]) == ("server_draining", True)
            peer.stop_taking()
            gate.open()
            await wait(lambda: finished(server) == {"stop": 1})
            assert not draining.done(), "it waits until the last frame has left"
            peer.go_on_taking()
            await draining
            assert peer.text() == echoed("hi")
            assert peer.frames[-1]["type"] == "done"

    run_async(run())


def test_what_is_cut_off_ends_with_an_error_and_the_socket_is_closed() -> None:
    async def run() -> None:
        gate = Gate()
        async with connected(ENDLESS, before_step=gate) as (server, peer):
            peer.generate("a")
            peer.generate("b")
            await peer.until(lambda: peer.of("a") and peer.of("b"))
            await asyncio.to_thread(gate.step, 2)
            await peer.until(lambda: peer.text("a"))
            draining = asyncio.ensure_future(server.service.drain(0))
            gate.open()
            for id in "ab":
                await peer.until(lambda id=id: peer.of(id)[-1]["type"] == "error")
                assert (peer.of(id)[-1]["code"], peer.of(id)[-1]["final"]) == ("server_shutdown", True)
            await draining
            await peer.until_over()
            assert peer.closed_with == 1012

    run_async(run())


def test_nothing_is_said_after_the_close() -> None:
    async def run() -> None:
        async with connected(ENDLESS) as (server, peer):
            peer.said_late = ['{"type":"ping"}', "Hello!"]
            peer.generate()
            await peer.until(lambda: peer.text())
            await server.service.drain(0)
            await peer.until_over()
            assert peer.closed_with == 1012
            assert peer.frames[-1]["code"] == "server_shutdown"
            await server.settled()

    run_async(run())
