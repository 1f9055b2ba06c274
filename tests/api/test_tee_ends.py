"""Several readers of one stream: its end reaches all of them; misuse; any interleaving."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from harness import PATIENCE, Gate, Scripted, read, run_async, scripted, started, texts, wait_until, within
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.teeing import LONG, idle, joined, wait_for_pause
from headrace import GenerationError, InvalidRequestError, StreamTimeoutError, TokenStream

# Ends reach everybody.


@pytest.mark.parametrize("who", [0, 1, 2])
def test_cancel_ends_it_for_all(who: int) -> None:
    gate = Gate()
    with scripted(LONG, before_step=gate) as made:
        stream = made.model.generate_stream("p")
        everybody = [stream, *stream.tee(2)]
        reading = [started(read, reader) for reader in everybody[1:]]
        gate.step(2)
        gate.wait()
        everybody[who].cancel()
        gate.open()
        ends = [future.result(PATIENCE) for future in reading]
        assert ends[0] == ends[1]
        assert ends[0][0] == LONG[: len(ends[0][0])]
        assert ends[0][1] is None
        for reader in everybody:
            assert within(reader.result).finish_reason == reader.finish_reason == "cancelled"
            assert within(reader.result).text == ends[0][0]


def test_the_models_cancel_ends_it_for_all() -> None:
    with scripted(LONG) as made:
        one, two = made.model.generate_stream("p", buffer_size=2).tee(2)
        wait_for_pause(made)
        made.model.cancel_generation()
        assert texts(one) == texts(two) == "ab"
        assert one.finish_reason == two.finish_reason == "cancelled"


def test_leaving_the_with_of_the_original_ends_it_for_all() -> None:
    with scripted(LONG) as made:
        with made.model.generate_stream("p", buffer_size=2) as stream:
            one, two = stream.tee(2)
            wait_for_pause(made)
        assert texts(one) == texts(two) == "ab", "what was generated can still be read"
        assert one.finish_reason == "cancelled"


def test_a_timeout_reaches_all() -> None:
    with scripted(LONG) as made:
        stream = made.model.generate_stream("p", buffer_size=3, stall_timeout_ms=30)
        readers = stream.tee(3)
        wait_until(lambda: stream._source.end is not None)
        for reader in readers:
            text, error = read(reader)
            assert text == "abc"
            assert isinstance(error, StreamTimeoutError)
            assert error.which == "stall"
            assert error.partial is not None
            assert error.partial.text == "abc"
            with pytest.raises(StreamTimeoutError):
                within(reader.result)


def test_a_failure_reaches_all() -> None:
    def fail(slices: Any) -> None:
        if len(made.steps) == 3:
            raise RuntimeError("broken")

    with scripted(LONG, before_step=fail) as made:
        readers = made.model.generate_stream("p").tee(3)
        for text, error in [future.result(PATIENCE) for future in [started(read, reader) for reader in readers]]:
            assert text == "abc"
            assert isinstance(error, GenerationError)
            assert error.partial is not None
            assert error.partial.text == "abc"


def test_an_async_stream_that_cannot_start_tells_all() -> None:
    async def main(made: Scripted) -> None:
        for reader in made.asynchronous.generate_stream("p" * 5000).tee(2):
            with pytest.raises(InvalidRequestError):
                await joined(reader)

    with scripted(LONG) as made:
        run_async(main(made))


def test_closing_the_model_ends_it_for_all() -> None:
    gate = Gate()
    with scripted(LONG, before_step=gate) as made:
        one, two = made.model.generate_stream("p").tee(2)
        reading = [started(read, reader) for reader in (one, two)]
        gate.step(2)
        gate.wait()
        made.engine.close_soon()
        gate.open()
        assert reading[0].result(PATIENCE) == reading[1].result(PATIENCE)
        assert one.finish_reason == "cancelled"


# result() never waits for a reader that is not there.


def test_result_where_nobody_reads() -> None:
    with scripted(LONG) as made:
        stream = made.model.generate_stream("p", buffer_size=1)
        one, two = stream.tee(2)
        assert within(one.result).text == LONG
        assert within(stream.result).text == LONG
        assert texts(one) == texts(two) == LONG


def test_result_where_the_other_is_read_keeps_to_its_pace() -> None:
    with scripted(LONG) as made:
        one, two = made.model.generate_stream("p", buffer_size=2).tee(2)
        stepping, steps = threading.Semaphore(0), []

        def read_slowly() -> None:
            for token in two:
                steps.append(token)
                stepping.release()

        reading = started(read_slowly)
        assert stepping.acquire(timeout=PATIENCE)
        one.read()
        result = started(one.result)
        assert result.result(PATIENCE).text == LONG
        reading.result(PATIENCE)
        assert len(steps) == len(LONG) + 1


def test_result_where_the_other_has_stopped_reading() -> None:
    with scripted(LONG) as made:
        one, two = made.model.generate_stream("p", buffer_size=2).tee(2)

        def read_one() -> object:
            iterator = iter(two)
            next(iterator)
            return iterator

        held = within(read_one)
        assert within(one.result).text == LONG
        assert within(lambda: "".join(token.text for token in held)) == LONG[1:]  # type: ignore[attr-defined]


def test_async_result_where_nobody_reads() -> None:
    async def main(made: Scripted) -> None:
        one, two = made.asynchronous.generate_stream("p", buffer_size=1).tee(2)
        assert (await one.result()).text == LONG
        assert await joined(two) == LONG

    with scripted(LONG) as made:
        run_async(main(made))


def test_result_of_a_closed_reader() -> None:
    with scripted(LONG) as made:
        one, two = made.model.generate_stream("p", buffer_size=2).tee(2)
        one.close()
        assert next(one, None) is None
        assert one.read() == []
        assert texts(two) == LONG
        assert within(one.result).text == LONG


# What cannot be.


@pytest.mark.parametrize("count", [0, -1, True, 1.0, "2", None])
def test_a_bad_number(count: Any) -> None:
    with scripted("abc") as made:
        stream = made.model.generate_stream("p")
        with pytest.raises(InvalidRequestError) as caught:
            stream.tee(count)
        assert (caught.value.field, caught.value.value) == ("n", count)
        assert texts(stream) == "abc", "the stream is as it was"


def test_a_stream_that_is_iterated_already() -> None:
    with scripted("abc") as made:
        stream = made.model.generate_stream("p")
        iterator = iter(stream)
        with pytest.raises(InvalidRequestError, match="iterated once"):
            stream.tee(2)
        assert within(lambda: "".join(token.text for token in iterator)) == "abc"


def test_a_stream_that_was_given_away() -> None:
    with scripted("abc") as made:
        stream = made.model.generate_stream("p")
        readers = stream.tee(2)
        for read_it in (stream.__iter__, stream.__next__, stream.read, stream.text, lambda: stream.tee(2)):
            with pytest.raises(InvalidRequestError) as caught:
                within(read_it)
            assert caught.value.field == "stream"
        with pytest.raises(InvalidRequestError, match="tee"):
            readers[0].tee(2)
        assert [texts(reader) for reader in readers] == ["abc"] * 2


def test_an_async_stream_that_was_given_away() -> None:
    async def main(made: Scripted) -> None:
        stream = made.asynchronous.generate_stream("p")
        readers = stream.tee(2)
        reads: list[Callable[[], Awaitable[object]]] = [stream.__anext__, stream.read, lambda: joined(stream)]
        for read_it in reads:
            with pytest.raises(InvalidRequestError):
                await read_it()
        assert [await joined(reader) for reader in readers] == ["abc"] * 2

    with scripted("abc") as made:
        run_async(main(made))


def test_nothing_stays_behind() -> None:
    with scripted(LONG) as made:
        gc.collect()
        gc.disable()
        try:
            stream = made.model.generate_stream("p", buffer_size=2)
            one, two = stream.tee(2)
            next(one)
            del stream, one, two
            left = [thing for thing in gc.get_objects() if isinstance(thing, TokenStream)]
            assert not left, "a cycle holds what only the garbage collector finds"
        finally:
            gc.enable()
        wait_until(lambda: idle(made))


# Any interleaving.

TEXT = "abcdefghijklmnopqrstuvwxyz"


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_interleaving_of_readers(data: st.DataObject) -> None:
    """One thread plays all readers, step by step, and knows after each what must hold."""
    size = data.draw(st.integers(1, 6), label="buffer_size")
    count = data.draw(st.integers(1, 4), label="readers")
    with scripted(TEXT) as made:
        stream = made.model.generate_stream("p", buffer_size=size)
        readers: dict[int, TokenStream] = dict(enumerate(stream.tee(count)))
        shown = dict.fromkeys(readers, "")
        stats = stream._stats
        del stream

        def come_to_rest() -> None:
            wait_until(lambda: stats.ended is not None or made.model.metrics.paused == 1)
            made.settle()

        come_to_rest()
        for _ in range(data.draw(st.integers(0, 40), label="moves")):
            number = data.draw(st.sampled_from(sorted(readers)), label="who")
            move = data.draw(st.sampled_from(["read", "read", "read", "next", "close", "drop"]), label="what")
            if move in ("read", "next"):
                if len(readers[number]._channel) == 0 and stats.ended is None:
                    continue  # he would wait for the slowest, for ever
                limit = data.draw(st.integers(1, 5), label="limit") if move == "read" else 1
                shown[number] += "".join(token.text for token in within(readers[number].read, limit))
                assert TEXT.startswith(shown[number])
            elif len(readers) > 1:
                reader = readers.pop(number)
                del shown[number]
                if move == "close":
                    reader.close()
                del reader
            come_to_rest()
            most = max(len(reader._channel) for reader in readers.values())
            assert most <= size
            assert most * 2 >= size or stats.ended is not None, "it waits for somebody who has left"
        futures = {number: started(texts, reader) for number, reader in readers.items()}
        for number, future in futures.items():
            assert shown[number] + future.result(PATIENCE) == TEXT


PLANS = st.lists(
    st.tuples(st.integers(0, 30), st.sampled_from(["stay", "close", "drop", "break", "result"]), st.integers(1, 4)),
    min_size=1,
    max_size=5,
)


def follow(readers: list[TokenStream | None], number: int, plan: tuple[int, str, int], start: threading.Barrier) -> str:
    """Read some tokens, and then leave in some way, or stay to the end."""
    count, end, limit = plan
    reader = readers[number]
    readers[number] = None
    assert reader is not None
    text = ""
    start.wait()
    if end == "break":
        for token in reader:
            text += token.text
            if len(text) >= count:
                break
        return text
    while (len(text) < count or end == "stay") and (tokens := reader.read(limit)):
        text += "".join(token.text for token in tokens)
    if end == "close":
        reader.close()
    elif end == "result":
        assert TEXT.startswith(reader.result().text)
        while tokens := reader.read():
            text += "".join(token.text for token in tokens)
    return text


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 6), PLANS)
def test_any_readers_at_once(size: int, plans: list[tuple[int, str, int]]) -> None:
    """All in threads of their own: whatever one of them does, the others get their text, and nobody hangs."""
    with scripted(TEXT) as made:
        readers: list[TokenStream | None] = list(made.model.generate_stream("p", buffer_size=size).tee(len(plans)))
        start = threading.Barrier(len(plans), timeout=PATIENCE)
        futures = [started(follow, readers, number, plan, start) for number, plan in enumerate(plans)]
        for future, (count, end, _) in zip(futures, plans, strict=True):
            text = future.result(PATIENCE)
            assert TEXT.startswith(text)
            assert len(text) >= min(count, len(TEXT))
            if end == "stay":
                assert text == TEXT
        del futures, future
        wait_until(lambda: idle(made))


def test_tasks_and_cancelled_tasks_at_once() -> None:
    async def main(made: Scripted) -> None:
        for turn in range(30):
            readers = list(made.asynchronous.generate_stream("p", buffer_size=1 + turn % 4).tee(6))
            tasks = [asyncio.create_task(joined(reader)) for reader in readers]
            del readers
            for _ in range(3):
                for _ in range(turn):
                    await asyncio.sleep(0)
                task = tasks.pop(0)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):  # it may have been done already
                    assert await task == LONG
            assert await asyncio.gather(*tasks) == [LONG] * 3

    with scripted(LONG) as made:
        run_async(main(made))
