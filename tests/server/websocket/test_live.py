"""`/ws` with real sockets: the `websockets` library, pipes, clients that do not read, and a server that stops."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from harness import PATIENCE, Gate, Scripted, echo, echoed, wait_until
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.sync.client import ClientConnection, connect
from websockets.uri import parse_uri

from server.harness import serving
from server.live import live

ENDLESS = "x" * 100_000


@dataclass
class Live:
    """A server that listens, and what is under it."""

    scripted: Scripted
    port: int

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    def connect(self, **kwargs: Any) -> ClientConnection:
        return connect(self.url, compression=None, ping_interval=None, **kwargs)

    def wait_finished(self, **reasons: int) -> None:
        """Wait until so many streams ended so."""
        wait_until(lambda: self.scripted.engine.metrics().streams_finished == reasons)


@contextmanager
def listening(script: Any = "", settings: dict[str, Any] | None = None, **kwargs: Any) -> Iterator[Live]:
    with serving(script, {"websocket": True, **(settings or {})}, **kwargs) as server, live(server.app) as port:
        try:
            yield Live(server.scripted, port)
        finally:
            for gate in server.scripted.gates:
                gate.open()


class Pipe:
    """What websocat is: it sends text, and Close without a code when its input ends, and shows what comes until then.

    Its bytes go out as they are given, so that it may say several things in one packet.
    """

    def __init__(self, server: Live) -> None:
        self._protocol = ClientProtocol(parse_uri(server.url))
        self._socket = socket.create_connection(("127.0.0.1", server.port), PATIENCE)
        self._protocol.send_request(self._protocol.connect())
        self.flush()
        while not self._protocol.events_received():
            self._protocol.receive_data(self._socket.recv(65536))
        assert self._protocol.handshake_exc is None
        self.events: list[Frame] = []

    def text(self, text: str) -> Pipe:
        self._protocol.send_text(text.encode())
        return self

    def part(self, text: bytes, opcode: Opcode, *, fin: bool = False) -> Pipe:
        self._protocol.send_frame(Frame(opcode, text, fin=fin))
        return self

    def close(self, code: int | None = None) -> Pipe:
        self._protocol.send_close(code)
        return self

    def flush(self) -> None:
        self._socket.sendall(b"".join(self._protocol.data_to_send()))

    def read(self) -> bool:
        """What comes next; False at the end of the connection."""
        data = self._socket.recv(65536)
        if data:
            self._protocol.receive_data(data)
            self.events += [event for event in self._protocol.events_received() if isinstance(event, Frame)]
        return bool(data)

    def read_all(self) -> list[dict[str, Any]]:
        """Everything that comes until the connection ends."""
        while self.read():
            pass
        self.drop()
        return [json.loads(event.data) for event in self.events if event.opcode is Opcode.TEXT]

    def drop(self) -> None:
        self._socket.close()


def answer_of(frames: list[dict[str, Any]]) -> str:
    return "".join(frame["text"] for frame in frames if frame["type"] == "token")


def say(client: ClientConnection, type: str, **fields: Any) -> None:
    client.send(json.dumps({"type": type, **fields}))


def send_and_hear(client: ClientConnection, frame: str) -> str | bytes:
    client.send(frame)
    return client.recv(PATIENCE)


def hear(client: ClientConnection) -> dict[str, Any]:
    return json.loads(client.recv(PATIENCE))


def hear_all(client: ClientConnection) -> None:
    while True:
        hear(client)


def test_two_streams_and_a_window() -> None:
    with listening(echo) as server, server.connect() as client:
        say(client, "generate", id="a", prompt="aaa")
        say(client, "generate", id="b", prompt="bbb", window=2)
        text = {"a": "", "b": ""}
        ends = 0
        while ends < 2:
            frame = hear(client)
            ends += frame["type"] == "done"
            if frame["type"] == "token":
                text[frame["id"]] += frame["text"]
                if frame["id"] == "b":
                    say(client, "ack", id="b", index=frame["index"])
        assert text == {"a": echoed("aaa"), "b": echoed("bbb")}
        client.ping().wait(PATIENCE)


# Pipes


@pytest.mark.parametrize("when", ["at once", "after the first frame"])
def test_a_pipe_that_ends_gets_its_whole_answer(when: str) -> None:
    with listening(echo) as server:
        pipe = Pipe(server).text("Hello!\n")
        if when != "at once":
            pipe.flush()
            pipe.read()
        pipe.close().flush()
        frames = pipe.read_all()
        assert answer_of(frames) == echoed("Hello!")
        assert frames[-1]["finish_reason"] == "stop"
        assert pipe.events[-1].opcode is Opcode.CLOSE
        server.wait_finished(stop=1)


def test_what_comes_after_the_end_does_not_count() -> None:
    with listening(echo) as server:
        pipe = Pipe(server).text("Hello!").close()
        for opcode in (Opcode.TEXT, Opcode.PING, Opcode.CLOSE):
            pipe.part(b"", opcode, fin=True)
        pipe.flush()
        frames = pipe.read_all()
        assert answer_of(frames) == echoed("Hello!")
        assert [frame["type"] for frame in frames if frame["type"] != "token"] == ["started", "done"]


def test_a_pipe_that_ends_after_its_answer() -> None:
    with listening(echo) as server:
        pipe = Pipe(server).text("Hello!\n")
        pipe.flush()
        while b'"done"' not in (pipe.events[-1].data if pipe.events else b""):
            pipe.read()
        pipe.close().flush()
        assert answer_of(pipe.read_all()) == echoed("Hello!")
        assert pipe.events[-1].opcode is Opcode.CLOSE


def test_a_pipe_that_is_killed_cancels_its_stream() -> None:
    gate = Gate()
    with listening(ENDLESS, before_step=gate) as server:
        pipe = Pipe(server).text("Hello!").close()
        pipe.flush()
        pipe.read()
        gate.wait()
        pipe.drop()
        gate.open()
        server.wait_finished(cancelled=1)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (['{"type":"generate","id":"a","prompt":"x"}'], None),
        (["Hello!", '{"type":"ping"}'], None),
        (["Hello!"], 1000),
        (["Hello!"], 1001),
    ],
)
def test_a_close_is_a_close(said: list[str], code: int | None) -> None:
    """Whoever speaks JSON, or gives a reason, does not only end a pipe."""
    gate = Gate()
    with listening(ENDLESS, before_step=gate) as server:
        pipe = Pipe(server)
        for text in said:
            pipe.text(text)
        pipe.flush()
        gate.step(2)
        gate.wait()
        pipe.close(code).flush()
        frames = pipe.read_all()  # ends while the engine stands still
        assert all(frame["type"] in ("started", "token", "pong") for frame in frames)
        gate.open()
        server.wait_finished(cancelled=1)


def test_a_close_amid_a_message_is_a_close() -> None:
    with listening(ENDLESS) as server:
        pipe = Pipe(server).text("Hello!")
        pipe.flush()
        pipe.read()
        pipe.part(b"and", Opcode.TEXT).close().flush()
        pipe.read_all()
        server.wait_finished(cancelled=1)


def test_closing_the_client_cancels_at_once() -> None:
    gate = Gate()
    with listening(ENDLESS, before_step=gate) as server:
        with server.connect() as client:
            client.send("Hello!")
            gate.step(2)
            gate.wait()
        assert client.close_code == 1000  # and that while the engine stands still
        gate.open()
        server.wait_finished(cancelled=1)


# Limits


def test_large_frames() -> None:
    with listening("abc") as server:
        with server.connect() as client:
            client.send("x" * (1024 * 1024 + 1))
            assert hear(client)["code"] == "frame_too_large"
            client.send("x" * (2 * 1024 * 1024 - 16))
            assert hear(client)["code"] == "frame_too_large"
            client.send(b"x")
            assert hear(client)["code"] == "invalid_frame"
            say(client, "ping")
            assert hear(client) == {"type": "pong"}
        with server.connect() as client, pytest.raises(ConnectionClosedError):
            send_and_hear(client, "x" * (3 * 1024 * 1024))


def test_a_message_in_endless_empty_parts() -> None:
    with listening("abc") as server:
        pipe = Pipe(server).part(b"", Opcode.TEXT)
        for _ in range(17_000):
            pipe.part(b"", Opcode.CONT)
        with contextlib.suppress(ConnectionError):  # it may be reset before all of that has left
            pipe.flush()
            assert pipe.read_all() == []
        assert not pipe.events


def test_a_message_in_parts() -> None:
    with listening(echo) as server, server.connect() as client:
        client.send(part for part in ("Hel", "", "lo", "!"))
        assert hear(client)["type"] == "started"
        frames = [hear(client)]
        while frames[-1]["type"] != "done":
            frames.append(hear(client))
        assert answer_of(frames) == echoed("Hello!")


def test_a_refusal_says_why() -> None:
    with listening("abc", {"api_keys": ("secret",)}) as server:
        with pytest.raises(InvalidStatus) as caught:
            server.connect(origin="http://evil.example")
        assert caught.value.response.status_code == 403
        assert json.loads(caught.value.response.body)["error"]["code"] == "origin_not_allowed"
        with pytest.raises(InvalidStatus) as caught:
            server.connect()
        assert caught.value.response.status_code == 401
        with server.connect(
            origin=f"http://127.0.0.1:{server.port}", additional_headers={"Authorization": "Bearer secret"}
        ) as client:
            say(client, "ping")
            assert hear(client) == {"type": "pong"}
        with server.connect(subprotocols=["headrace", "headrace.key.c2VjcmV0"]) as client:
            assert client.subprotocol == "headrace"


# Clients that do not read


@pytest.fixture
def deaf() -> Iterator[Any]:
    """Makes clients with little room for what they do not read."""
    with ExitStack() as stack:

        def make(server: Live) -> Pipe:
            pipe = Pipe(server)
            pipe._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stack.callback(pipe.drop)
            return pipe

        yield make


def test_a_client_that_does_not_read_pauses_its_streams(deaf: Any) -> None:
    with listening(ENDLESS, num_cells=400_000) as server:
        engine = server.scripted.engine
        pipe = deaf(server)
        for id in "ab":
            frame = {"type": "generate", "id": id, "prompt": "x", "max_tokens": 100_000}
            pipe.text(json.dumps(frame)).flush()
        wait_until(lambda: engine.metrics().paused == 2)
        assert engine.metrics().completion_tokens < 50_000
        with server.connect() as client:
            say(client, "generate", id="a", prompt="x", max_tokens=500)
            frames = [hear(client)]
            while frames[-1]["type"] != "done":
                frames.append(hear(client))
            assert len(frames) == 502
        pipe.drop()
        wait_until(lambda: engine.metrics().streams_finished == {"length": 1, "cancelled": 2})


def test_a_client_that_never_reads_again_is_cut(deaf: Any) -> None:
    with listening(ENDLESS, {"stall_timeout_ms": 300}, num_cells=400_000) as server:
        pipe = deaf(server)
        pipe.text('{"type":"generate","id":"a","prompt":"x","max_tokens":100000}').flush()
        wait_until(lambda: sum(server.scripted.engine.metrics().streams_finished.values()) == 1)
        frames = pipe.read_all()  # what the system's buffers held
        assert frames[-1]["type"] == "token"
        assert pipe.events[-1].opcode is Opcode.TEXT, "it was not closed, but cut"


def test_an_app_can_drop_its_connection() -> None:
    dropped: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        scope["extensions"]["headrace"]["abort"]()
        dropped.append(await receive())

    with live(app) as port, connect(f"ws://127.0.0.1:{port}/ws") as client:
        with pytest.raises(ConnectionClosedError, match="no close frame"):
            client.recv(PATIENCE)
        wait_until(lambda: dropped)
        assert dropped[0]["type"] == "websocket.disconnect"


# The end of the server


def test_a_server_that_stops_closes_its_sockets() -> None:
    with serving(ENDLESS, {"websocket": True}) as server, ExitStack() as stack:
        port = stack.enter_context(live(server.app))
        with connect(f"ws://127.0.0.1:{port}/ws") as client:
            say(client, "generate", id="a", prompt="x", max_tokens=100_000)
            assert hear(client)["type"] == "started"
            stack.close()
            with pytest.raises(ConnectionClosedError, match="1012"):
                hear_all(client)
        wait_until(lambda: server.scripted.engine.metrics().streams_finished == {"cancelled": 1})


def test_draining_lets_streams_end_and_then_closes() -> None:
    gate = Gate()
    with serving(echo, {"websocket": True}, before_step=gate) as server, ExitStack() as stack:
        port = stack.enter_context(live(server.app))
        with connect(f"ws://127.0.0.1:{port}/ws") as client:
            say(client, "generate", id="a", prompt="x")
            assert hear(client)["type"] == "started"
            gate.wait()
            server.service.is_draining = True
            say(client, "generate", id="b", prompt="x")
            frame = hear(client)
            assert (frame["id"], frame["code"]) == ("b", "server_draining")
            gate.open()
            frames = [hear(client)]
            while frames[-1]["type"] != "done":
                frames.append(hear(client))
            assert answer_of(frames) == echoed("x")
            stack.close()
            with pytest.raises(ConnectionClosedError, match="1012"):
                hear(client)
