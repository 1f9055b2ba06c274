"""Threads, tasks and event loops at once: no cross-talk, nobody held up."""

from __future__ import annotations

import asyncio
import gc
import threading
import time

import pytest
from harness import PATIENCE, Gate, Scripted, echo, echoed, ids, run_async, scripted, started, texts, wait_until, within

from headrace import AsyncTokenStream, Context
from headrace.engine.channel import Channel, wake
from headrace.values.events import End, TokenEvent

CALLERS = 16


def test_threads_and_tasks_at_once() -> None:
    """32 callers, 5 prompts each, in every form of call; each gets its own answer."""
    start = threading.Barrier(CALLERS + 1, timeout=PATIENCE)

    def call(made: Scripted, caller: int) -> None:
        context = Context(made.model)
        start.wait()
        for turn in range(5):
            prompt = f"thread {caller} turn {turn}"
            match (caller + turn) % 4:
                case 0:
                    text = made.model.generate(prompt).text
                case 1:
                    text = "".join(token.text for token in context.generate_stream(prompt, buffer_size=2))
                case 2:
                    parts: list[str] = []
                    context.generate_streaming(prompt, 1000, lambda token, parts=parts: parts.append(token.text))
                    text = "".join(parts)
                case _:
                    stream, result, _ = made.model.generate_stream_with_metrics(prompt)
                    text = "".join(token.text for token in stream if not token.is_last)
                    assert text == result().text
            assert text == echoed(prompt)

    async def call_async(made: Scripted, caller: int) -> None:
        model = made.asynchronous
        for turn in range(5):
            prompt = f"task {caller} turn {turn}"
            if (caller + turn) % 2:
                text = (await model.generate(prompt)).text
            else:
                text = "".join([token.text async for token in model.generate_stream(prompt, buffer_size=2)])
            assert text == echoed(prompt)

    async def main(made: Scripted) -> None:
        await asyncio.to_thread(start.wait)
        await asyncio.gather(*(call_async(made, caller) for caller in range(CALLERS)))

    with scripted(echo, num_cells=2000, max_streams=8) as made:
        calls = [started(call, made, caller) for caller in range(CALLERS)]
        run_async(main(made))
        for future in calls:
            future.result(PATIENCE)


def test_the_event_loop_beats_while_the_engine_is_busy() -> None:
    """The engine thread stands in a step; whatever tasks ask of it, their loop goes on."""
    gate = Gate()

    async def main(made: Scripted) -> None:
        model = made.asynchronous
        streams = [model.generate_stream("p", max_tokens=2) for _ in range(4)]
        reads = [asyncio.create_task(_joined(stream)) for stream in streams]
        results = [asyncio.create_task(stream.result()) for stream in streams]
        await asyncio.to_thread(gate.wait)
        beats: list[float] = []
        for turn in range(200):
            before = time.perf_counter()
            await asyncio.sleep(0)
            match turn % 4:
                case 0:
                    model.generate_stream("q").cancel()
                case 1:
                    _ = (model.metrics, streams[0].usage, streams[0].metrics)
                case 2:
                    model.cancel_generation() if turn == 198 else None
                case _:
                    await model.generate_stream("r").aclose()
            beats.append(time.perf_counter() - before)
        assert sorted(beats)[len(beats) * 99 // 100] < 0.050
        assert not any(read.done() for read in reads) or all(stream.finish_reason for stream in streams)
        gate.open()
        await asyncio.gather(*reads, *results)

    with scripted("abc", before_step=gate, max_queue=1000) as made:
        run_async(main(made))


async def _joined(stream: AsyncTokenStream) -> str:
    return "".join([token.text async for token in stream])


def test_a_stream_may_go_from_one_event_loop_to_the_next() -> None:
    async def read_some(stream: AsyncTokenStream, count: int) -> str:
        return "".join([(await anext(stream)).text for _ in range(count)])

    async def make(made: Scripted) -> AsyncTokenStream:
        return made.asynchronous.generate_stream("p", buffer_size=2)

    with scripted("abcdefghij") as made:
        stream = run_async(make(made))
        assert run_async(read_some(stream, 3)) == "abc"
        assert run_async(read_some(stream, 4)) == "defg"
        assert run_async(_joined(stream)) == "hij"
        assert run_async(stream.result()).text == "abcdefghij"


def test_a_stream_whose_iterating_task_ended_with_its_loop_still_has_a_result() -> None:
    async def read_one(made: Scripted) -> tuple[AsyncTokenStream, object]:
        stream = made.asynchronous.generate_stream("p", buffer_size=2)
        iterator = aiter(stream)
        assert (await anext(iterator)).text == "a"
        return stream, iterator

    with scripted("abcdefghij") as made:
        stream, iterator = run_async(read_one(made))
        assert run_async(stream.result()).text == "abcdefghij"
        del iterator


def test_a_model_serves_one_event_loop_after_another() -> None:
    async def ask(made: Scripted) -> str:
        return (await made.asynchronous.generate("p")).text

    with scripted("abc") as made:
        assert [run_async(ask(made)) for _ in range(3)] == ["abc"] * 3


def test_a_loop_that_is_closed_under_its_readers_harms_nobody() -> None:
    async def leave_asleep(made: Scripted) -> AsyncTokenStream:
        stream = made.asynchronous.generate_stream("p")
        waiting = [asyncio.ensure_future(anext(stream)), asyncio.ensure_future(stream.result())]
        while not stream._channel._waiters or not stream._channel._end_waiters:
            await asyncio.sleep(0)
        for task in waiting:
            task._log_destroy_pending = False  # pyright: ignore
        left.extend(waiting)
        return stream

    left: list[asyncio.Future[object]] = []
    gate = Gate()
    with scripted("abcdef", before_step=gate) as made:
        loop = asyncio.new_event_loop()
        stream = loop.run_until_complete(leave_asleep(made))
        loop.close()
        other = made.model.generate_stream("q")
        gate.open()
        assert texts(other) == "abcdef"
        wait_until(lambda: stream._channel.end is not None)
        assert made.model.generate("r").text == "abcdef"
        left.clear()
        gc.collect()


def test_readers_are_woken_once_a_step_and_loop() -> None:
    """However many streams of a loop have got a token."""

    async def main(made: Scripted, gate: Gate) -> None:
        loop = asyncio.get_running_loop()
        calls = 0
        call_soon_threadsafe = loop.call_soon_threadsafe

        def counting(callback, *args, context=None):
            nonlocal calls
            if getattr(callback, "__name__", "") == "_rouse_all":
                calls += 1
            return call_soon_threadsafe(callback, *args, context=context)

        streams = [made.asynchronous.generate_stream("p") for _ in range(8)]
        reads = [asyncio.create_task(_joined(stream)) for stream in streams]
        while made.model.metrics.streams_started < 8 or not all(stream._channel._waiters for stream in streams):
            await asyncio.sleep(0)
        loop.call_soon_threadsafe = counting  # type: ignore[method-assign]
        steps = len(made.steps)
        gate.open()
        assert await asyncio.gather(*reads) == ["abcdefgh"] * 8
        assert calls <= len(made.steps) - steps + 1

    gate = Gate()
    with scripted("abcdefgh", before_step=gate, max_streams=8) as made:
        run_async(main(made, gate))


# The channel alone.


def event(number: int) -> TokenEvent:
    return TokenEvent("x", 1, number, 0.0, b"x", None, None)


def test_a_channel_gives_its_tokens_and_then_its_end_for_good() -> None:
    channel = Channel(4)
    channel.put(event(0))
    end = End("x", "stop")
    channel.finish(end)
    assert [channel.get() for _ in range(3)] == [event(0), end, end]
    assert not channel.finish(End("y", "length"))
    assert channel.get() is end


def test_a_channel_wakes_every_kind_of_reader() -> None:
    async def read_async() -> End | TokenEvent:
        return await channel.aget()

    for _ in range(50):
        channel = Channel(4)
        readers = [started(channel.get), started(channel.wait_end), started(run_async, read_async())]
        channel.finish(End("", "stop"))
        wake((channel,))
        assert [reader.result(PATIENCE) for reader in readers] == [End("", "stop")] * 3


def test_waiting_on_a_channel_can_time_out() -> None:
    channel = Channel(4)
    with pytest.raises(TimeoutError):
        channel.get(timeout=0.001)
    assert channel.wait_end(timeout=0.001) is None
    channel.put(event(0))
    assert channel.get(timeout=0) == event(0)


def test_no_token_is_lost_between_a_writer_and_a_reader() -> None:
    count = 20_000
    channel = Channel(count)

    def write() -> None:
        for number in range(count):
            channel.put(event(number))
            wake((channel,))
        channel.finish(End("", "stop"))
        wake((channel,))

    def read() -> list[int]:
        numbers = []
        while isinstance(got := channel.get(), TokenEvent):
            numbers.append(got.number)
        return numbers

    reader = started(read)
    within(write)
    assert reader.result(PATIENCE) == list(range(count))


def test_prompts_of_tasks_are_made_off_the_event_loop() -> None:
    seen: list[int] = []

    def note(prompt: tuple[int, ...]) -> list[int]:
        seen.append(threading.get_ident())
        return ids("ok")

    async def main(made: Scripted) -> None:
        assert (await made.asynchronous.generate("p")).text == "ok"
        assert threading.get_ident() not in seen

    with scripted(note) as made:
        run_async(main(made))
        assert made.engine._thread.ident not in seen
