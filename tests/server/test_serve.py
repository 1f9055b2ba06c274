"""`Server`: it answers while models are loaded, and drains when it is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from typing import Any

import pytest
from harness import Gate, wait_until
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from headrace.server import Settings
from headrace.server.serve import Server
from headrace.values.errors import ModelLoadError
from server.harness import MODEL, USER
from server.listening import LOOPS, chat, eventually, http, listening, run_on

ENDLESS = "abc" * 100_000
PATIENCE = 120.0  # seconds; a real model on a busy machine

CHAT = {"model": MODEL, "messages": USER}


# Starting
# --------


@pytest.mark.parametrize("loop", LOOPS)
def test_it_answers_while_models_are_loaded(loop: str) -> None:
    async def run() -> None:
        loaded = asyncio.Event()
        async with listening("abc", hold_load=loaded) as server:
            assert (await server.ask("GET", "/health"))[0] == 200
            assert (await server.ask("GET", "/ready"))[0] == 503
            status, headers, body = await server.ask("POST", "/v1/chat/completions", CHAT)
            assert (status, headers["retry-after"]) == (503, "1")
            assert json.loads(body)["error"]["code"] == "model_loading"
            assert (await server.ask("POST", "/v1/chat/completions", CHAT | {"model": "x"}))[0] == 404

            loaded.set()
            await eventually(lambda: server.service.is_ready)
            assert (await server.ask("GET", "/ready"))[0] == 200
            assert (await server.ask("POST", "/v1/chat/completions", CHAT))[0] == 200

    run_on(loop, run())


def test_a_load_that_fails_ends_the_server() -> None:
    async def run() -> None:
        async def fail(_progress: Any) -> Any:
            raise ModelLoadError("it is broken")

        with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
            server = Server(Settings(), {"a": fail}, listener)
            await server.serve([listener])
        assert str(server.failure) == "it is broken"

    run_on("uvloop", run())


def test_being_stopped_ends_a_load() -> None:
    """The load learns of it with its next report of progress."""

    async def run() -> None:
        told = asyncio.Event()

        async def load(progress: Any) -> Any:
            told.set()
            await asyncio.to_thread(wait_until, lambda: is_stopped_by(progress))

        with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
            server = Server(Settings(), {"a": load}, listener)
            task = asyncio.ensure_future(server.serve([listener]))
            await told.wait()
            server.stop()
            await task
        assert server.failure is None

    def is_stopped_by(progress: Any) -> bool:
        try:
            progress(0.5)
        except Exception:
            return True
        return False

    run_on("uvloop", run())


# Stopping
# --------


@pytest.mark.parametrize("loop", LOOPS)
def test_streams_come_to_their_end_while_others_are_refused(loop: str) -> None:
    async def run() -> None:
        gate = Gate()
        async with listening("abc", {"shutdown_timeout": 30}, before_step=gate) as server:
            client, idle = await server.connect(), await server.connect()
            client.send(chat("mine"))
            await server.begun("mine")
            server.server.stop()
            await eventually(lambda: server.service.is_draining)

            status, headers, body = await server.ask("POST", "/v1/chat/completions", CHAT)
            assert (status, headers["connection"]) == (503, "close")
            assert json.loads(body)["error"]["code"] == "server_draining"
            assert (await server.ask("GET", "/ready"))[0] == 503
            assert (await server.ask("GET", "/health"))[0] == 200

            gate.open()
            assert (await client.answer())[2].endswith(b"data: [DONE]\n\n")
            await server.task
            assert await client.rest() == await idle.rest() == b""
            with pytest.raises(ConnectionRefusedError):
                await server.connect()

    run_on(loop, run())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("stage", ["queued", "prefilling", "decoding"])
def test_what_does_not_come_to_its_end_is_told_so(loop: str, stage: str) -> None:
    async def run() -> None:
        gate = Gate()
        async with listening(ENDLESS, max_streams=1, before_step=gate) as server:
            client, whole = await server.connect(), await server.connect()
            ids = ["other", "mine"] if stage == "queued" else ["mine"]
            for id in ids:
                client = await server.connect()
                client.send(chat(id))
                await server.begun(id)
            whole.send(http("POST", "/v1/chat/completions", CHAT, x_request_id="whole"))
            await server.begun("whole")
            if stage == "decoding":
                await asyncio.to_thread(gate.step, 5)
            await asyncio.to_thread(gate.wait)
            server.server.stop()
            await eventually(lambda: server.service.is_draining)
            gate.open()
            status, _, body = await client.answer()
            last = body.split(b"data: ")[-1]
            assert (status, json.loads(last)["error"]["code"]) == (200, "server_shutdown")
            status, _, body = await whole.answer()
            assert (status, json.loads(body)["error"]["code"]) == (503, "server_shutdown")
            await server.task

    run_on(loop, run())


@pytest.mark.parametrize("loop", LOOPS)
def test_what_is_still_being_sent_is_sent(loop: str) -> None:
    """An answer that was generated long ago may be on its way to a slow client."""

    async def run() -> None:
        async with listening("x" * 2500) as server:
            client = await server.connect()
            client.send(chat("log", resumable=True))
            whole = (await client.answer())[2]
            client.leave()
            follower = await server.connect(receive_buffer=4096)
            follower.send(http("GET", "/v1/streams/log"))
            await server.until_stuck()
            server.server.stop()
            await eventually(lambda: server.service.is_draining)
            assert (await follower.answer())[2] == whole
            await server.task

    run_on(loop, run())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_client_that_does_not_read_finds_the_end_when_it_reads_again(loop: str) -> None:
    async def run() -> None:
        async with listening(ENDLESS) as server:
            client = await server.connect(receive_buffer=4096)
            client.send(chat("mine", max_tokens=100_000))
            await server.begun("mine")
            await server.until_stuck()
            server.server.stop()
            await server.task
            status, _, body = await client.answer()
            last = body.split(b"data: ")[-1]
            assert (status, json.loads(last)["error"]["code"]) == (200, "server_shutdown")

    run_on(loop, run())


@pytest.mark.parametrize("loop", LOOPS)
def test_half_a_request_does_not_keep_it_from_stopping(loop: str) -> None:
    async def run() -> None:
        async with listening("abc") as server:
            for begun in (b"", b"POST /v1", http("POST", "/v1/chat/completions", CHAT)[:-5]):
                client = await server.connect()
                client.send(begun)
            await eventually(lambda: server.server.server_state.tasks)
            server.server.stop()
            await server.task

    run_on(loop, run())


def test_websockets_are_closed_when_their_streams_have_ended() -> None:
    async def run() -> None:
        gate = Gate()
        async with listening("abc" * 100, {"websocket": True, "shutdown_timeout": 30}, before_step=gate) as server:
            url = f"ws://127.0.0.1:{server.port}/ws"
            async with connect(url) as busy, connect(url) as idle:
                await busy.send(json.dumps({"type": "generate", "id": "a", "prompt": "hi", "max_tokens": 200}))
                assert json.loads(await busy.recv())["type"] == "started"
                server.server.stop()
                await eventually(lambda: server.service.is_draining)
                gate.open()
                frames = [json.loads(frame) async for frame in ended(busy)]
                assert [frame["type"] for frame in frames] == ["token"] * 200 + ["done"]
                assert [frame async for frame in ended(idle)] == []
                assert busy.close_code in (1001, 1012)
                assert idle.close_code in (1001, 1012)
                await server.task

    async def ended(websocket: Any) -> Any:
        with contextlib.suppress(ConnectionClosed):
            async for frame in websocket:
                yield frame

    run_on("uvloop", run())
