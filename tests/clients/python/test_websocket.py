"""The protocol of /ws through the `websockets` library: many streams on one socket, windows, cancels, errors."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
import websockets.exceptions
from serving import PATIENCE, Server, wait_until
from websockets.sync.client import ClientConnection, connect

SHORT = {"type": "generate", "prompt": "The sea is deep and", "temperature": 0, "seed": 1, "max_tokens": 12}
ENDLESS = SHORT | {"max_tokens": 1900, "ignore_eos": True}


@pytest.fixture
def socket(server: Server) -> Iterator[ClientConnection]:
    with connect(server.url.replace("http", "ws") + "/ws", max_size=None) as socket:
        yield socket


def send(socket: ClientConnection, frame: dict[str, Any]) -> None:
    socket.send(json.dumps(frame))


def receive(socket: ClientConnection) -> dict[str, Any]:
    frame = socket.recv(timeout=PATIENCE)
    assert isinstance(frame, str), "text frames only"
    return json.loads(frame)


def receive_until(socket: ClientConnection, type: str, id: str) -> list[dict[str, Any]]:
    """All frames up to a certain one."""
    frames = [receive(socket)]
    while (frames[-1]["type"], frames[-1].get("id")) != (type, id):
        frames.append(receive(socket))
    return frames


def tokens_of(frames: list[dict[str, Any]], id: str) -> list[dict[str, Any]]:
    return [frame for frame in frames if frame["type"] == "token" and frame["id"] == id]


def test_one_stream(socket: ClientConnection) -> None:
    send(socket, SHORT | {"id": "a"})
    started, *frames, done = receive_until(socket, "done", "a")
    assert started == {"type": "started", "id": "a"}
    assert {frame["type"] for frame in frames} == {"token"}
    assert [token["index"] for token in frames] == list(range(12))
    assert {token["kind"] for token in frames} == {"text"}
    assert "".join(token["text"] for token in frames)
    assert done["finish_reason"] == "length"
    assert done["usage"]["completion_tokens"] == 12
    assert done["metrics"]["time_to_first_token_ms"] > 0


def test_a_chat(socket: ClientConnection) -> None:
    messages = [{"role": "user", "content": "Name the capital of France."}]
    send(socket, {"type": "generate", "id": "chat", "messages": messages, "temperature": 0, "seed": 1})
    frames = receive_until(socket, "done", "chat")
    assert "Paris" in "".join(token["text"] for token in tokens_of(frames, "chat"))
    assert frames[-1]["finish_reason"] == "stop"


def test_a_plain_text_frame_is_a_prompt(socket: ClientConnection) -> None:
    socket.send("Hello!")
    frames = receive_until(socket, "done", "0")
    assert frames[0] == {"type": "started", "id": "0"}
    assert tokens_of(frames, "0")


def test_many_streams_on_one_socket(socket: ClientConnection) -> None:
    ids = [f"s{i}" for i in range(8)]
    for i, id in enumerate(ids):
        send(socket, SHORT | {"id": id, "prompt": f"Number {i} is", "max_tokens": 24, "ignore_eos": True})
    frames: dict[str, list[dict[str, Any]]] = defaultdict(list)
    order: list[str] = []
    while sum(frame["type"] == "done" for one in frames.values() for frame in one) < len(ids):
        frame = receive(socket)
        frames[frame["id"]].append(frame)
        if frame["type"] == "token":
            order.append(frame["id"])
    for id in ids:
        started, *tokens, done = frames[id]
        assert (started["type"], done["type"]) == ("started", "done")
        assert [token["index"] for token in tokens] == list(range(24))
    assert order != sorted(order), "one after the other is not at once"


def test_a_window_is_kept(socket: ClientConnection) -> None:
    send(socket, ENDLESS | {"id": "w", "window": 4, "max_tokens": 40})
    assert receive(socket)["type"] == "started"
    assert [receive(socket)["index"] for _ in range(4)] == [0, 1, 2, 3]
    # What came too early would come before the pong.
    send(socket, {"type": "ping"})
    assert receive(socket) == {"type": "pong"}
    send(socket, {"type": "ack", "id": "w", "index": 1})
    assert [receive(socket)["index"] for _ in range(2)] == [4, 5]
    send(socket, {"type": "ping"})
    assert receive(socket) == {"type": "pong"}
    last = 5
    while True:
        send(socket, {"type": "ack", "id": "w", "index": last})
        frame = receive(socket)
        if frame["type"] == "done":
            break
        last = frame["index"]
    assert last == 39


def test_cancel(socket: ClientConnection) -> None:
    send(socket, ENDLESS | {"id": "c"})
    send(socket, SHORT | {"id": "other"})
    receive_until(socket, "token", "c")
    send(socket, {"type": "cancel", "id": "c"})
    pending = {"c", "other"}
    ends: dict[str, str] = {}
    while pending:
        frame = receive(socket)
        if frame["type"] == "done":
            ends[frame["id"]] = frame["finish_reason"]
            pending.remove(frame["id"])
    assert ends == {"c": "cancelled", "other": "length"}
    send(socket, SHORT | {"id": "c"})
    assert receive_until(socket, "done", "c")[-1]["finish_reason"] == "length", "its id is free again"


@pytest.mark.parametrize(
    ("frame", "id", "says"),
    [
        ({"type": "sing", "id": "a"}, "a", "sing"),
        ({"type": "generate", "id": "a"}, "a", "prompt"),
        (SHORT | {"id": "a", "temperature": -1}, "a", "temperature"),
        (SHORT | {"id": "a", "temprature": 1}, "a", "temprature"),
        (SHORT | {"id": "a", "prompt": "word " * 3000}, "a", "2048"),
        ({"type": "cancel", "id": "nobody"}, "nobody", "nobody"),
    ],
)
def test_an_error_leaves_the_socket_alive(socket: ClientConnection, frame: dict[str, Any], id: str, says: str) -> None:
    send(socket, frame)
    error = receive(socket)
    assert (error["type"], error["id"]) == ("error", id)
    assert says in error["message"]
    assert error["code"]
    send(socket, SHORT | {"id": "next"})
    assert receive_until(socket, "done", "next")[-1]["finish_reason"] == "length"


def test_a_second_stream_with_a_live_id_is_refused(socket: ClientConnection) -> None:
    send(socket, ENDLESS | {"id": "twice"})
    receive_until(socket, "token", "twice")
    send(socket, SHORT | {"id": "twice"})
    error = receive_until(socket, "error", "twice")[-1]
    assert "twice" in error["message"]
    receive_until(socket, "token", "twice")
    send(socket, {"type": "cancel", "id": "twice"})
    assert receive_until(socket, "done", "twice")[-1]["finish_reason"] == "cancelled"


def test_a_frame_that_is_too_large_is_refused(socket: ClientConnection) -> None:
    socket.send("x" * (1024 * 1024 + 1))
    assert receive(socket)["type"] == "error"
    send(socket, {"type": "ping"})
    assert receive(socket) == {"type": "pong"}


def test_closing_the_socket_cancels_its_streams(server: Server, socket: ClientConnection) -> None:
    def cancelled() -> float:
        return server.metric("headrace_streams_finished_total", reason="cancelled")

    before = cancelled()
    for id in ("x", "y"):
        send(socket, ENDLESS | {"id": id})
        receive_until(socket, "token", id)
    socket.close()
    wait_until(lambda: cancelled() == before + 2, "both are cancelled")


def test_a_foreign_origin_is_refused(server: Server) -> None:
    with pytest.raises(websockets.exceptions.InvalidStatus, match="403"):
        connect(server.url.replace("http", "ws") + "/ws", origin="https://evil.example")


def test_the_key_is_wanted_here_too(narrow: Server) -> None:
    url = narrow.url.replace("http", "ws") + "/ws"
    for headers in ({}, {"Authorization": "Bearer guessed"}):
        with pytest.raises(websockets.exceptions.InvalidStatus, match="401"):
            connect(url, additional_headers=headers)
    with connect(url, additional_headers={"Authorization": "Bearer secret"}) as socket:
        send(socket, SHORT | {"id": "a"})
        assert receive_until(socket, "done", "a")[-1]["finish_reason"] == "length"


def test_a_timeout_is_an_error_of_its_stream(narrow: Server) -> None:
    url = narrow.url.replace("http", "ws") + "/ws"
    with connect(url, additional_headers={"Authorization": "Bearer secret"}) as socket:
        send(socket, ENDLESS | {"id": "a", "max_tokens": 8000})
        frames = receive_until(socket, "error", "a")
        assert tokens_of(frames, "a")
        assert frames[-1]["code"] == "timeout"
        send(socket, {"type": "ping"})
        assert receive(socket) == {"type": "pong"}
