"""Resumable streams: no event is lost, wherever the connection breaks."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from harness import BYTES, Gate, ids, run_async

from server.harness import Event, Server, content_of, running

# A token for each character, so that each step brings an event.
PIECES = {**BYTES, 300: "é".encode(), 301: "🌊".encode()}
SCRIPT = [*ids("n"), 300, 301, *ids("\nend")]
TEXT = "né🌊\nend"


async def follow(server: Server, id: str, after: str | None) -> Any:
    """Come back for what was missed."""
    headers = {} if after is None else {"Last_Event_ID": after}
    return await server.ask("GET", f"/v1/streams/{id}", b"", **headers)


def as_pairs(events: list[Event]) -> list[tuple[str | None, str]]:
    """What must be the same, however often one came back."""
    return [(one.id, one.data) for one in events]


def test_cutting_after_every_event() -> None:
    async def run() -> None:
        async with running(SCRIPT, pieces=PIECES) as server:
            complete = (await server.open_chat(id="whole", resumable=True).until_over()).events
            assert [one.id for one in complete] == [str(i + 1) for i in range(len(complete))]
            assert complete[-1].data == "[DONE]"
            count = len(complete)
        for cut in range(count + 1):
            gate = Gate()
            async with running(SCRIPT, pieces=PIECES, before_step=gate) as server:
                socket = server.open_chat(id="cut", resumable=True)
                # Let just as many steps run as bring so many events. The first comes when the stream is accepted: who
                # leaves before that has no stream.
                while len(before := await socket.until_events(1)) < cut:
                    await asyncio.to_thread(gate.step)
                    await socket.until_events(min(cut, len(before) + 1))
                socket.leave()
                await socket.until_over()
                gate.open()
                before = before[:cut]
                after = (await follow(server, "cut", before[-1].id if before else None)).events
                joined = before + after
                assert [one.id for one in joined] == [str(i + 1) for i in range(count)]
                assert joined[-1].data == "[DONE]"
                text = content_of([json.loads(one.data) for one in joined[:-1]])
                assert text == TEXT
                assert server.scripted.engine.metrics().streams_finished == {"stop": 1}

    run_async(run())


def test_any_number_may_follow_from_anywhere() -> None:
    async def run() -> None:
        gate = Gate()
        async with running(SCRIPT, pieces=PIECES, before_step=gate) as server:
            socket = server.open_chat(id="a", resumable=True)
            await asyncio.to_thread(gate.step, 3)
            early = await socket.until_events(3)
            followers = [server.open("GET", "/v1/streams/a", last_event_id=str(after)) for after in (0, 1, 2, 3)]
            from_the_start = server.open("GET", "/v1/streams/a")
            quitter = server.open("GET", "/v1/streams/a")
            await quitter.until_events(3)
            quitter.leave()
            await quitter.until_over()
            gate.open()
            complete = as_pairs((await socket.until_over()).events)
            assert complete[: len(early)] == as_pairs(early)
            for after, one in enumerate(followers):
                answer = await one.until_over()
                assert answer.headers["content-type"].startswith("text/event-stream")
                assert as_pairs(answer.events) == complete[after:]
            assert as_pairs((await from_the_start.until_over()).events) == complete
            assert as_pairs((await follow(server, "a", str(len(complete)))).events) == []

    run_async(run())


def test_a_detached_stream_can_be_cancelled() -> None:
    async def run() -> None:
        gate = Gate()
        async with running("x" * 3000, before_step=gate) as server:
            socket = server.open_chat(id="a", resumable=True)
            await asyncio.to_thread(gate.step, 2)
            socket.leave()
            await socket.until_over()
            assert "a" in server.service.live, "leaving detaches"
            assert (await server.ask("DELETE", "/v1/streams/a")).json["cancelled"] is True
            gate.open()
            await server.settled()
            last = (await follow(server, "a", None)).chunks[-1]
            assert last["error"]["code"] == "cancelled"
            assert (await server.ask("DELETE", "/v1/streams/a")).json["cancelled"] is False
            assert server.scripted.engine.metrics().streams_finished == {"cancelled": 1}

    run_async(run())


def test_what_cannot_be_resumed() -> None:
    async def run() -> None:
        gate = Gate()
        async with running(SCRIPT, pieces=PIECES, before_step=gate) as server:
            plain = server.open_chat(id="plain")
            resumable = server.open_chat(id="log", resumable=True)
            await asyncio.to_thread(gate.step)
            await plain.until(b"assistant")
            await resumable.until(b"assistant")
            answer = await follow(server, "plain", None)
            assert (answer.status, answer.error["param"]) == (404, "id")
            assert (await follow(server, "nobody", None)).status == 404
            for bad in ("x", "-1", "1.5", "9" * 30, " ", "²"):
                answer = await follow(server, "log", bad)
                assert (answer.status, answer.error["param"]) == (400, "Last-Event-ID"), bad
            answer = await follow(server, "log", "1000")
            assert (answer.status, answer.error["param"]) == (400, "Last-Event-ID")
            gate.open()
            await resumable.until_over()
            await server.settled()
            taken = await server.open_chat(id="log").until_over()
            assert taken.status == 409, "the log still has this name"

    run_async(run())


def test_logs_are_bounded_in_time() -> None:
    async def run() -> None:
        async with running(SCRIPT, {"resume_window": 0}, pieces=PIECES) as server:
            await server.open_chat(id="a", resumable=True).until_over()
            await server.settled()
            while server.service.event_logs.has("a"):
                await asyncio.sleep(0)
            answer = await follow(server, "a", "1")
            assert (answer.status, answer.error["code"]) == (410, "stream_gone")
            assert (await server.open_chat(id="a").until_over()).status == 200, "the name is free again"

    run_async(run())


def test_logs_are_bounded_in_size() -> None:
    async def run() -> None:
        async with running("x" * 200, {"resume_mb": 0.02}) as server:
            socket = server.open_chat(id="big", resumable=True)
            await socket.until_over()
            await server.settled()
            answer = await follow(server, "big", "3")
            assert (answer.status, answer.error["code"]) == (410, "events_gone")
            events = socket.answer.events
            # Of the newest events all are there.
            tail = (await follow(server, "big", events[-20].id)).events
            assert as_pairs(tail) == as_pairs(events[-19:])
            await server.open_chat(id="next", resumable=True).until_over()
            assert (await follow(server, "big", events[-1].id)).status == 410, "the older log made room"

    run_async(run())


def test_a_follower_that_takes_nothing_holds_nobody_up() -> None:
    async def run() -> None:
        gate = Gate()
        async with running("x" * 100, before_step=gate) as server:
            socket = server.open_chat(id="a", resumable=True)
            await asyncio.to_thread(gate.step)
            await socket.until(b"assistant")
            stuck = server.open("GET", "/v1/streams/a")
            await stuck.until(b"assistant")
            stuck.stop_taking()
            gate.open()
            complete = await socket.until_over()
            assert content_of(complete.chunks) == "x" * 100
            stuck.go_on_taking()
            assert as_pairs((await stuck.until_over()).events) == as_pairs(complete.events)

    run_async(run())
