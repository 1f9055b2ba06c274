"""`result()` gives the same answer whenever and wherever it is asked, and never deadlocks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
from harness import PATIENCE, Gate, Scripted, run_async, scripted, started, texts, wait_until, within

from headrace import AsyncTokenStream, GenerationError, InvalidRequestError, Token, TokenStream
from headrace.engine.runner import Slice

TEXT = "abcdefghij"


def small(made: Scripted) -> TokenStream:
    """A stream that can only end if somebody reads."""
    return made.model.generate_stream("p", buffer_size=1)


def test_before_the_iteration() -> None:
    with scripted(TEXT) as made:
        stream = small(made)
        assert within(stream.result).text == texts(stream) == TEXT


def test_instead_of_it() -> None:
    with scripted(TEXT) as made:
        assert within(small(made).result).text == TEXT


@pytest.mark.parametrize("at", range(len(TEXT)))
def test_in_the_loop(at: int) -> None:
    def read(stream: TokenStream) -> tuple[str, str]:
        text, result = "", ""
        for token in stream:
            text += token.text
            if token.index == at:
                result = stream.result().text
        return text, result

    with scripted(TEXT) as made:
        assert within(read, small(made)) == (TEXT, TEXT)


def test_after_the_loop() -> None:
    with scripted(TEXT) as made:
        stream = small(made)
        assert texts(stream) == TEXT
        result = within(stream.result)
        assert (result.text, result.finish_reason) == (TEXT, "stop")
        assert within(stream.result) == result


def test_after_a_break_it_is_what_was_generated_until_then() -> None:
    with scripted(TEXT) as made:
        stream = small(made)
        for token in stream:
            if token.text == "c":
                break
        result = within(stream.result)
        assert result.finish_reason == "cancelled"
        assert result.text in (TEXT[:3], TEXT[:4])  # one more may have been waiting unread
        assert result.tokens_used == len(result.text)
        with pytest.raises(StopIteration):
            next(stream)


def test_after_close() -> None:
    with scripted(TEXT) as made:
        with small(made) as stream:
            assert next(stream).text == "a"
        assert within(stream.result).finish_reason == "cancelled"
        stream.close()
        assert within(list, stream) == []


def test_from_another_thread_while_one_reads() -> None:
    with scripted(TEXT) as made:
        stream = small(made)
        go_on = threading.Event()
        first = threading.Event()

        def read() -> str:
            text = ""
            for token in stream:
                text += token.text
                first.set()
                assert go_on.wait(PATIENCE)
            return text

        reader = started(read)
        assert first.wait(PATIENCE)
        results = [started(stream.result) for _ in range(3)]
        wait_until(lambda: len(stream._channel._end_waiters) >= 3)
        assert stream.tokens_generated() <= 2, "result() must leave the pace to the reader"
        go_on.set()
        assert reader.result(PATIENCE) == TEXT
        assert {result.result(PATIENCE).text for result in results} == {TEXT}


def test_where_the_reading_thread_is_gone() -> None:
    with scripted(TEXT) as made:
        stream = small(made)
        kept: list[Iterator[Token]] = []

        def read_one_and_leave() -> None:
            kept.append(iter(stream))
            next(kept[0])

        reader = threading.Thread(target=read_one_and_leave)
        reader.start()
        reader.join(PATIENCE)
        assert within(stream.result).text == TEXT
        assert "".join(token.text for token in kept[0]) == TEXT[1:]


def test_a_stream_may_be_read_by_another_thread_than_the_one_that_made_it() -> None:
    with scripted(TEXT) as made:
        stream = started(small, made).result(PATIENCE)
        assert started(texts, stream).result(PATIENCE) == TEXT


def test_a_timeout_of_result_leaves_the_stream_alone() -> None:
    gate = Gate()
    with scripted(TEXT, before_step=gate) as made:
        stream = small(made)
        gate.wait()
        for timeout in (0, -1, 0.01):
            with pytest.raises(TimeoutError):
                within(stream.result, timeout)
        gate.open()
        assert within(stream.result, PATIENCE).text == TEXT


def test_a_timeout_of_result_while_another_thread_reads() -> None:
    gate = Gate()
    with scripted(TEXT, before_step=gate) as made:
        stream = small(made)
        reader = started(lambda: "".join(token.text for token in stream))
        gate.step(2)
        gate.wait()
        wait_until(lambda: stream._iterator is not None)
        with pytest.raises(TimeoutError):
            within(stream.result, 0.3)
        gate.open()
        assert reader.result(PATIENCE) == TEXT
        assert within(stream.result, 0).text == TEXT


def test_a_stream_is_iterated_once() -> None:
    async def again(stream: AsyncTokenStream) -> None:
        assert "".join([token.text async for token in stream]) == TEXT
        with pytest.raises(InvalidRequestError, match="once"):
            aiter(stream)

    with scripted(TEXT) as made:
        stream = small(made)
        assert texts(stream) == TEXT
        with pytest.raises(InvalidRequestError, match="once"):
            iter(stream)
        run_async(again(made.asynchronous.generate_stream("p")))


def test_live_figures_are_valid_at_any_moment() -> None:
    gate = Gate()
    with scripted(TEXT, before_step=gate) as made:
        stream = made.model.generate_stream("p")
        gate.wait()
        assert (stream.tokens_generated(), stream.tokens_per_second(), stream.time_to_first_token_ms) == (0, 0.0, None)
        assert stream.finish_reason is None
        assert stream.metrics.inter_token_p50_ms is None
        assert "running" in repr(stream)
        gate.pass_one()
        gate.step(2)
        gate.wait()
        assert stream.tokens_generated() == stream.usage.completion_tokens == 3
        assert stream.time_to_first_token_ms is not None
        assert stream.tokens_per_second() > 0
        gate.open()
        result = within(stream.result)
        assert stream.usage == result.usage
        assert stream.metrics == result.metrics
        assert stream.finish_reason == result.finish_reason == "stop"
        assert result.time_to_first_token_ms == stream.time_to_first_token_ms
        assert 0 < result.metrics.queue_ms + result.metrics.prefill_ms <= result.latency_ms
        assert result.tokens_per_second == stream.tokens_per_second() == result.metrics.tokens_per_second
        assert result.model == "scripted"
        assert str(result) == TEXT
        assert stream.id in repr(stream)
        assert "stop" in repr(stream)


# The same for tasks.


def small_async(made: Scripted) -> AsyncTokenStream:
    return made.asynchronous.generate_stream("p", buffer_size=1)


async def joined(stream: AsyncTokenStream) -> str:
    return "".join([token.text async for token in stream])


def test_async_before_and_after() -> None:
    async def main(made: Scripted) -> None:
        stream = small_async(made)
        assert (await stream.result()).text == await joined(stream) == TEXT
        stream = small_async(made)
        assert await joined(stream) == (await stream.result()).text == TEXT
        assert (await small_async(made).result()).text == TEXT

    with scripted(TEXT) as made:
        run_async(main(made))


def test_async_in_the_loop() -> None:
    async def main(made: Scripted) -> None:
        for at in range(len(TEXT)):
            stream, text = small_async(made), ""
            async for token in stream:
                text += token.text
                if token.index == at:
                    assert (await stream.result()).text == TEXT
            assert text == TEXT

    with scripted(TEXT) as made:
        run_async(main(made))


def test_async_beside_a_consumer() -> None:
    async def main(made: Scripted) -> None:
        for first in (True, False):
            stream = small_async(made)
            calls = [joined(stream), stream.result()]
            text, result = await asyncio.gather(*(calls if first else reversed(calls)))
            assert {str(text), str(result)} == {TEXT}

    with scripted(TEXT) as made:
        run_async(main(made))


def test_async_beside_a_consumer_leaves_the_pace_to_it() -> None:
    async def main(made: Scripted) -> None:
        stream, go_on, first = small_async(made), asyncio.Event(), asyncio.Event()

        async def consume() -> str:
            text = ""
            async for token in stream:
                text += token.text
                first.set()
                await go_on.wait()
            return text

        consumer = asyncio.create_task(consume())
        await first.wait()
        result = asyncio.create_task(stream.result())
        while not stream._channel._end_waiters:
            await asyncio.sleep(0)
        assert stream.tokens_generated() <= 2
        go_on.set()
        assert await consumer == (await result).text == TEXT

    with scripted(TEXT) as made:
        run_async(main(made))


def test_async_where_the_consumer_is_cancelled() -> None:
    async def main(made: Scripted) -> None:
        stream = small_async(made)

        async def consume() -> None:
            async for _ in stream:
                await asyncio.Event().wait()

        consumer = asyncio.create_task(consume())
        result = asyncio.create_task(stream.result())
        while stream._last_reader is None:
            await asyncio.sleep(0)
        consumer.cancel()
        assert (await result).finish_reason in ("cancelled", "stop")
        with pytest.raises(asyncio.CancelledError):
            await consumer

    with scripted(TEXT) as made:
        run_async(main(made))


def test_async_after_break_and_close() -> None:
    async def main(made: Scripted) -> None:
        stream = small_async(made)
        async for _ in stream:
            break
        assert (await stream.result()).finish_reason == "cancelled"
        async with small_async(made) as stream:
            await anext(stream)
        assert (await stream.result()).finish_reason == "cancelled"
        await stream.aclose()

    with scripted(TEXT) as made:
        run_async(main(made))


def test_async_timeout() -> None:
    gate = Gate()

    async def main(made: Scripted) -> None:
        stream = small_async(made)
        with pytest.raises(TimeoutError):
            await stream.result(0.01)
        gate.open()
        assert (await stream.result(PATIENCE)).text == TEXT

    with scripted(TEXT, before_step=gate) as made:
        run_async(main(made))


class TestReadingInOne:
    """`read` takes what is there, in one call."""

    def test_until_the_end(self) -> None:
        gate = Gate()
        with scripted("abcdef", before_step=gate) as made:
            stream = made.model.generate_stream("x")
            gate.step(2)
            gate.wait()
            assert "".join(token.text for token in within(stream.read)) == "ab"
            assert not stream.is_read
            gate.open()
            within(stream.wait_end)
            assert [token.text for token in within(stream.read, 3)] == ["c", "d", "e"]
            assert "".join(token.text for token in within(stream.read)) == "f"
            assert stream.is_read
            assert within(stream.read) == []

    def test_it_raises_what_the_iteration_raises(self) -> None:
        def fail(part: Slice, _: object) -> None:
            if part.start > 1:
                raise RuntimeError("broken")

        with scripted("abc", on_sample=fail) as made:
            stream = made.model.generate_stream("x")
            within(stream.wait_end)
            assert [token.text for token in within(stream.read)] == ["a", "b"]
            with pytest.raises(GenerationError, match="broken"):
                within(stream.read)
            assert within(stream.read) == []
