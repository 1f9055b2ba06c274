"""Several readers of one stream: what they read, who sets the pace, and who leaves."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable

import pytest
from harness import PATIENCE, Gate, Scripted, read, run_async, scripted, started, texts, wait_until, within

from api.teeing import LONG, idle, joined, wait_for_pause
from headrace import AsyncTokenStream, TokenStream

# Everybody gets everything.


@pytest.mark.parametrize("size", [1, 2, 3, 64])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_reader_gets_everything(count: int, size: int) -> None:
    with scripted(LONG) as made:
        stream = made.model.generate_stream("p", buffer_size=size)
        readers = stream.tee(count)
        assert len(readers) == count
        for future in [started(read, reader) for reader in readers]:
            assert future.result(PATIENCE) == (LONG, None)
        for reader in (stream, *readers):
            result = within(reader.result)
            assert (result.text, result.finish_reason) == (LONG, "stop")
            assert reader.usage == result.usage
            assert (reader.id, reader.finish_reason, reader.tokens_generated()) == (stream.id, "stop", len(LONG) + 1)
            assert reader.is_read
            assert reader.time_to_first_token_ms == stream.time_to_first_token_ms is not None
        assert made.engine.metrics().streams_started == 1


@pytest.mark.parametrize("size", [1, 2, 64])
def test_every_async_reader_gets_everything(size: int) -> None:
    async def main(made: Scripted) -> None:
        stream = made.asynchronous.generate_stream("p", buffer_size=size)
        readers = stream.tee(3)
        assert await asyncio.gather(*map(joined, readers)) == [LONG] * 3
        for reader in (stream, *readers):
            assert (await reader.result()).text == LONG

    with scripted(LONG) as made:
        run_async(main(made))


def test_readers_of_several_event_loops() -> None:
    async def main(made: Scripted) -> None:
        one, two, three = made.asynchronous.generate_stream("p", buffer_size=2).tee(3)
        elsewhere = [started(run_async, joined(reader)) for reader in (two, three)]
        assert await joined(one) == LONG
        for future in elsewhere:
            assert await asyncio.wrap_future(future) == LONG

    with scripted(LONG) as made:
        run_async(main(made))


def test_all_ways_of_reading() -> None:
    def by_read(reader: TokenStream) -> str:
        text = ""
        while tokens := reader.read(3):
            assert len(tokens) <= 3
            text += "".join(token.text for token in tokens)
        return text

    def by_next(reader: TokenStream) -> str:
        text = ""
        while (token := next(reader, None)) is not None:
            text += token.text
        return text

    with scripted(LONG) as made, made.model.generate_stream("p", buffer_size=4) as stream:
        one, two, three = stream.tee(3)
        futures = [started(by_read, one), started(by_next, two), started("".join, three.text())]
        assert [future.result(PATIENCE) for future in futures] == [LONG] * 3


def test_what_was_read_before_is_not_read_again() -> None:
    with scripted("abcdef") as made:
        stream = made.model.generate_stream("p")
        assert within(next, stream).text == "a"
        one, two = stream.tee(2)
        assert texts(one) == texts(two) == "bcdef"
        assert within(one.result).text == "abcdef"


def test_tokens_that_are_there_before_anybody_reads() -> None:
    with scripted("abc") as made:
        stream = made.model.generate_stream("p")
        stream.wait_end()
        one, two = stream.tee(2)
        assert texts(one) == texts(two) == "abc"


def test_the_closing_token_comes_to_all() -> None:
    with scripted("ab") as made:
        stream, result, _ = made.model.generate_stream_with_metrics("p")
        for tokens in [within(list, reader) for reader in stream.tee(2)]:
            assert [token.is_last for token in tokens] == [False, False, False, True]
        assert within(result).text == "ab"


def test_a_tee_of_a_stream_that_is_not_submitted_yet() -> None:
    """The prompt of an async stream is made by a worker; who tees at once is faster."""

    async def main(made: Scripted) -> None:
        at_work, go_on = threading.Event(), threading.Event()
        blockers = [made.core.workers.submit(lambda: (at_work.set(), go_on.wait(PATIENCE))) for _ in range(2)]
        at_work.wait(PATIENCE)
        one, two = made.asynchronous.generate_stream("p").tee(2)
        reading = asyncio.gather(joined(one), joined(two))
        third, fourth = made.asynchronous.generate_stream("p").tee(2)
        await third.aclose()
        await fourth.aclose()
        await asyncio.sleep(0)
        go_on.set()
        assert await reading == [LONG] * 2
        for blocker in blockers:
            await asyncio.wrap_future(blocker)
        assert (await fourth.result()).finish_reason == "cancelled"

    with scripted(LONG) as made:
        run_async(main(made))


# The slowest sets the pace.


@pytest.mark.parametrize("size", [1, 2, 5, 64])
def test_the_slowest_sets_the_pace(size: int) -> None:
    with scripted(LONG) as made:
        fast, slow = made.model.generate_stream("p", buffer_size=size).tee(2)
        wait_for_pause(made)
        assert fast.tokens_generated() == size
        assert "".join(token.text for token in fast.read()) == LONG[:size]
        made.settle()
        assert fast.tokens_generated() == size, "it went on although the slowest had read nothing"
        assert (len(fast._channel), len(slow._channel)) == (0, size)
        while len(slow._channel) * 2 >= size:
            assert slow.tokens_generated() == size, "it went on too soon"
            next(slow)
        wait_until(lambda: slow.tokens_generated() > size)
        wait_for_pause(made)
        assert len(slow._channel) == size
        rest = started(texts, fast)
        assert texts(slow).endswith(LONG[size:])
        assert rest.result(PATIENCE) == LONG[size:]


def closed(readers: list[TokenStream]) -> None:
    readers.pop().close()


def dropped(readers: list[TokenStream]) -> None:
    readers.pop()


def dropped_in_a_cycle(readers: list[TokenStream]) -> None:
    reader = readers.pop()
    reader.itself = reader  # type: ignore[attr-defined]
    del reader
    gc.collect()


def left_by_break(readers: list[TokenStream]) -> None:
    for _ in readers[-1]:
        break

    # The reader is held on to; it is the iteration that was dropped.


def closed_by_another_thread(readers: list[TokenStream]) -> None:
    within(readers[-1].close)


LEAVING = [closed, dropped, dropped_in_a_cycle, left_by_break, closed_by_another_thread]


@pytest.mark.parametrize("leave", LEAVING)
def test_who_has_left_does_not_count(leave: Callable[[list[TokenStream]], None]) -> None:
    """The slow one leaves while the fast one sleeps: nobody but the leaver can set things going again."""
    with scripted(LONG) as made:
        readers = list(made.model.generate_stream("p", buffer_size=3).tee(2))
        fast = readers[0]
        reading = started(read, fast)
        wait_for_pause(made)
        wait_until(lambda: len(fast._channel) == 0 and fast._source._waiters)
        leave(readers)
        assert reading.result(PATIENCE) == (LONG, None)


@pytest.mark.parametrize("leave", LEAVING)
def test_the_stream_goes_on_when_the_slowest_leaves_although_nobody_reads(
    leave: Callable[[list[TokenStream]], None],
) -> None:
    with scripted(LONG) as made:
        readers = list(made.model.generate_stream("p", buffer_size=8).tee(2))
        fast = readers[0]
        wait_for_pause(made)
        assert len(fast.read()) == 8
        leave(readers)
        wait_until(lambda: fast.tokens_generated() > 8)
        wait_for_pause(made)
        assert len(fast._channel) == 8
        assert texts(fast) == LONG[8:]


@pytest.mark.parametrize("leave", LEAVING)
def test_when_the_last_has_left_the_stream_is_cancelled(leave: Callable[[list[TokenStream]], None]) -> None:
    with scripted(LONG) as made:
        readers = list(made.model.generate_stream("p", buffer_size=2).tee(3))
        held = readers.copy() if leave is left_by_break else []
        for _ in range(3):
            assert not idle(made), "it ended too soon"
            leave(readers)
            if leave in (left_by_break, closed_by_another_thread):
                readers.pop()
        wait_until(lambda: idle(made))
        assert made.engine.metrics().streams_finished == {"cancelled": 1}
        assert all(reader.finish_reason == "cancelled" for reader in held)


@pytest.mark.parametrize("how", ["break", "aclose", "drop", "cancel the task", "cancel the waiting task"])
def test_async_readers_leave(how: str) -> None:
    async def leave(readers: list[AsyncTokenStream]) -> None:
        reader = readers.pop()
        if how == "break":
            async for _ in reader:
                break
        elif how == "aclose":
            await anext(reader)
            await reader.aclose()
        elif how == "cancel the task":
            reading = asyncio.Event()

            async def read_one() -> None:
                async for _ in reader:
                    reading.set()
                    await asyncio.Event().wait()

            await _cancelled(asyncio.create_task(read_one()), reading)
        elif how == "cancel the waiting task":

            async def read_on() -> None:
                async for _ in reader:
                    pass

            task = asyncio.create_task(read_on())
            while not reader._source._waiters:
                await asyncio.sleep(0)
            await _cancelled(task, None)

    async def _cancelled(task: asyncio.Task[None], reading: asyncio.Event | None) -> None:
        if reading is not None:
            await reading.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def main(made: Scripted) -> None:
        readers = list(made.asynchronous.generate_stream("p", buffer_size=2).tee(3))
        await leave(readers)
        rest = readers.pop()
        reading = asyncio.create_task(joined(rest))
        await asyncio.to_thread(wait_for_pause, made)
        await leave(readers)
        assert await reading == LONG
        readers[:] = made.asynchronous.generate_stream("p", buffer_size=2).tee(2)
        await asyncio.to_thread(wait_until, lambda: made.engine.metrics().streams_started == 2)
        await leave(readers)
        await leave(readers)
        await asyncio.to_thread(wait_until, lambda: idle(made))

    with scripted(LONG) as made:
        run_async(main(made))
        assert made.engine.metrics().streams_finished == {"stop": 1, "cancelled": 1}


def test_a_reader_that_another_thread_closes_wakes_up() -> None:
    gate = Gate()
    with scripted("abc", before_step=gate) as made:
        one, two = made.model.generate_stream("p").tee(2)
        reading = started(read, one)
        gate.wait()
        wait_until(lambda: one._source._waiters)
        one.close()
        assert reading.result(PATIENCE) == ("", None)
        assert two.finish_reason is None
        gate.open()
        assert texts(two) == "abc"


def test_an_async_reader_that_another_task_closes_wakes_up() -> None:
    gate = Gate()

    async def main(made: Scripted) -> None:
        one, two = made.asynchronous.generate_stream("p").tee(2)
        reading = asyncio.create_task(joined(one))
        await asyncio.to_thread(gate.wait)
        while not one._source._waiters:
            await asyncio.sleep(0)
        await one.aclose()
        assert await reading == ""
        gate.open()
        assert await joined(two) == "abc"

    with scripted("abc", before_step=gate) as made:
        run_async(main(made))


def test_a_reader_may_be_dropped_while_the_lock_is_held() -> None:
    """A garbage collection may strike in the midst of another reader's reading, on the same thread."""
    with scripted(LONG) as made:
        fast, slow = made.model.generate_stream("p", buffer_size=4).tee(2)
        wait_for_pause(made)
        fast.read()
        shared = fast._channel._shared
        with shared._lock:
            del slow
            made.settle()
            assert fast.tokens_generated() == 4, "it was tidied up by somebody who did not hold the lock"
        assert texts(fast) == LONG[4:]


def test_the_original_may_be_dropped() -> None:
    with scripted(LONG) as made:
        stream = made.model.generate_stream("p", buffer_size=2)
        one, two = stream.tee(2)
        del stream
        gc.collect()
        reading = started(texts, one)
        assert texts(two) == reading.result(PATIENCE) == LONG
