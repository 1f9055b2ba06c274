"""Real sockets and a real model: clients that are killed in each stage, that do not read, or that come all at once."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from harness import PATIENCE, run_async, wait_until

from headrace import Model
from headrace.server import Settings, create_app
from headrace.values.results import EngineMetrics
from server.live import live

MODEL = "smollm2"
LONG_PROMPT = "The river runs through the old mill and turns the wheel. " * 60
MAX_STREAMS = 2
MAX_QUEUE = 6


@dataclass
class Live:
    """A server with a real model."""

    model: Model
    port: int

    def metrics(self) -> EngineMetrics:
        """What the engine does."""
        return self.model.metrics

    def connect(self, receive_buffer: int | None = None) -> socket.socket:
        """A connection."""
        one = socket.socket()
        if receive_buffer is not None:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        one.settimeout(PATIENCE)
        one.connect(("127.0.0.1", self.port))
        return one

    def is_idle(self) -> bool:
        """Whether no stream is left."""
        metrics = self.metrics()
        return metrics.queued == metrics.running == metrics.paused == 0


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    # One thread computes: several wait for one another at every operation, which takes very long on a busy machine.
    with Model.load("smollm2", max_streams=MAX_STREAMS, max_queue=MAX_QUEUE, n_ctx=8192, n_threads=1) as model:
        app = create_app({MODEL: model}, Settings(stall_timeout_ms=2000))
        with live(app, stall_timeout=2) as port:
            yield Live(model, port)
        model.check_integrity()


def request(path: str = "/v1/completions", **body: Any) -> bytes:
    """A request as bytes."""
    body = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 2000, "ignore_eos": True, **body}
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


def kill(one: socket.socket) -> None:
    """Close a connection with a reset, as a client that crashes does."""
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()


def read_until(one: socket.socket, text: bytes) -> bytes:
    """Read until this has come."""
    data = b""
    while text not in data:
        part = one.recv(65536)
        assert part, f"the connection ended without {text!r}: {data[-500:]!r}"
        data += part
    return data


def is_served(server: Live) -> None:
    """A request that comes now is served."""
    with server.connect() as one:
        one.sendall(request(max_tokens=3, temperature=0))
        assert b'"completion_tokens":3' in read_until(one, b"}}")


@pytest.mark.parametrize("stage", ["head", "body"])
def test_killed_before_the_request_is_there(server: Live, stage: str) -> None:
    before = server.metrics().streams_started
    one = server.connect()
    data = request()
    one.sendall(data[:40] if stage == "head" else data[:-10])
    kill(one)
    is_served(server)
    assert server.metrics().streams_started == before + 1


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("kept_alive", [False, True])
def test_killed_while_decoding(server: Live, stream: bool, kept_alive: bool) -> None:
    one = server.connect()
    if kept_alive:
        one.sendall(request(max_tokens=2))
        read_until(one, b"}}")
    before = server.metrics()
    one.sendall(request(stream=stream))
    if stream:
        read_until(one, b'"text":')
    else:
        wait_until(lambda: server.metrics().completion_tokens > before.completion_tokens)
    kill(one)
    wait_until(server.is_idle)
    after = server.metrics()
    assert after.completion_tokens - before.completion_tokens < 1000, "it went on"
    assert after.streams_finished["cancelled"] == before.streams_finished.get("cancelled", 0) + 1
    is_served(server)


@pytest.mark.parametrize("stream", [True, False])
def test_killed_while_the_prompt_is_read(server: Live, stream: bool) -> None:
    before = server.metrics()
    one = server.connect()
    # A beginning of its own, so that nothing of it is cached.
    one.sendall(request(prompt=f"{stream} story. {LONG_PROMPT}", stream=stream))
    wait_until(lambda: server.metrics().prefill_tokens > before.prefill_tokens)
    kill(one)
    wait_until(server.is_idle)
    after = server.metrics()
    assert after.completion_tokens == before.completion_tokens, "the prompt was read to its end"
    is_served(server)


@pytest.mark.parametrize("stream", [True, False])
def test_killed_while_queued(server: Live, stream: bool) -> None:
    running = [server.connect() for _ in range(MAX_STREAMS)]
    for one in running:
        one.sendall(request(stream=True))
        read_until(one, b'"text":')
    queued = server.connect()
    queued.sendall(request(stream=stream))
    wait_until(lambda: server.metrics().queued == 1)
    kill(queued)
    wait_until(lambda: server.metrics().queued == 0)
    assert server.metrics().running == MAX_STREAMS, "it was cancelled in the queue"
    for one in running:
        kill(one)
    wait_until(server.is_idle)
    is_served(server)


def test_a_client_that_does_not_read(server: Live) -> None:
    """Its stream is paused, others are served, and then it is let go."""
    before = server.metrics()
    stalled = server.connect(receive_buffer=2048)
    # The chunks with log probabilities are large, so that the buffers on the way are full soon.
    stalled.sendall(request(stream=True, logprobs=20, max_tokens=4000))
    wait_until(lambda: server.metrics().paused == 1)
    assert server.metrics().completion_tokens - before.completion_tokens < 2000
    is_served(server)
    wait_until(server.is_idle)
    assert server.metrics().streams_finished["cancelled"] == before.streams_finished.get("cancelled", 0) + 1
    stalled.close()


def test_many_at_once_are_served_or_told(server: Live) -> None:
    """Five hundred connections: an answer for each."""

    async def ask() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request(max_tokens=1))
        status = int((await reader.readline()).split()[1])
        head = await reader.readuntil(b"\r\n\r\n")
        if status == 429:
            assert b"retry-after: " in head.lower()
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        assert json.loads(await reader.readexactly(length))
        writer.close()
        await writer.wait_closed()
        return status

    async def ask_all() -> list[int]:
        return await asyncio.gather(*(ask() for _ in range(500)))

    statuses = run_async(ask_all())
    assert set(statuses) <= {200, 429}
    assert statuses.count(200) >= MAX_STREAMS + MAX_QUEUE
    wait_until(server.is_idle)
    is_served(server)


def test_health_answers_while_a_prompt_is_read(server: Live) -> None:
    before = server.metrics()
    with server.connect() as one, server.connect() as other:
        one.sendall(request(prompt=f"Health. {LONG_PROMPT}", max_tokens=1))
        wait_until(lambda: server.metrics().prefill_tokens > before.prefill_tokens)
        other.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b'{"status":"ok"}' in read_until(other, b"}")
        assert server.metrics().completion_tokens == before.completion_tokens, "the prompt is still being read"
        read_until(one, b"}}")
