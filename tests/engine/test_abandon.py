"""Streams may be left in any way and at any moment; nothing of them stays behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import tracemalloc
from collections.abc import Awaitable, Callable
from itertools import cycle, islice

import pytest
from harness import PATIENCE, Scripted, run_async, scripted, started, wait_until, within

from headrace import Model
from headrace.api.stream import AsyncTokenStream, TokenStream
from headrace.engine.channel import Channel
from headrace.engine.sequence import Sequence

TEXT = "abcdefghij" * 3


class Oops(Exception):
    """What a reader fails with."""


def by_break(made: Scripted) -> None:
    for _ in made.model.generate_stream("prompt", buffer_size=2):
        break


def unread(made: Scripted) -> None:
    made.model.generate_stream("prompt", buffer_size=2)


def by_del(made: Scripted) -> None:
    stream = made.model.generate_stream("prompt", buffer_size=2)
    next(stream)
    del stream


def by_close(made: Scripted) -> None:
    stream = made.model.generate_stream("prompt", buffer_size=2)
    next(stream)
    stream.close()


def by_leaving_a_with(made: Scripted) -> None:
    with made.model.generate_stream("prompt", buffer_size=2) as stream:
        next(iter(stream))


def by_an_exception(made: Scripted) -> None:
    def read() -> None:
        for _ in made.model.generate_stream("prompt", buffer_size=2):
            raise Oops

    with pytest.raises(Oops):
        read()


def by_a_callback(made: Scripted) -> None:
    def fail(_: object) -> None:
        raise Oops

    with pytest.raises(Oops):
        made.model.generate_streaming("prompt", 100, fail, buffer_size=2)


def by_a_cycle(made: Scripted) -> None:
    """Only the garbage collector can find this one."""
    stream = made.model.generate_stream("prompt", buffer_size=2)
    stream.itself = stream  # pyright: ignore
    next(stream)


def on_another_thread(made: Scripted) -> None:
    started(by_break, made).result(PATIENCE)


def of_result(made: Scripted) -> None:
    _, result, cancel = made.model.generate_stream_with_metrics("prompt", buffer_size=2)
    cancel()
    del result


async def by_async_break(made: Scripted) -> None:
    async for _ in made.asynchronous.generate_stream("prompt", buffer_size=2):
        break


async def async_unread(made: Scripted) -> None:
    made.asynchronous.generate_stream("prompt", buffer_size=2)


async def by_aclose(made: Scripted) -> None:
    async with made.asynchronous.generate_stream("prompt", buffer_size=2) as stream:
        await anext(stream)


async def by_an_async_exception(made: Scripted) -> None:
    async def read() -> None:
        async for _ in made.asynchronous.generate_stream("prompt", buffer_size=2):
            raise Oops

    with pytest.raises(Oops):
        await read()


async def by_a_cancelled_task(made: Scripted) -> None:
    reading = asyncio.Event()

    async def read() -> None:
        async for _ in made.asynchronous.generate_stream("prompt", buffer_size=2):
            reading.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(read())
    await reading.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def by_a_task_cancelled_as_it_waits(made: Scripted) -> None:
    task = asyncio.create_task(made.asynchronous.generate("prompt" * 9))
    await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):  # it may have been done already
        await task


SYNC = [
    by_break,
    unread,
    by_del,
    by_close,
    by_leaving_a_with,
    by_an_exception,
    by_a_callback,
    by_a_cycle,
    on_another_thread,
    of_result,
]
ASYNC = [
    by_async_break,
    async_unread,
    by_aclose,
    by_an_async_exception,
    by_a_cancelled_task,
    by_a_task_cancelled_as_it_waits,
]


def idle(made: Scripted) -> bool:
    metrics = made.model.metrics
    return metrics.queued + metrics.running + metrics.paused == 0


@pytest.mark.parametrize("leave", SYNC)
def test_leaving(leave: Callable[[Scripted], None]) -> None:
    with scripted(TEXT) as made:
        within(leave, made)
        gc.collect()
        wait_until(lambda: idle(made))
        assert made.model.metrics.kv_used == 0
        assert within(made.model.generate, "prompt").text == TEXT


@pytest.mark.parametrize("leave", ASYNC)
def test_leaving_async(leave: Callable[[Scripted], Awaitable[None]]) -> None:
    async def main(made: Scripted) -> None:
        await leave(made)
        assert (await made.asynchronous.generate("prompt")).text == TEXT

    with scripted(TEXT) as made:
        run_async(main(made))
        gc.collect()
        wait_until(lambda: idle(made))
        assert made.model.metrics.kv_used == 0


def test_a_thousand_left_in_all_ways_leave_nothing() -> None:
    async def leave_all_async(made: Scripted, count: int) -> None:
        for leave in islice(cycle(ASYNC), count):
            await leave(made)

    def leave_all(made: Scripted, count: int) -> None:
        for leave in islice(cycle(SYNC), count // 2):
            leave(made)
        asyncio.run(leave_all_async(made, count // 2))

    def left() -> int:
        gc.collect()
        return sum(isinstance(thing, (Sequence, Channel, TokenStream, AsyncTokenStream)) for thing in gc.get_objects())

    gc.collect()
    before = left()
    with scripted(TEXT, max_streams=4, max_queue=2000, num_cells=256) as made:
        within(leave_all, made, 1000)
        gc.collect()
        wait_until(lambda: idle(made))
        made.steps.clear()  # the test's own notes name the samplers
        made.settle()
        wait_until(lambda: left() <= before)
        metrics = made.engine.metrics()
        assert 900 < metrics.streams_started == sum(metrics.streams_finished.values())
        assert metrics.kv_used == 0
        assert within(made.model.generate, "prompt").text == TEXT


def test_memory_stays_flat() -> None:
    def leave_some(made: Scripted, count: int) -> None:
        for leave in islice(cycle((by_break, by_del, by_close, unread)), count):
            leave(made)

    def traced(made: Scripted) -> int:
        gc.collect()
        wait_until(lambda: idle(made))
        made.steps.clear()
        made.settle()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    with scripted(TEXT, num_cells=128) as made:
        within(leave_some, made, 100)
        tracemalloc.start()
        try:
            within(leave_some, made, 100)
            before = traced(made)
            within(leave_some, made, 500)
            assert traced(made) - before < 50_000, "100 bytes a stream would be a leak"
        finally:
            tracemalloc.stop()


def test_a_stream_holds_its_model() -> None:
    """Otherwise `generate_stream` on a model that nobody keeps would end at once."""
    with scripted(TEXT) as made:
        stream = made.model.generate_stream("p")
        core, made.core, made.model = made.core, None, None  # type: ignore[assignment]
        assert stream._owner is core
        made.core = core
        made.model = Model(core)
        assert within(stream.result).text == TEXT
