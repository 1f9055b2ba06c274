"""`/ws` from the client's end: streams side by side, windows, slow readers, and leaving in every stage."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from harness import PATIENCE, UNHURRIED, Gate, echo, echoed, run_async, wait_until

from headrace.server.serving.generation import Generation
from headrace.server.websocket.socket import CLIENT_LISTENS
from server.harness import Server, busy_prompt_workers, running

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
        self.status = 0  # of a response in place of the handshake's
        self.body = b""
        self.frames: list[dict[str, Any]] = []
        self.closed_with: int | None = None
        self.said_late: list[str] = []  # what crosses the Close on its way
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
        self.refusal: Exception | None = None  # what a write raises
        self._takes = asyncio.Event()
        self._takes.set()
        self._returns = asyncio.Event()
        self._lingers_after = ""
        self._is_sending = False
        self._came = asyncio.Condition()
        self._seen = 0
        self.task = asyncio.ensure_future(self._app(self._scope, self._said.get, self._send))

    # What the client does.

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
        """Say Close, but go on listening."""
        self._said.put_nowait({"type": "websocket.disconnect", "code": 1005, CLIENT_LISTENS: True})

    def stop_taking(self) -> None:
        """Let every write wait from now on, as a full socket buffer does."""
        self._takes.clear()

    def go_on_taking(self) -> None:
        """Let writes through again."""
        self._takes.set()
        self._returns.set()

    def linger_after(self, type: str) -> None:
        """Let the writer of such a frame wait, although the frame is taken; `go_on_taking` ends that."""
        self._lingers_after = type

    # What it sees.

    def of(self, id: str) -> list[dict[str, Any]]:
        """The frames of one stream that came so far."""
        return [frame for frame in self.frames if frame.get("id") == id]

    def text(self, id: str = "a") -> str:
        """The text of one stream so far; its tokens have come without gaps."""
        tokens = [frame for frame in self.of(id) if frame["type"] == "token"]
        assert [token["index"] for token in tokens] == list(range(len(tokens)))
        return "".join(token["text"] for token in tokens)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something is true of what came."""
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
        """Wait until everything that was said until now has been heard, and answered."""
        pongs = self.frames.count({"type": "pong"})
        self.say(type="ping")
        await self.until(lambda: self.frames.count({"type": "pong"}) > pongs)

    async def until_over(self) -> None:
        """Wait until the app has done with this socket."""
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
    """A server, and a socket that is open; in the end the socket is gone, and no stream is left."""
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
    """How many streams ended how."""
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
    """Wait for something that nobody announces."""
    await asyncio.to_thread(wait_until, condition)


async def heard(peer: Peer) -> None:
    """Wait until the server has heard all that was said, where it cannot answer."""
    while peer._said.qsize():
        await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.sleep(0)


# Streams


def test_a_stream_from_its_first_frame_to_its_last() -> None:
    async def run() -> None:
        async with connected("héllo") as (server, peer):
            peer.generate("a")
            done = await peer.until_last()
            started, *tokens, _ = peer.frames
            assert started == {"type": "started", "id": "a"}
            # A byte is a token here: the first half of é has no text yet, and the end of the text is a token as well.
            assert [token["text"] for token in tokens] == ["h", "", "é", "l", "l", "o", ""]
            assert tokens[1] == {"type": "token", "id": "a", "text": "", "index": 1, "kind": "text"}
            assert (done["finish_reason"], done["usage"]["completion_tokens"]) == ("stop", 7)
            assert done["metrics"]["latency_ms"] > 0
            await server.settled()

    run_async(run())


def test_a_plain_text_a_prompt_of_tokens_and_a_chat() -> None:
    async def run() -> None:
        async with connected(echo) as (_, peer):
            peer.say("Hello!\n")
            await peer.until_last("0")
            assert peer.text("0") == echoed("Hello!")
            peer.generate("ids", prompt=[ord("x") + 1])
            await peer.until_last("ids")
            assert peer.text("ids") == echoed("x")
            peer.generate("system", prompt="hi", system_prompt="be")
            await peer.until_last("system")
            assert peer.text("system") == echoed("<system>be<user>hi")
            messages = [{"role": "developer", "content": "be"}, {"role": "user", "content": "hi"}]
            peer.generate("chat", prompt=None, messages=messages, model="scripted")
            await peer.until_last("chat")
            assert peer.text("chat") == echoed("<system>be<user>hi")

    run_async(run())


def test_settings_reach_the_engine() -> None:
    async def run() -> None:
        async with connected("one two END three") as (_, peer):
            peer.generate("a", stop="END")
            done = await peer.until_last("a")
            assert (done["finish_reason"], done["stop_sequence"], peer.text("a")) == (
                "stop_sequence",
                "END",
                "one two ",
            )
            peer.generate("b", max_tokens=3)
            assert (await peer.until_last("b"))["finish_reason"] == "length"
            peer.say(type="generate", id="c", prompt="x")
            done = await peer.until_last("c")
            assert done["finish_reason"] == "stop"

    run_async(run())


def test_streams_run_side_by_side() -> None:
    async def run() -> None:
        gate = Gate()
        async with connected(echo, before_step=gate) as (server, peer):
            with server.scripted.hold():
                peer.generate("a", "aaa")
                peer.generate("b", "bbb")
                await wait(lambda: len(server.service.live) == 2 and all(server.service.live.values()))
            for count in range(1, 6):
                await asyncio.to_thread(gate.step)
                await peer.until(lambda count=count: len(peer.text("a")) == len(peer.text("b")) == count)
            gate.open()
            await asyncio.gather(peer.until_last("a"), peer.until_last("b"))
            assert (peer.text("a"), peer.text("b")) == (echoed("aaa"), echoed("bbb"))

    run_async(run())


def test_an_id_is_free_as_soon_as_its_stream_is_over() -> None:
    async def run() -> None:
        async with connected("ab") as (_, peer):
            for count in range(1, 20):
                peer.generate("a")
                await peer.until(lambda count=count: [frame["type"] for frame in peer.frames].count("done") == count)
            assert Counter(frame["type"] for frame in peer.frames) == {"started": 19, "token": 57, "done": 19}

    run_async(run())


def test_an_id_is_free_even_before_the_server_is_done_with_its_stream() -> None:
    async def run() -> None:
        async with connected("ab") as (server, peer):
            peer.linger_after("done")
            peer.generate()
            await peer.until_last()
            assert server.service.live, "its name is taken, as long as the write has not returned"
            peer.generate()
            await heard(peer)
            peer.go_on_taking()
            await peer.until(lambda: [frame["type"] for frame in peer.frames].count("done") == 2)
            assert Counter(frame["type"] for frame in peer.frames) == {"started": 2, "token": 6, "done": 2}

    run_async(run())


def test_sockets_do_not_share_their_ids() -> None:
    async def run() -> None:
        async with connected(echo) as (server, peer):
            other = Peer(server.app)
            peer.generate("a", "one")
            other.generate("a", "two")
            await asyncio.gather(peer.until_last(), other.until_last())
            assert (peer.text(), other.text()) == (echoed("one"), echoed("two"))
            other.leave()
            await other.until_over()

    run_async(run())


def test_the_server_knows_a_stream_by_the_names_of_socket_and_stream() -> None:
    async def run() -> None:
        gate = Gate()
        async with running(ENDLESS, {"websocket": True}, before_step=gate) as server:
            peer, twin = (Peer(server.app, {"X-Request-Id": "my-socket"}) for _ in range(2))
            peer.generate("a")
            await peer.until(lambda: peer.of("a"))
            assert peer.accepted is not None
            assert peer.accepted["headers"] == [(b"x-request-id", b"my-socket")]
            assert list(server.service.live) == ["my-socket:a"]
            twin.generate("a")
            error = await twin.error()
            assert (error["id"], error["code"], error["final"]) == ("a", "id_in_use", True)
            gate.open()
            assert (await server.ask("DELETE", "/v1/streams/my-socket:a")).json["cancelled"]
            assert (await peer.until_last())["finish_reason"] == "cancelled"
            for one in (peer, twin):
                one.leave()
                await one.until_over()

    run_async(run())


def test_logprobs() -> None:
    async def run() -> None:
        async with connected("abc") as (_, peer):
            peer.generate(logprobs=1)
            await peer.until_last()
            entries = [entry for frame in peer.frames for entry in frame.get("logprobs", [])]
            assert "".join(entry["token"] for entry in entries) == "abc"

    run_async(run())


# Errors


@pytest.mark.parametrize(
    ("fields", "code", "says"),
    [
        ({"temperature": -1}, "invalid_value", "temperature is -1; allowed: "),
        ({"max_tokens": 0}, "invalid_value", "max_tokens is 0"),
        ({"max_tokens": "many"}, "invalid_value", "max_tokens is 'many'"),
        ({"stop": [""]}, "invalid_value", "stop is ('',)"),
        ({"logit_bias": {"x": 1}}, "invalid_value", "logit_bias"),
        (
            {"timeout_ms": 60_001},
            "invalid_value",
            "timeout_ms is 60001; allowed: a finite number above 0, at most 60000",
        ),
        ({"timeout_ms": 0}, "invalid_value", "timeout_ms is 0; allowed: a finite number above 0"),
        ({"stall_timeout_ms": 50_001}, "invalid_value", "stall_timeout_ms is 50001"),
        ({"model": "other"}, "model_not_found", "model is 'other'; allowed: scripted"),
        ({"prompt": "  \n"}, "invalid_value", "prompt"),
        ({"prompt": []}, "invalid_value", "prompt"),
        ({"prompt": [999]}, "invalid_value", "prompt"),
        ({"prompt": [1], "system_prompt": "be"}, "invalid_value", "system_prompt"),
        ({"prompt": "x" * 5000}, "context_length_exceeded", "the prompt has 5000 tokens, but the context holds 4096"),
    ],
)
def test_what_cannot_be_generated(fields: dict[str, Any], code: str, says: str) -> None:
    async def run() -> None:
        async with connected("abc", {"timeout_ms": 60_000, "stall_timeout_ms": 50_000}) as (server, peer):
            peer.generate(**fields)
            error = await peer.error()
            assert (error["id"], error["code"], error["final"]) == ("a", code, True)
            assert says in error["message"]
            peer.generate()  # the socket lives, and the id is free
            await peer.until(lambda: peer.frames[-1]["type"] == "done")
            assert server.scripted.engine.metrics().streams_started == 1

    run_async(run())


def test_the_protocols_errors_leave_the_socket_and_its_streams_alive() -> None:
    async def run() -> None:
        gate = Gate()
        async with connected(echo, before_step=gate) as (_, peer):
            peer.generate("a")
            await asyncio.to_thread(gate.step, 2)
            await peer.until(lambda: len(peer.text()) == 2)
            seen = len(peer.frames)
            for frame in (
                '{"type":',
                "{}",
                b"x",
                {"type": "ack", "id": "a", "index": 2},
                {"type": "cancel", "id": "b"},
            ):
                peer.say(frame)
            peer.generate("a")
            peer.say("x" * (1024 * 1024 + 1))
            await peer.until_pong()
            codes = [frame["code"] for frame in peer.frames[seen:] if frame["type"] == "error"]
            assert codes == [
                "invalid_json",
                "unknown_type",
                "invalid_frame",
                "invalid_value",
                "unknown_id",
                "id_in_use",
                "frame_too_large",
            ]
            gate.open()
            await peer.until(lambda: peer.frames[-1]["type"] == "done")
            assert peer.text() == echoed("hi")

    run_async(run())


def test_a_full_queue() -> None:
    async def run() -> None:
        gate = Gate()
        async with connected("abc", before_step=gate, max_streams=1, max_queue=1) as (server, peer):
            peer.generate("running")
            await asyncio.to_thread(gate.wait)
            peer.generate("queued")
            await peer.until(lambda: peer.of("queued"))
            peer.generate("refused")
            error = await peer.until_last("refused")
            assert (error["code"], error["final"]) == ("queue_full", True)
            assert server.service.metrics.refused == 1
            gate.open()
            await asyncio.gather(peer.until_last("running"), peer.until_last("queued"))

    run_async(run())


def test_a_model_must_be_named_where_there_are_several() -> None:
    async def run() -> None:
        async with connected("abc") as (server, peer):
            server.service.add("second", server.scripted.model)
            peer.generate("a")
            error = await peer.error()
            assert error["code"] == "missing_required_parameter"
            assert "allowed: scripted, second" in error["message"]
            peer.generate("b", model="second")
            assert (await peer.until_last("b"))["type"] == "done"

    run_async(run())


def test_a_model_that_is_being_loaded() -> None:
    async def run() -> None:
        async with connected("abc") as (server, peer):
            server.service._served.clear()
            server.service.expect("soon")
            peer.generate("a")
            assert (await peer.error())["code"] == "model_loading"

    run_async(run())


def test_a_failing_step_ends_its_stream_with_an_error() -> None:
    async def run() -> None:
        def fail(_slices: Any) -> None:
            raise ValueError("secret")

        async with connected("abc", before_step=fail) as (server, peer):
            server.scripted.is_consistent = False
            peer.generate()
            error = await peer.until_last()
            assert (error["code"], error["final"]) == ("generation_failed", True)
            await peer.until_pong()

    run_async(run())


def test_a_timeout_ends_its_stream_with_an_error() -> None:
    async def run() -> None:
        gate = Gate()
        async with connected(ENDLESS, before_step=gate) as (server, peer):
            ended = noted_ends(server)
            peer.generate(timeout_ms=1)
            await peer.until(lambda: peer.of("a"))
            gate.open()
            error = await peer.until_last()
            assert (error["code"], error["final"]) == ("timeout", True)
            assert "timeout_ms" in error["message"]
            await server.settled()
            assert [one.error and one.error.code for one in ended] == ["timeout"]

    run_async(run())


def test_a_fault_of_the_server_is_logged_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with connected("abc") as (server, peer):
            begin = server.service.begin

            async def fail(*args: Any, **kwargs: Any) -> Any:
                monkeypatch.setattr(server.service, "begin", begin)
                raise ZeroDivisionError("secret")

            monkeypatch.setattr(server.service, "begin", fail)
            peer.generate("a")
            error = await peer.until_last()
            assert (error["code"], error["message"]) == ("internal_error", "the server failed")
            assert any(record.exc_info for record in caplog.records)
            peer.generate("b")
            assert (await peer.until_last("b"))["type"] == "done"

    run_async(run())


def test_logs_tell_of_streams_and_refusals_but_not_what_was_said(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        caplog.set_level(logging.INFO, "headrace.server")
        async with connected("answer") as (server, peer):
            peer.generate("good", "secret")
            await peer.until_last("good")
            peer.generate("bad", ["secret"], system_prompt="secret")
            await peer.until_last("bad")
            peer.generate("worse", "secret" * 1000)
            await peer.until_last("worse")
            await server.settled()
        fields = {one["id"].partition(":")[2]: one for one in (vars(record)["fields"] for record in caplog.records)}
        assert fields["good"]["finish_reason"] == "stop"
        assert (fields[""]["code"], fields[""]["param"]) == ("invalid_value", "prompt")
        assert fields["worse"]["code"] == "context_length_exceeded"
        assert "secret" not in str([vars(record) for record in caplog.records])

    run_async(run())


# Windows


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


# Cancelling


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


# Leaving


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


# A client that has said Close, and listens


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


# Slow readers


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


# Shutdown


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


# Who may come in


@pytest.mark.parametrize(
    ("origin", "origins", "is_let_in"),
    [
        (None, (), True),
        ("http://localhost:8080", (), True),
        ("https://LOCALHOST:8080", (), True),
        ("http://localhost", (), False),
        ("http://localhost:8080.evil.example", (), False),
        ("http://evil.example", (), False),
        ("null", (), False),
        ("", (), False),
        ("http://chat.example", ("http://chat.example",), True),
        ("https://chat.example", ("http://chat.example",), False),
        ("http://anybody.example", ("*",), True),
    ],
)
def test_the_origin_is_checked(origin: str | None, origins: tuple[str, ...], is_let_in: bool) -> None:
    async def run() -> None:
        async with running("abc", {"websocket": True, "cors_origins": origins}) as server:
            peer = Peer(server.app, {} if origin is None else {"Origin": origin})
            if is_let_in:
                await peer.until_pong()
                peer.leave()
            await peer.until_over()
            assert (peer.accepted is not None) == is_let_in
            if not is_let_in:
                assert (peer.status, json.loads(peer.body)["error"]["code"]) == (403, "origin_not_allowed")

    run_async(run())


def key_subprotocol(key: str) -> str:
    return "headrace.key." + base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    ("headers", "subprotocols", "is_let_in"),
    [
        ({"Authorization": "Bearer k?y/>1"}, [], True),
        ({"Authorization": "bearer k?y/>1"}, [], True),
        ({}, ["headrace", key_subprotocol("k?y/>1")], True),
        ({}, [], False),
        ({"Authorization": "Bearer wrong"}, [], False),
        ({"Authorization": "k?y/>1"}, [], False),
        ({"Authorization": "Basic k?y/>1"}, [], False),
        ({}, ["headrace", key_subprotocol("wrong")], False),
        ({}, ["headrace", "headrace.key."], False),
        ({}, ["headrace", "headrace.key.*"], False),
        ({}, ["headrace", key_subprotocol("ü")[:-1]], False),
    ],
)
def test_the_key_is_checked(headers: dict[str, str], subprotocols: list[str], is_let_in: bool) -> None:
    async def run() -> None:
        async with running("abc", {"websocket": True, "api_keys": ("other", "k?y/>1")}) as server:
            peer = Peer(server.app, headers, subprotocols)
            if is_let_in:
                await peer.until_pong()
                peer.leave()
            await peer.until_over()
            if is_let_in:
                assert peer.accepted is not None
                assert peer.accepted.get("subprotocol") == ("headrace" if subprotocols else None)
            else:
                assert peer.accepted is None
                assert (peer.status, json.loads(peer.body)["error"]["code"]) == (401, "invalid_api_key")

    run_async(run())


def test_a_server_that_can_only_say_no_says_no() -> None:
    async def run() -> None:
        async with running("abc", {"websocket": True}) as server:
            peer = Peer(server.app, {"Origin": "http://evil.example"}, can_refuse=False)
            await peer.until_over()
            assert (peer.accepted, peer.closed_with) == (None, 1000)

    run_async(run())


def test_a_bad_name_is_refused() -> None:
    async def run() -> None:
        async with running("abc", {"websocket": True}) as server:
            peer = Peer(server.app, {"X-Request-Id": "a b"})
            await peer.until_over()
            assert (peer.status, json.loads(peer.body)["error"]["param"]) == (400, "X-Request-Id")

    run_async(run())


def test_there_is_none_unless_it_was_asked_for() -> None:
    async def run() -> None:
        async with running("abc") as server:
            peer = Peer(server.app)
            await peer.until_over()
            assert peer.accepted is None

    run_async(run())
