"""The server examples with a scripted model: who waits for whom, who is cancelled when, and what is said of errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import pytest
from harness import Gate, Scripted, echo, run_async, scripted, wait_until
from server.harness import TEMPLATE, Socket
from server.websocket.peer import Peer

from examples.test_programs import imported
from headrace import AsyncModel, GenerationError, StreamTimeoutError

ENDLESS = "x" * 100_000


@asynccontextmanager
async def app_of(
    name: str, script: Any, monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> AsyncIterator[tuple[Any, Scripted, ModuleType]]:
    """The app of an example between its start and its end, with a scripted model in place of the one it loads."""
    example = imported(name, monkeypatch)
    with scripted(script, chat_template=TEMPLATE, **settings) as model:

        async def load(_ref: str) -> AsyncModel:
            return model.asynchronous

        monkeypatch.setattr(AsyncModel, "load", load)
        async with example.app.router.lifespan_context(example.app) as state:

            async def app(scope: Any, receive: Any, send: Any) -> None:
                scope["state"].update(state)  # as the server does
                await example.app(scope, receive, send)

            try:
                yield app, model, example
            finally:
                for gate in model.gates:
                    gate.open()


def ask(app: Any, prompt: str = "hi", **fields: Any) -> Socket:
    """A question to the SSE endpoint."""
    body = {"prompt": prompt, "max_tokens": 100_000, **fields}
    return Socket(app, "POST", "/generate", body).start()


async def eventually(condition: Callable[[], object]) -> None:
    """Wait for something that nobody announces, without holding the event loop."""
    await asyncio.to_thread(wait_until, condition)


def test_sse_arrives_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        gate = Gate()
        async with app_of("fastapi_sse", "abc", monkeypatch, before_step=gate) as (app, _, _):
            socket = ask(app)
            for number, letter in enumerate("abc", start=1):
                await asyncio.to_thread(gate.step)
                await socket.until(b'data: {"text": "%b"}\n\n' % letter.encode())
                assert len(socket.writes) == number
            gate.open()
            answer = await socket.until_over()
            assert answer.status == 200
            assert json.loads(answer.events[-1].data) == {"finish_reason": "stop", "tokens": 4}
            assert answer.events[-1].name == "done"

    run_async(run())


def test_sse_ends_when_the_client_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it decodes, while its prompt is read, and while it is queued."""

    async def run() -> None:
        gate = Gate()
        settings = {"before_step": gate, "max_batch": 16, "max_streams": 1}
        async with app_of("fastapi_sse", ENDLESS, monkeypatch, **settings) as (app, model, _):
            decoding = ask(app)
            for _ in range(10):
                await asyncio.to_thread(gate.step)
            await decoding.until(b"data")
            await asyncio.to_thread(gate.wait)
            queued = ask(app, "queued")
            await eventually(lambda: model.engine.metrics().queued == 1)
            queued.leave()
            await queued.until_over()
            await eventually(lambda: model.engine.metrics().streams_finished == {"cancelled": 1})

            reading = ask(app, "z" * 500)
            await eventually(lambda: model.engine.metrics().queued == 1)
            decoding.leave()
            await decoding.until_over()
            gate.pass_one()
            await asyncio.to_thread(gate.wait)
            assert len(gate.slices[0].tokens) == 16, "the next one is being read"
            reading.leave()
            gate.open()
            await reading.until_over()
            await eventually(lambda: model.engine.metrics().streams_finished == {"cancelled": 3})
            assert reading.writes == []

    run_async(run())


def test_sse_waits_for_a_slow_client(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with app_of("fastapi_sse", "x" * 500, monkeypatch) as (app, model, _):
            slow = ask(app)
            slow.stop_taking()
            await eventually(lambda: model.engine.metrics().paused == 1)
            assert (await ask(app, max_tokens=50).until_over()).status == 200, "another one does not wait for it"
            assert model.engine.metrics().completion_tokens <= 50 + 100, "it went on without its reader"
            slow.go_on_taking()
            answer = await slow.until_over()
            assert sum(event.data == '{"text": "x"}' for event in answer.events) == 500

    run_async(run())


def test_sse_says_what_is_wrong_as_a_status(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        gate = Gate()
        settings = {"before_step": gate, "max_streams": 1, "max_queue": 0}
        async with app_of("fastapi_sse", ENDLESS, monkeypatch, **settings) as (app, model, example):

            async def status(**fields: Any) -> int:
                answer = await ask(app, **fields).until_over()
                assert answer.json["error"], "it says nothing"
                return answer.status

            assert await status(max_tokens=0) == 400
            assert await status(prompt=" ") == 400
            assert await status(prompt="y" * 10_000) == 400
            running = ask(app)
            await asyncio.to_thread(gate.wait)
            answer = await ask(app).until_over()
            assert (answer.status, int(answer.headers["retry-after"]) >= 1) == (429, True)
            gate.open()
            running.leave()
            await running.until_over()
            await asyncio.to_thread(model.model.close)
            assert await status() == 503
            assert (await example.refused(None, StreamTimeoutError("late", "total"))).status_code == 504
            assert (await example.refused(None, GenerationError("broken"))).status_code == 500

    run_async(run())


def test_sse_says_what_goes_wrong_later_as_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        count = iter(range(100))

        def fail_later(*_: object) -> None:
            if next(count) == 3:
                raise RuntimeError("the third token is broken")

        async with app_of("fastapi_sse", ENDLESS, monkeypatch, on_sample=fail_later) as (app, _, _):
            answer = await ask(app).until_over()
            assert answer.status == 200
            assert [event.name for event in answer.events] == ["message"] * 3 + ["error"]
            assert json.loads(answer.events[-1].data)["message"]

    run_async(run())


def said(peer: Peer, id: str) -> str:
    """The text of one answer so far."""
    return "".join(frame["text"] for frame in peer.of(id) if frame["type"] == "token")


async def done(peer: Peer, id: str) -> dict[str, Any]:
    """The frame that ends an answer."""
    await peer.until(lambda: any(frame["type"] == "done" for frame in peer.of(id)))
    return peer.of(id)[-1]


def test_websocket_answers_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with app_of("fastapi_websocket", echo, monkeypatch) as (app, _, _):
            peer = Peer(app)
            for id in ("a", "b"):
                peer.generate(id, f"question {id}")
            for id in ("a", "b"):
                last = await done(peer, id)
                assert said(peer, id).count(f"<user>question {id}]") == 3
                assert last == {"type": "done", "id": id, "finish_reason": "stop", "tokens": len(peer.of(id)) - 1}
            peer.leave()
            await peer.until_over()

    run_async(run())


def test_websocket_cancels_one_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with app_of("fastapi_websocket", ENDLESS, monkeypatch, num_cells=100_000) as (app, model, _):
            peer = Peer(app)
            for id in ("a", "b"):
                peer.generate(id)
            await peer.until(lambda: said(peer, "a") and said(peer, "b"))
            peer.stop_taking()  # now both want to write, and may not do so at once
            await eventually(lambda: model.engine.metrics().paused == 2)
            peer.go_on_taking()
            peer.say(type="cancel", id="b")
            peer.say(type="cancel", id="nobody")
            assert (await done(peer, "b"))["finish_reason"] == "cancelled"
            so_far = len(said(peer, "a"))
            await peer.until(lambda: len(said(peer, "a")) > so_far + 100)
            peer.generate("b")  # the name is free again
            await peer.until(lambda: peer.of("b")[-1]["type"] == "token")
            peer.leave()
            await peer.until_over()
            await eventually(lambda: model.engine.metrics().streams_finished == {"cancelled": 3})

    run_async(run())


def test_websocket_ends_when_the_client_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs and what is queued; also where it has not taken what it was sent."""

    async def run() -> None:
        async with app_of("fastapi_websocket", ENDLESS, monkeypatch, max_streams=1) as (app, model, _):
            peer = Peer(app)
            peer.generate("running")
            await peer.until(lambda: said(peer, "running"))
            peer.stop_taking()
            await eventually(lambda: model.engine.metrics().paused == 1)
            assert model.engine.metrics().completion_tokens <= len(said(peer, "running")) + 100
            for id in ("c", "d"):
                peer.generate(id)
            await eventually(lambda: model.engine.metrics().streams_started == 3)
            peer.leave()
            await peer.until_over()
            await eventually(lambda: model.engine.metrics().streams_finished == {"cancelled": 3})

    run_async(run())


def test_websocket_says_what_is_wrong_and_lives_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        gate = Gate()
        settings = {"before_step": gate, "max_streams": 1, "max_queue": 0}
        async with app_of("fastapi_websocket", "abc", monkeypatch, **settings) as (app, _, _):
            peer = Peer(app)
            for nonsense in ("{", "[]", b"\xff", "", '{"type": "sing", "id": "a"}', '{"type": "generate", "id": "a"}'):
                peer.say(nonsense)
                assert (await peer.error())["id"] is None
            peer.generate("a", max_tokens=0)
            assert "max_tokens" in (await peer.error())["message"]
            peer.generate("a", "y" * 10_000)
            assert "context" in (await peer.error())["message"]
            peer.generate("a")
            await asyncio.to_thread(gate.wait)
            peer.generate("a")
            assert "this id" in (await peer.error())["message"]
            peer.generate("b")
            error = await peer.error()
            assert (error["id"], "queue is full" in error["message"]) == ("b", True)
            gate.open()
            await done(peer, "a")
            assert said(peer, "a") == "abc"
            peer.leave()
            await peer.until_over()

    run_async(run())
