"""A server on a scripted model that listens on a socket, and a client that is a plain socket."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import uvloop
from harness import PATIENCE, Scripted, scripted

from headrace.server import Settings
from headrace.server.serve import Server
from headrace.server.serving.generation import Generation
from headrace.server.serving.service import Service
from server.harness import MODEL, TEMPLATE, USER

R = TypeVar("R")

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def run_on(loop: str, coroutine: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine on a new event loop of this kind; a hang is a failure."""

    async def limited() -> R:
        async with asyncio.timeout(PATIENCE):
            return await coroutine

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        return runner.run(limited())


async def eventually(condition: Callable[[], object]) -> None:
    """Poll until a condition holds."""
    while not condition():
        await asyncio.sleep(0.001)


def http(method: str, path: str, body: Any = None, **headers: str) -> bytes:
    """The bytes of a request. In header names, _ stands for -."""
    raw = b"" if body is None else json.dumps(body).encode()
    given = {"host": "localhost"}
    if body is not None:
        given |= {"content-type": "application/json", "content-length": str(len(raw))}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + raw


def chat(id: str, **body: Any) -> bytes:
    """A streamed chat request."""
    body = {"model": MODEL, "messages": USER, "stream": True, **body}
    return http("POST", "/v1/chat/completions", body, x_request_id=id)


class Client:
    """One connection.

    Args:
        reader: asyncio's.
        writer: asyncio's.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.received = b""

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.writer.write(data)

    async def until(self, text: bytes) -> bytes:
        """Read up to the end of this text."""
        while text not in self.received:
            more = await self.reader.read(65536)
            assert more, f"the connection ended before {text!r} came: {self.received!r}"
            self.received += more
        end = self.received.index(text) + len(text)
        taken, self.received = self.received[:end], self.received[end:]
        return taken

    async def rest(self) -> bytes:
        """Read until the connection ends in any way."""
        try:
            while more := await self.reader.read(65536):
                self.received += more
        except ConnectionError:
            pass
        return self.received

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Read the next response: status, headers, body."""
        head = (await self.until(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:-2])
        body = b""
        if "content-length" in headers:
            size = int(headers["content-length"])
            while len(self.received) < size:
                more = await self.reader.read(65536)
                assert more, "the connection ended inside a body"
                self.received += more
            body, self.received = self.received[:size], self.received[size:]
        else:
            while True:
                size = int(await self.until(b"\r\n"), 16)
                chunk = await self.until(b"\r\n") if not size else b""
                while size and len(self.received) < size + 2:
                    more = await self.reader.read(65536)
                    assert more, "the connection ended inside a chunk"
                    self.received += more
                if not size:
                    assert chunk == b"\r\n"
                    break
                body += self.received[:size]
                self.received = self.received[size + 2 :]
        return int(head[0].split()[1]), headers, body

    def leave(self, how: str = "close") -> None:
        """Disconnect: "close" as clients do, "reset" as crashed ones do, "half" by ending only the input."""
        if how == "half":
            self.writer.write_eof()
            return
        sock = self.writer.get_extra_info("socket")
        if how == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@dataclass
class Listening:
    """A server that listens."""

    server: Server
    port: int
    scripted: Scripted
    task: asyncio.Task[None]
    clients: list[Client] = field(default_factory=list[Client])

    @property
    def service(self) -> Service:
        """Its service."""
        return self.server.service

    async def connect(self, *, receive_buffer: int | None = None) -> Client:
        """A new connection.

        Args:
            receive_buffer: bytes that the client's system takes in for it.
        """
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        except BaseException:
            sock.close()
            raise
        # With the smallest limit, so that unread data stays in the socket.
        client = Client(*await asyncio.open_connection(sock=sock, limit=1))
        self.clients.append(client)
        return client

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """One request on a connection of its own."""
        client = await self.connect()
        client.send(http(method, path, body, **headers))
        answer = await client.answer()
        client.leave()
        return answer

    async def begun(self, id: str) -> Generation:
        """Wait until a generation runs."""
        await eventually(lambda: self.service.live.get(id))
        generation = self.service.live[id]
        assert generation is not None
        return generation

    async def until_stuck(self) -> None:
        """Wait until no client reads any more."""
        times = 0
        while times < 50:  # it may also be that the system only has not got round to it yet
            connections = self.server.server_state.connections
            times = times + 1 if all(one.flow.write_paused for one in connections) else 0
            await asyncio.sleep(0.001)


@asynccontextmanager
async def listening(
    script: Any = "",
    settings: Mapping[str, Any] | None = None,
    *,
    hold_load: asyncio.Event | None = None,
    **kwargs: Any,
) -> AsyncIterator[Listening]:
    """A server on a scripted model; in the end it is stopped, and nothing may be left.

    Args:
        script: what the model says.
        settings: the server's settings.
        hold_load: the model is loaded when this is set; None for at once.
        kwargs: of the scripted model.
    """
    with scripted(script, chat_template=TEMPLATE, **kwargs) as model:

        async def load(_progress: Any) -> Any:
            if hold_load is not None:
                await hold_load.wait()
            return model.asynchronous

        listener = socket.create_server(("127.0.0.1", 0))
        given = {"timeout_ms": 0, "shutdown_timeout": 0, **(settings or {})}
        server = Server(Settings(**given), {MODEL: load}, listener)
        task = asyncio.ensure_future(server.serve([listener]))
        started = Listening(server, listener.getsockname()[1], model, task)
        try:
            await eventually(lambda: server.started and (hold_load is not None or server.service.is_ready))
            yield started
        finally:
            for gate in model.gates:
                gate.open()
            server.stop()
            await task
            for client in started.clients:
                client.leave()
            listener.close()
        assert not server.service.live
        assert not server.server_state.connections
