"""`/v1/responses`: streams that fail, are cancelled, left or resumed."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from harness import BYTES, Gate, ids, run_async

from server.harness import Answer, events_of, running
from server.openai.responding import (
    BEGINNING,
    DELTA,
    ENDING,
    LOGPROBS,
    OPENING,
    ask,
    checked,
    delta_logprobs,
    delta_text,
    open_response,
)

TEXT = 'Blue 🌊 é\n\u2028 "quoted" \\ back\t</s>'


def failed(events: list[dict[str, Any]], type: str, text: str) -> None:
    """Check the last event of a stream that failed after this text."""
    response = events[-1]["response"]
    assert response["status"] == "failed"
    assert set(response["error"]) == {"code", "message", "type", "param"}
    assert (response["error"]["code"], response["error"]["type"]) == ("server_error", type)
    items = [(item["status"], item["content"][0]["text"]) for item in response["output"]]
    assert items == ([("incomplete", text)] if text else [])
    assert delta_text(events) == text
    assert (response["usage"], response["completed_at"], response["incomplete_details"]) == (None, None, None)


@pytest.mark.parametrize("include", [None, LOGPROBS])
def test_a_failing_engine(include: Any) -> None:
    def fail(part: Any, sample: Any) -> None:
        if part.start > 10:
            raise RuntimeError("broken")

    events = checked(ask("é" * 99, on_sample=fail, stream=True, include=include))
    # The last token that was sampled was half a character, of which nothing is shown.
    failed(events, "server_error", "éé")
    logprobs = delta_logprobs(events)
    assert events[-1]["response"]["output"][0]["content"][0]["logprobs"] == logprobs
    assert len(logprobs) == (4 if include else 0)
    whole = ask("é" * 99, on_sample=fail)
    assert (whole.status, whole.error["type"]) == (500, "server_error")


def test_a_deadline() -> None:
    async def run() -> None:
        gate = Gate()
        async with running("x" * 3000, {"timeout_ms": 50}, before_step=gate) as server:
            streamed, whole = open_response(server, "r1", stream=True), open_response(server, "r2")
            await asyncio.to_thread(gate.wait)
            await asyncio.sleep(0.06)  # the deadline itself, which must pass before the next step
            gate.open()
            events = checked(await streamed.until_over())
            failed(events, "timeout_error", delta_text(events))
            answer = await whole.until_over()
            assert (answer.status, answer.error["type"]) == (504, "timeout_error")

    run_async(run())


def test_cancelling_by_name() -> None:
    async def run() -> None:
        gate = Gate()
        async with running("x" * 3000, before_step=gate) as server:
            socket = open_response(server, "r1", stream=True)
            await asyncio.to_thread(gate.step, 2)
            await socket.until_events(5)
            assert (await server.ask("DELETE", "/v1/streams/r1")).json["cancelled"]
            gate.open()
            events = checked(await socket.until_over())
            failed(events, "cancelled_error", delta_text(events))
            assert delta_text(events).startswith("x")

    run_async(run())


def test_a_shutdown() -> None:
    async def run() -> None:
        gate = Gate()
        async with running("x" * 3000, before_step=gate) as server:
            socket = open_response(server, "r1", stream=True)
            await asyncio.to_thread(gate.step, 2)
            await socket.until_events(5)
            server.service.cut_off()
            gate.open()
            events = checked(await socket.until_over())
            failed(events, "server_error", delta_text(events))
            assert "shutting down" in events[-1]["response"]["error"]["message"]

    run_async(run())


@pytest.mark.parametrize("stream", [False, True])
def test_leaving_cancels(stream: bool) -> None:
    async def run() -> None:
        gate = Gate()
        async with running("x" * 3000, before_step=gate) as server:
            socket = open_response(server, "r1", stream=stream)
            await asyncio.to_thread(gate.step, 2)
            socket.leave()
            await socket.until_over()
            gate.open()
            await server.settled()
            assert server.scripted.engine.metrics().streams_finished == {"cancelled": 1}

    run_async(run())


def test_resuming_after_every_event() -> None:
    pieces = {**BYTES, 300: "é".encode(), 301: "🌊".encode()}
    script = [*ids("n"), 300, 301, *ids("\nend")]

    async def run() -> None:
        async with running(script, pieces=pieces) as server:
            whole = await open_response(server, "r1", stream=True, resumable=True).until_over()
            assert delta_text(checked(whole)) == "né🌊\nend"
            count = len(whole.events)
            assert [event.id for event in whole.events] == [str(number + 1) for number in range(count)]
        for cut in range(count + 1):
            gate = Gate()
            async with running(script, pieces=pieces, before_step=gate) as server:
                socket = open_response(server, "r1", stream=True, resumable=True)
                while len(before := await socket.until_events(1)) < cut:
                    await asyncio.to_thread(gate.step)
                    await socket.until_events(min(cut, len(before) + 1))
                socket.leave()
                await socket.until_over()
                gate.open()
                last = before[:cut][-1].id if cut else "0"
                assert last is not None
                rest = await server.ask("GET", "/v1/streams/r1", b"", Last_Event_ID=last)
                first = b"".join(one + b"\n\n" for one in socket.body.split(b"\n\n")[:cut])
                joined = Answer(200, rest.headers, first + rest.body)
                assert [event.id for event in joined.events] == [event.id for event in whole.events]
                assert delta_text(checked(joined)) == "né🌊\nend"

    run_async(run())


def test_one_write_for_each_step() -> None:
    async def run() -> None:
        gate = Gate()
        async with running("abc", before_step=gate) as server:
            socket = open_response(server, "r1", stream=True)
            await socket.until_events(len(BEGINNING))
            for number in range(3):
                await asyncio.to_thread(gate.step)
                await socket.until_events(len(BEGINNING) + len(OPENING) + 1 + number)
            gate.open()
            await socket.until_over()
            types = [[json.loads(event.data)["type"] for event in events_of(write)] for write in socket.writes]
            ending = [*ENDING, "response.completed"]
            assert types == [list(BEGINNING), [*OPENING, DELTA], [DELTA], [DELTA], ending]

    run_async(run())
