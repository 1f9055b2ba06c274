"""What all views of a stream have in common: leaving, ends, errors."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from harness import PATIENCE, Gate, Scripted, run_async, scripted, started, texts, wait_until, within

from api.viewing import ANY_TEXT, LONG, collected
from headrace import (
    AsyncTokenStream,
    GenerationError,
    InvalidRequestError,
    TokenStream,
)


def idle(made: Scripted) -> bool:
    metrics = made.model.metrics
    return metrics.queued + metrics.running + metrics.paused == 0


# Leaving.

VIEWS: dict[str, Callable[[Any], Any]] = {
    "text": lambda stream: stream.text(),
    "buffered": lambda stream: stream.buffered(2),
    "buffered with a limit": lambda stream: stream.buffered(5, max_wait_ms=1),
    "paced": lambda stream: stream.paced(),
    "objects": lambda stream: stream.objects(),
}


def streaming(made: Scripted) -> TokenStream:
    return made.model.generate_stream("p", buffer_size=2, json_schema=ANY_TEXT)


def async_streaming(made: Scripted) -> AsyncTokenStream:
    return made.asynchronous.generate_stream("p", buffer_size=2, json_schema=ANY_TEXT)


@pytest.mark.parametrize("view", VIEWS)
def test_breaking_out_of_a_view_cancels(view: str) -> None:
    def leave(made: Scripted, stream: TokenStream) -> None:
        for _ in VIEWS[view](stream):
            break

    with scripted(f'"{LONG}"') as made:
        stream = streaming(made)
        within(leave, made, stream)
        gc.collect()
        wait_until(lambda: idle(made))
        assert stream.finish_reason == "cancelled"
        assert next(stream, None) is None


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_that_is_never_iterated_cancels(view: str) -> None:
    with scripted(f'"{LONG}"') as made:
        VIEWS[view](streaming(made))
        gc.collect()
        wait_until(lambda: idle(made))
        assert made.engine.metrics().streams_finished == {"cancelled": 1}


@pytest.mark.parametrize("view", VIEWS)
def test_breaking_out_of_an_async_view_cancels_at_once(view: str) -> None:
    async def main(made: Scripted) -> None:
        stream = async_streaming(made)
        async for _ in VIEWS[view](stream):
            break
        assert await stream.wait_end(PATIENCE)
        assert stream.finish_reason == "cancelled"

    with scripted(f'"{LONG}"') as made:
        run_async(main(made))


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_ends_when_the_stream_is_closed_or_cancelled(view: str) -> None:
    with scripted(f'"{LONG}"') as made:
        for leave in (TokenStream.close, TokenStream.cancel):
            stream = streaming(made)
            iterator = VIEWS[view](stream)
            within(next, iterator)
            reading = started(list, iterator)
            leave(stream)
            reading.result(PATIENCE)
            assert stream.wait_end(PATIENCE)  # a closed view ends at once, the stream with the engine's next step
            assert stream.finish_reason in ("cancelled", "stop")
        wait_until(lambda: idle(made))


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_that_waits_is_woken_by_the_end(view: str) -> None:
    gate = Gate()
    with scripted(f'"{LONG}"', before_step=gate) as made:
        stream = streaming(made)
        reading = started(list, VIEWS[view](stream))
        gate.wait()
        stream.cancel()
        gate.open()
        assert sum(map(len, map(_items, reading.result(PATIENCE)))) <= 2


def _items(item: Any) -> list[Any]:
    return item if isinstance(item, list) else [item]


@pytest.mark.parametrize("view", VIEWS)
def test_a_task_that_is_cancelled_in_a_view_leaves_the_stream(view: str) -> None:
    async def main(made: Scripted) -> None:
        reading = asyncio.Event()

        async def read() -> None:
            async for _ in VIEWS[view](async_streaming(made)):
                reading.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(read())
        await reading.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(wait_until, lambda: idle(made))

    with scripted(f'"{LONG}"') as made:
        run_async(main(made))


@pytest.mark.parametrize("first", ["iteration", *VIEWS])
@pytest.mark.parametrize("second", ["iteration", *VIEWS])
def test_a_stream_has_one_iteration_and_a_second_does_it_no_harm(first: str, second: str) -> None:
    views = {"iteration": iter, **VIEWS}
    with scripted(f'"{LONG}"') as made:
        stream = streaming(made)
        iterator = views[first](stream)
        with pytest.raises(InvalidRequestError, match="iterated once"):
            views[second](stream)
        gc.collect()
        assert within(list, iterator)
        assert stream.finish_reason == "stop"
        assert stream.is_read


@pytest.mark.parametrize("view", VIEWS)
def test_views_of_the_readers_of_a_tee(view: str) -> None:
    with scripted(f'"{LONG}"') as made:
        plain, *readers = streaming(made).tee(4)
        views = [started(list, VIEWS[view](reader)) for reader in readers]
        text = texts(plain)
        one, two, three = (future.result(PATIENCE) for future in views)
        if view.startswith("buffered"):
            one, two, three = (list(itertools.chain(*groups)) for groups in (one, two, three))
        assert one == two == three
        assert text == f'"{LONG}"'


@pytest.mark.parametrize("view", VIEWS)
def test_errors_come_through(view: str) -> None:
    def fail(_: object) -> None:
        if len(made.steps) == 5:
            raise RuntimeError("broken")

    with scripted(f'"{LONG}"', before_step=fail) as made:
        iterator = VIEWS[view](made.model.generate_stream("p", json_schema=ANY_TEXT))

        def read() -> Iterator[object]:
            with pytest.raises(GenerationError, match="broken"):
                yield from iterator

        assert within(list, read())
        assert next(iterator, None) is None


@pytest.mark.parametrize(
    ("view", "args", "field"),
    [
        ("buffered", (0,), "n"),
        ("buffered", (True,), "n"),
        ("buffered", ("2",), "n"),
        ("buffered", (2, -1), "max_wait_ms"),
        ("buffered", (2, float("inf")), "max_wait_ms"),
        ("paced", (-1,), "lag_ms"),
        ("paced", (None,), "lag_ms"),
        ("paced", (float("nan"),), "lag_ms"),
    ],
)
def test_bad_settings(view: str, args: tuple[Any, ...], field: str) -> None:
    async def main(made: Scripted) -> None:
        stream = made.asynchronous.generate_stream("p")
        with pytest.raises(InvalidRequestError):
            getattr(stream, view)(*args)
        assert "".join(await collected(stream.text())) == "abc"

    with scripted("abc") as made:
        stream = made.model.generate_stream("p")
        with pytest.raises(InvalidRequestError) as caught:
            getattr(stream, view)(*args)
        assert caught.value.field == field
        assert texts(stream) == "abc", "the stream is as it was"
        run_async(main(made))


# read() and wait_end() with a time limit


def test_waiting_with_a_limit() -> None:
    gate = Gate()
    with scripted("abc", before_step=gate) as made:
        stream = made.model.generate_stream("p")
        gate.wait()
        with pytest.raises(TimeoutError):
            stream.read(timeout=0.001)
        assert stream.wait_end(0.001) is False
        gate.open()
        assert stream.wait_end(PATIENCE) is True
        assert "".join(token.text for token in stream.read(timeout=0)) == "abc"
        assert stream.read(timeout=0) == []


def test_waiting_with_a_limit_in_a_task() -> None:
    gate = Gate()

    async def main(made: Scripted) -> None:
        stream = made.asynchronous.generate_stream("p")
        with pytest.raises(TimeoutError):
            await stream.read(timeout=0.001)
        assert await stream.wait_end(0.001) is False
        gate.open()
        assert await stream.wait_end(PATIENCE) is True
        assert "".join(token.text for token in await stream.read(timeout=0)) == "abc"
        assert await stream.read(timeout=0) == []

    with scripted("abc", before_step=gate) as made:
        run_async(main(made))


def test_views_of_many_streams_at_once() -> None:
    """Threads and tasks, all views, one engine."""

    async def main(made: Scripted) -> None:
        threads = [
            asyncio.wrap_future(started(list, view(made.model.generate_stream("p", json_schema=ANY_TEXT))))
            for view in VIEWS.values()
        ]
        tasks: list[Awaitable[list[Any]]] = [
            collected(view(made.asynchronous.generate_stream("p", json_schema=ANY_TEXT))) for view in VIEWS.values()
        ]
        for items, theirs in zip(await asyncio.gather(*threads), await asyncio.gather(*tasks), strict=True):
            assert items
            assert theirs

    with scripted(f'"{LONG}"', num_cells=20_000) as made:
        run_async(main(made))
        assert threading.active_count() < 100
