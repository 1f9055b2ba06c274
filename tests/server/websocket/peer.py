"""`Peer`: a WebSocket's client without a network, and helpers for tests of `/ws`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from harness import PATIENCE, wait_until

from headrace.server.serving.generation import Generation
from headrace.server.websocket.socket import CLIENT_LISTENS
from server.harness import Server, running

LONG = "x" * 3000
ENDLESS = "x" * 100_000


class Peer:
    """One WebSocket from the client's end, as an ASGI server would carry it.

    Args:
        app: the app.
        headers: the headers of the handshake.
        subprotocols: what it offers.
        can_refuse: whether the server can send a response in place of the handshake's.
    """

    def __init__(
        self,
        app: Any,
        headers: Mapping[str, str] | None = None,
        subprotocols: list[str] | None = None,
        *,
        can_refuse: bool = True,
    ) -> None:
        self.aborted = False
        self.accepted: dict[str, Any] | None = None
        self.status = 0  # of a response that refuses the handshake
        self.body = b""
        self.frames: list[dict[str, Any]] = []
        self.closed_with: int | None = None
        self.said_late: list[str] = []  # frames that came after the client's Close
        self._app = app
        self._scope = {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "ws",
            "path": "/ws",
            "raw_path": b"/ws",
            "root_path": "",
            "query_string": b"",
            "headers": [
                (name.lower().encode(), value.encode())
                for name, value in {"host": "localhost:8080", **(headers or {})}.items()
            ],
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 8080),
            "subprotocols": subprotocols or [],
            "state": {},
            "extensions": {
                "headrace": {"abort": self._abort},
                **({"websocket.http.response": {}} if can_refuse else {}),
            },
        }
        self._said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._said.put_nowait({"type": "websocket.connect"})
        self.refusal: Exception | None = None  # raised by each write
        self._takes = asyncio.Event()
        self._takes.set()
        self._returns = asyncio.Event()
        self._lingers_after = ""
        self._is_sending = False
        self._came = asyncio.Condition()
        self._seen = 0
        self.task = asyncio.ensure_future(self._app(self._scope, self._said.get, self._send))

    # Sending.

    def say(self, frame: Any = None, **fields: Any) -> None:
        """Send a frame: text or bytes as they are, anything else as JSON."""
        frame = fields if frame is None else frame
        if isinstance(frame, bytes):
            self._said.put_nowait({"type": "websocket.receive", "bytes": frame})
        else:
            text = frame if isinstance(frame, str) else json.dumps(frame)
            self._said.put_nowait({"type": "websocket.receive", "text": text})

    def generate(self, id: str = "a", prompt: Any = "hi", **fields: Any) -> None:
        """Ask for a stream."""
        self.say(type="generate", id=id, prompt=prompt, **{"max_tokens": 100_000, **fields})

    def leave(self) -> None:
        """Drop the connection."""
        self.refusal = OSError("the client is gone")
        self.go_on_taking()
        self._said.put_nowait({"type": "websocket.disconnect", "code": 1006})

    def end_input(self) -> None:
        """Send Close, but go on listening."""
        self._said.put_nowait({"type": "websocket.disconnect", "code": 1005, CLIENT_LISTENS: True})

    def stop_taking(self) -> None:
        """Let every write wait, as a full socket buffer does."""
        self._takes.clear()

    def go_on_taking(self) -> None:
        """Let writes finish again."""
        self._takes.set()
        self._returns.set()

    def linger_after(self, type: str) -> None:
        """Let the writer of such a frame wait, although the frame arrives. `go_on_taking` ends that."""
        self._lingers_after = type

    # Receiving.

    def of(self, id: str) -> list[dict[str, Any]]:
        """The frames of one stream that came so far."""
        return [frame for frame in self.frames if frame.get("id") == id]

    def text(self, id: str = "a") -> str:
        """The text of one stream so far; its tokens have come without gaps."""
        tokens = [frame for frame in self.of(id) if frame["type"] == "token"]
        assert [token["index"] for token in tokens] == list(range(len(tokens)))
        return "".join(token["text"] for token in tokens)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until a condition holds for the frames that came."""
        async with asyncio.timeout(PATIENCE), self._came:
            await self._came.wait_for(lambda: condition() or self.task.done() or self.closed_with is not None)
        assert condition(), f"the socket ended before that: {self.frames[-3:]}"

    async def next(self) -> dict[str, Any]:
        """The next frame."""
        await self.until(lambda: len(self.frames) > self._seen)
        self._seen += 1
        return self.frames[self._seen - 1]

    async def until_last(self, id: str = "a") -> dict[str, Any]:
        """The frame that ends a stream."""
        await self.until(lambda: any(_is_last(frame) for frame in self.of(id)))
        assert [_is_last(frame) for frame in self.of(id)].index(True) == len(self.of(id)) - 1, (
            "it did not end with that"
        )
        return self.of(id)[-1]

    async def error(self) -> dict[str, Any]:
        """The next frame, which must be an error."""
        frame = await self.next()
        assert frame["type"] == "error", f"this is none: {frame}"
        return frame

    async def until_pong(self) -> None:
        """Wait until all frames sent so far are read and answered."""
        pongs = self.frames.count({"type": "pong"})
        self.say(type="ping")
        await self.until(lambda: self.frames.count({"type": "pong"}) > pongs)

    async def until_over(self) -> None:
        """Wait until the app is done with this socket."""
        async with asyncio.timeout(PATIENCE):
            await self.task

    async def _send(self, message: dict[str, Any]) -> None:
        assert not self._is_sending, "two writers at once"
        self._is_sending = True
        try:
            await self._takes.wait()
            if self.refusal is not None:
                raise self.refusal
            await self._take(message)
            if self.frames and self.frames[-1]["type"] == self._lingers_after:
                await self._returns.wait()
        finally:
            self._is_sending = False

    async def _take(self, message: dict[str, Any]) -> None:
        assert self.closed_with is None, "something came after the Close"
        async with self._came:
            match message["type"]:
                case "websocket.accept":
                    assert self.accepted is None
                    self.accepted = message
                case "websocket.send":
                    assert self.accepted is not None
                    self.frames.append(json.loads(message["text"]))
                case "websocket.close":
                    self.closed_with = message.get("code", 1000)
                    for frame in self.said_late:
                        self.say(frame)
                    self._said.put_nowait({"type": "websocket.disconnect", "code": self.closed_with})
                case "websocket.http.response.start":
                    self.status = message["status"]
                case "websocket.http.response.body":
                    self.body += message["body"]
                case _:
                    raise AssertionError(f"no server knows {message}")
            self._came.notify_all()

    def _abort(self) -> None:
        self.aborted = True


def _is_last(frame: dict[str, Any]) -> bool:
    return frame["type"] == "done" or (frame["type"] == "error" and frame["final"])


@asynccontextmanager
async def connected(
    script: Any = "", settings: Mapping[str, Any] | None = None, **kwargs: Any
) -> AsyncIterator[tuple[Server, Peer]]:
    """A server and an open socket. In the end the socket is closed, and no stream is left."""
    async with running(script, {"websocket": True, **(settings or {})}, **kwargs) as server:
        peer = Peer(server.app)
        try:
            yield server, peer
        finally:
            peer.leave()
            for gate in server.scripted.gates:
                gate.open()
        await peer.until_over()


def finished(server: Server) -> dict[str, int]:
    """How many streams ended, by finish reason."""
    return server.scripted.engine.metrics().streams_finished


def noted_ends(server: Server) -> list[Generation]:
    """The generations that end from now on."""
    ended: list[Generation] = []
    observe = server.service.metrics.observe

    def note(generation: Generation) -> None:
        ended.append(generation)
        observe(generation)

    server.service.metrics.observe = note  # type: ignore[method-assign]
    return ended


async def wait(condition: Callable[[], object]) -> None:
    """Poll until a condition holds."""
    await asyncio.to_thread(wait_until, condition)


async def heard(peer: Peer) -> None:
    """Wait until the server has read all frames, where it cannot answer them."""
    while peer._said.qsize():
        await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.sleep(0)
