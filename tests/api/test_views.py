"""The views of a stream: text, groups, an even pace, growing objects; leaving any of them leaves the stream."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from harness import BYTES, PATIENCE, Gate, Scripted, run_async, scripted, started, texts, wait_until, within
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from headrace import (
    AsyncTokenStream,
    GenerationError,
    InvalidRequestError,
    Part,
    StreamTimeoutError,
    Token,
    TokenStream,
)
from headrace.api.paced_view import Pace
from headrace.api.text_view import text_of

LONG = "abcdefghij" * 30
FIRST = 1000  # ids below this are the bytes, which spell the prompt
TAGS = ("<t>", "</t>")


def scripted_pieces(pieces: Sequence[bytes], **settings: Any) -> Any:
    """A model whose tokens are these pieces."""
    # No two tokens are the same: a grammar would allow only one of them.
    script = [piece[0] + 1 if len(piece) == 1 else FIRST + at for at, piece in enumerate(pieces)]
    return scripted(script, pieces={**BYTES, **dict(zip(script, pieces, strict=True))}, **settings)


def every_cut(text: str) -> Iterator[list[bytes]]:
    """A text in one piece, in two and in three, and byte by byte."""
    data = text.encode()
    yield [data]
    yield [data[at : at + 1] for at in range(len(data))]
    for one in range(1, len(data)):
        yield [data[:one], data[one:]]
    for one, two in itertools.combinations(range(1, len(data), 3), 2):
        yield [data[:one], data[one:two], data[two:]]


def idle(made: Scripted) -> bool:
    metrics = made.model.metrics
    return metrics.queued + metrics.running + metrics.paused == 0


async def collected(view: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in view]


def both(made: Scripted, view: str, *args: Any, **overrides: Any) -> list[Any]:
    """What a view gives, which is the same on both faces."""

    async def main() -> list[Any]:
        return await collected(getattr(made.asynchronous.generate_stream("p", **overrides), view)(*args))

    items = within(list, getattr(made.model.generate_stream("p", **overrides), view)(*args))
    theirs = run_async(main())
    if view in ("buffered", "paced"):
        assert _untimed(items) == _untimed(theirs)
    else:
        assert items == theirs
    return items


def _untimed(items: list[Any]) -> list[Any]:
    return [[token.id for token in item] if isinstance(item, list) else item.id for item in items]


# Leaving.

VIEWS: dict[str, Callable[[Any], Any]] = {
    "text": lambda stream: stream.text(),
    "buffered": lambda stream: stream.buffered(2),
    "buffered with a limit": lambda stream: stream.buffered(5, max_wait_ms=1),
    "paced": lambda stream: stream.paced(),
    "objects": lambda stream: stream.objects(),
}
ANY_TEXT = {"type": "string"}


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


# text()


@pytest.mark.parametrize("whole", ["", "a", "héllo 🙂 wörld", "日本語"])
def test_text(whole: str) -> None:
    with scripted(whole) as made:
        strings = both(made, "text")
        assert strings == list(whole)


def test_text_at_every_cut() -> None:
    for pieces in every_cut("ab€<t>no</t>🙂yes"):
        with scripted_pieces(pieces) as made:
            stream = made.model.generate_stream("p", thinking_tags=TAGS, stop_sequences=["s!"])
            strings = within(list, stream.text())
            assert "".join(strings) == stream.result().text
            assert all(strings)
    for pieces in every_cut("<t>no</t>🙂yes"):
        with scripted_pieces(pieces) as made:
            stream = made.model.generate_stream("p", thinking_tags=TAGS, stop_sequences=["s!"])
            assert "".join(within(list, stream.text())) == stream.result().text == "🙂yes"
            assert stream.result().thinking == "no"


def test_all_the_text_of_a_token_counts() -> None:
    """The last one may have several parts."""
    token = Token("a", 1, 0, 0.0, kind="thinking", rest=(Part("text", "b"), Part("tool_call", "c"), Part("text", "d")))
    assert text_of(token) == "bd"
    assert text_of(Token("a", 1, 0, 0.0, rest=(Part("text", "b"),))) == "ab"
    assert text_of(Token("a", 1, 0, 0.0, kind="tool_call")) == ""


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


# paced()


def stamped(stamps: Sequence[float]) -> list[Token]:
    return [Token("x", 1, at, stamp) for at, stamp in enumerate(stamps)]


def played(tokens: list[Token], arrivals: Sequence[float], lag_ms: float) -> list[float]:
    """When each token is shown by a reader that always wants the next, in seconds; no real time passes."""
    pace, now, shown = Pace(lag_ms), 0.0, []
    for token, arrival in zip(tokens, arrivals, strict=True):
        now = max(now, arrival)
        pace.hold(token)
        now += pace.delay(now, now)
        assert pace.show(now) is token
        shown.append(now)
    return shown


def test_an_even_stream_is_not_held_back() -> None:
    stamps = [0.05 * at for at in range(100)]
    assert played(stamped(stamps), stamps, 250) == stamps


def test_bursts_are_evened_out() -> None:
    """Four tokens every 0.2 s come out as one every 0.05 s or so, once the usual distance is known."""
    arrivals = [0.2 * (at // 4) for at in range(200)]
    shown = played(stamped(arrivals), arrivals, 250)
    gaps = [after - before for before, after in itertools.pairwise(shown[100:])]
    assert all(0.03 < gap < 0.08 for gap in gaps)


def test_a_hiccup_is_made_good() -> None:
    """What piled up while nobody looked is spread, and after a while the view is up to date again."""
    stamps = [0.05 * at for at in range(200)]
    arrivals = [max(stamp, 5.2) if stamp >= 5 else stamp for stamp in stamps]
    shown = played(stamped(stamps), arrivals, 250)
    assert shown[:100] == stamps[:100]
    piled_up = [after - before for before, after in itertools.pairwise(shown[100:105])]
    assert all(gap > 0.01 for gap in piled_up[1:])
    assert shown[-50:] == stamps[-50:]


@given(
    st.lists(st.tuples(st.floats(0, 0.5), st.floats(0, 0.5)), min_size=1, max_size=60),
    st.floats(0, 1000),
)
def test_whatever_comes_is_held_back_by_no_more_than_the_lag(gaps: list[tuple[float, float]], lag_ms: float) -> None:
    stamps = list(itertools.accumulate(gap for gap, _ in gaps))
    arrivals = list(itertools.accumulate((s + late for s, (_, late) in zip(stamps, gaps, strict=True)), max))
    shown = played(stamped(stamps), arrivals, lag_ms)
    assert shown == sorted(shown)
    ready = 0.0
    for stamp, arrival, at in zip(stamps, arrivals, shown, strict=True):
        ready = max(ready, arrival)
        assert arrival <= at <= max(ready, stamp + lag_ms / 1000) + 1e-6
        ready = at


@pytest.mark.parametrize("jump", [-1e6, 1e6])
def test_a_clock_that_is_put_forward_or_back_costs_no_more_than_the_lag(jump: float) -> None:
    pace = Pace(250)
    for at, stamp in enumerate([0.0, 0.05, 0.1, 0.15, jump, jump + 0.05]):
        pace.hold(Token("x", 1, at, stamp))
        assert 0 <= pace.delay(0.05 * at, 0.05 * at) <= 0.25
        pace.show(0.05 * at)


def slowly(monkeypatch: pytest.MonkeyPatch, gap: float) -> None:
    """Have the engine stamp its tokens as if so many seconds lay between them."""
    stamps = itertools.count(time.time(), gap)
    clock = SimpleNamespace(perf_counter=time.perf_counter, time=lambda: next(stamps))
    monkeypatch.setattr("headrace.engine.loop.time", clock)


def test_paced_gives_every_token_in_order() -> None:
    with scripted(LONG) as made:
        tokens = both(made, "paced", 5, buffer_size=3)
        assert "".join(token.text for token in tokens) == LONG


def test_what_came_together_is_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    slowly(monkeypatch, 0.02)
    with scripted("abcdefgh", before_step=gate) as made:
        stream = made.model.generate_stream("p")
        gate.step(6)
        gate.wait()  # so it does not end
        view = stream.paced(60_000)
        before = time.monotonic()
        assert [within(next, view).text for _ in range(6)] == list("abcdef")
        assert time.monotonic() - before > 5 * 0.02 * 0.9 - 0.02
        gate.open()
        assert [token.text for token in within(list, view)] == ["g", "h", ""]


def wait_until_held(view: Any) -> None:
    wait_until(lambda: view._pace.held is not None and view._stream._source._end_waiters)


@pytest.mark.parametrize("end", ["cancel", "close", "stop"])
def test_the_end_cuts_the_waiting_short(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    slowly(monkeypatch, 500)
    with scripted("abcdef", before_step=gate) as made:
        stream = made.model.generate_stream("p")
        gate.step(4)
        gate.wait()
        view = stream.paced(3_600_000)
        assert within(next, view).text == "a"
        waiting = started(next, view)  # for minutes, if nothing happens
        wait_until_held(view)
        if end == "cancel":
            stream.cancel()
        elif end == "close":
            stream.close()
        gate.open()
        assert waiting.result(PATIENCE).text == "b"
        rest = "".join(token.text for token in within(list, view))
        assert rest == ("cdef" if end == "stop" else "" if end == "close" else "cdef"[: len(rest)])
        assert len(rest) >= (0 if end == "close" else 2)


def test_an_async_wait_is_cut_short_and_its_token_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    slowly(monkeypatch, 500)

    async def main(made: Scripted) -> None:
        view = made.asynchronous.generate_stream("p").paced(3_600_000)
        await asyncio.to_thread(gate.step, 3)
        await asyncio.to_thread(gate.wait)
        assert (await anext(view)).text == "a"
        for _ in range(3):
            waiting = asyncio.ensure_future(anext(view))
            await asyncio.to_thread(wait_until_held, view)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        waiting = asyncio.ensure_future(anext(view))
        await asyncio.to_thread(wait_until_held, view)
        gate.open()
        assert (await waiting).text == "b"
        assert "".join([token.text async for token in view]) == "cdef"

    with scripted("abcdef", before_step=gate) as made:
        run_async(main(made))


def test_no_lag_is_no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    slowly(monkeypatch, 500)
    with scripted("abcdef", before_step=gate) as made:
        stream = made.model.generate_stream("p")
        view = stream.paced(0)
        gate.step(5)
        gate.wait()
        assert [within(next, view).text for _ in range(5)] == list("abcde")
        gate.open()


# objects()


class Person(BaseModel):
    name: str
    age: int
    tags: list[str] = []


PERSON = '{"name":"Åda 🙂","age":36,"tags":["x","yz"]}'


def is_refined(before: Any, after: Any) -> bool:
    if isinstance(before, dict):
        return isinstance(after, dict) and all(key in after and is_refined(before[key], after[key]) for key in before)
    if isinstance(before, list):
        return isinstance(after, list) and len(before) <= len(after) and all(map(is_refined, before, after))
    if isinstance(before, str):
        return isinstance(after, str) and after.startswith(before)
    return before == after


def test_objects_grow_until_the_instance() -> None:
    with scripted(PERSON) as made:
        objects = both(made, "objects", json_schema=Person)
    assert objects[-1] == Person(name="Åda 🙂", age=36, tags=["x", "yz"])
    growing = [*objects[:-1], objects[-1].model_dump()]
    assert growing[0] == {}
    assert {"name": "Å"} in growing
    assert all(is_refined(one, two) for one, two in itertools.pairwise(growing))
    assert all(one != two for one, two in itertools.pairwise(objects))


def test_objects_at_every_cut() -> None:
    whole = {"nä🙂": "Å\n", "b": [1, True]}
    for pieces in every_cut('{"nä🙂":"Å\\n","b":[1,true]}'):
        with scripted_pieces(pieces) as made:
            stream = made.model.generate_stream("p", json_schema=dict[str, Any])
            objects = within(list, stream.objects())
            assert objects[-1] == stream.result().parsed == whole
            assert all(is_refined(one, two) for one, two in itertools.pairwise(objects))
            assert all(one != two for one, two in itertools.pairwise(objects))


@pytest.mark.parametrize("end", range(len(PERSON.encode())))
def test_objects_that_are_cut_off_end_with_what_there_is(end: int) -> None:
    with scripted(PERSON) as made:
        if end == 0:
            return
        stream = made.model.generate_stream("p", json_schema=Person, max_tokens=end)
        objects = within(list, stream.objects())
        result = within(stream.result)
        assert (result.finish_reason, result.parsed) == ("length", None)
        assert all(isinstance(value, dict) for value in objects)
        whole = Person.model_validate_json(PERSON).model_dump()
        assert all(is_refined(one, two) for one, two in itertools.pairwise([*objects, whole]))


def test_objects_that_are_cancelled() -> None:
    gate = Gate()
    with scripted(PERSON, before_step=gate) as made:
        stream = made.model.generate_stream("p", json_schema=Person)
        view = stream.objects()
        gate.step(12)
        gate.wait()
        assert [within(next, view) for _ in range(3)] == [{}, {"name": ""}, {"name": "Å"}]
        stream.cancel()
        gate.open()
        assert all(isinstance(value, dict) for value in within(list, view))
        assert stream.finish_reason == "cancelled"


@pytest.mark.parametrize(
    ("schema", "text", "objects"),
    [
        ({"type": "null"}, "null", [None]),
        ({"type": "integer"}, "12", [12]),
        ({"type": "boolean"}, "false", [False]),
        (list[int], "[1,2]", [[], [1], [1, 2]]),
        (ANY_TEXT, '"ab"', ["", "a", "ab"]),
        (ANY_TEXT, '""', [""]),
        (True, '{"a":[]}', [{}, {"a": []}]),
    ],
)
def test_a_plain_value_is_not_given_twice(schema: Any, text: str, objects: list[Any]) -> None:
    with scripted(text) as made:
        assert both(made, "objects", json_schema=schema) == objects


def test_a_thought_is_no_part_of_the_object() -> None:
    with scripted('<t>{"no":1}</t>{"name":"A","age":1}') as made:
        stream = made.model.generate_stream("p", json_schema=Person, thinking_tags=TAGS)
        objects = within(list, stream.objects())
        assert objects[-1] == Person(name="A", age=1)
        assert all("no" not in value for value in objects[:-1])


def test_objects_of_what_has_none() -> None:
    with scripted("abc") as made:
        stream = made.model.generate_stream("p")
        with pytest.raises(InvalidRequestError) as caught:
            stream.objects()
        assert caught.value.field == "json_schema"
        assert texts(stream) == "abc", "the stream is as it was"
        raw = made.model.generate_stream("p", json_schema=Person, thinking="raw", thinking_tags=TAGS)
        with pytest.raises(InvalidRequestError) as caught:
            raw.objects()
        assert (caught.value.field, caught.value.value) == ("thinking", "raw")


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
