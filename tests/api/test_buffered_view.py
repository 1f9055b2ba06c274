"""`stream.buffered()`."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from harness import PATIENCE, Gate, Scripted, run_async, scripted, started, within
from hypothesis import given, settings
from hypothesis import strategies as st

from api.viewing import LONG, both, collected
from headrace import (
    StreamTimeoutError,
    Token,
)

# buffered()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 30, 31, 100])
@pytest.mark.parametrize("buffer_size", [1, 4, 64])
def test_groups_are_full_but_for_the_last(size: int, buffer_size: int) -> None:
    with scripted(LONG[:29]) as made:
        groups = both(made, "buffered", size, buffer_size=buffer_size)
        assert [len(group) for group in groups[:-1]] == [size] * (len(groups) - 1)
        assert 0 < len(groups[-1]) <= size
        tokens = list(itertools.chain(*groups))
        assert [token.index for token in tokens] == list(range(30))
        assert "".join(token.text for token in tokens) == LONG[:29]


def test_groups_are_of_sampled_tokens() -> None:
    with scripted("abcd") as made:
        stream, _, _ = made.model.generate_stream_with_metrics("p")
        groups = within(list, stream.buffered(4))
        assert [[token.is_last for token in group] for group in groups] == [[False] * 4, [False]]


@pytest.mark.parametrize("size", [2, 3, 5, 100])
def test_an_error_comes_after_the_tokens_until_then(size: int) -> None:
    async def main(made: Scripted) -> None:
        stream = made.asynchronous.generate_stream("p", buffer_size=5, stall_timeout_ms=20)
        await stream.wait_end()
        groups, view = [], stream.buffered(size)

        async def read() -> None:
            async for group in view:
                groups.extend([group])

        with pytest.raises(StreamTimeoutError):
            await read()
        check(groups)

    def check(groups: list[list[Token]]) -> None:
        assert "".join(token.text for group in groups for token in group) == "abcde"
        assert all(len(group) == size for group in groups[:-1])

    with scripted(LONG) as made:
        stream = made.model.generate_stream("p", buffer_size=5, stall_timeout_ms=20)
        stream.wait_end()
        groups: list[list[Token]] = []
        view = stream.buffered(size)
        with pytest.raises(StreamTimeoutError):
            groups.extend(view)
        check(groups)
        assert next(view, None) is None
        run_async(main(made))


def test_a_group_that_waits_too_long_is_handed_out() -> None:
    gate = Gate()
    with scripted("abcdef", before_step=gate) as made:
        stream = made.model.generate_stream("p")
        view = stream.buffered(4, max_wait_ms=1)
        first = started(next, view)
        gate.step(2)
        gate.wait()
        shown = first.result(PATIENCE)
        while "".join(token.text for token in shown) != "ab":  # the first may have been there for a millisecond
            shown += within(next, view)
        gate.open()
        rest = within(list, view)
        assert "".join(token.text for group in rest for token in group) == "cdef"
        assert all(len(group) <= 4 for group in rest)


def test_an_async_group_that_waits_too_long_is_handed_out() -> None:
    gate = Gate()

    async def main(made: Scripted) -> None:
        view = made.asynchronous.generate_stream("p").buffered(4, max_wait_ms=1)
        first = asyncio.ensure_future(anext(view))
        await asyncio.to_thread(gate.step, 2)
        await asyncio.to_thread(gate.wait)
        shown = await first
        while "".join(token.text for token in shown) != "ab":
            shown += await anext(view)
        gate.open()
        rest = await collected(view)
        assert "".join(token.text for group in rest for token in group) == "cdef"

    with scripted("abcdef", before_step=gate) as made:
        run_async(main(made))


def test_a_group_whose_waiting_is_cancelled_loses_nothing() -> None:
    gate = Gate()

    async def main(made: Scripted) -> None:
        stream = made.asynchronous.generate_stream("p")
        view = stream.buffered(4)
        await asyncio.to_thread(gate.step, 2)
        await asyncio.to_thread(gate.wait)
        waiting = asyncio.ensure_future(anext(view))
        while not stream._source._waiters:
            await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        gate.open()
        assert ["".join(token.text for token in group) for group in await collected(view)] == ["abcd", "ef"]

    with scripted("abcdef", before_step=gate) as made:
        run_async(main(made))


@settings(max_examples=30)
@given(st.integers(1, 8), st.sampled_from([None, 0, 1, 10_000]), st.integers(1, 6), st.integers(0, 20))
def test_groups_lose_nothing(size: int, max_wait_ms: float | None, buffer_size: int, count: int) -> None:
    with scripted(LONG[:count]) as made:
        view = made.model.generate_stream("p", buffer_size=buffer_size).buffered(size, max_wait_ms)
        groups = within(list, view)
        assert [token.index for group in groups for token in group] == list(range(count + 1))
        assert all(0 < len(group) <= size for group in groups)
        if max_wait_ms is None:
            assert all(len(group) == size for group in groups[:-1])
