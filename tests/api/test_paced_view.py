"""`stream.paced()`."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from harness import PATIENCE, Gate, Scripted, run_async, scripted, started, wait_until, within
from hypothesis import given
from hypothesis import strategies as st

from api.viewing import LONG, both
from headrace import (
    Token,
)
from headrace.api.paced_view import Pace

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
    monkeypatch.setattr("headrace.engine.delivery.time", clock)


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
