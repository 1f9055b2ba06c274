"""The planner tries as many drafts as save time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace import StreamConfig
from headrace.engine.channel import Channel
from headrace.engine.metrics import StreamStats
from headrace.engine.sequence import Sequence as EngineSequence
from headrace.engine.speculation.planner import MAX_DRAFTS, Speculation
from headrace.engine.speculation.prompt_lookup import Lookup
from headrace.values.request import Request


def following(*matches: int) -> list[EngineSequence]:
    """Sequences, of each of which so many of the last tokens stood before."""
    found: list[EngineSequence] = []
    for number, length in enumerate(matches):
        text = [*range(100, 130), 1000 + number, *range(110, 110 + length)]
        config = StreamConfig(buffer_size=1000)
        request = Request(str(number), tuple(text), config)
        found.append(EngineSequence(request, Channel(1000), None, StreamStats(0.0)))
    return found


def test_the_gate_stays_closed_where_rows_cost_as_much_as_steps() -> None:
    sequences = following(16)
    for per_step, power in ((0.01, 1.0), (0.0, 1.0), (0.01, 1.2)):
        assert Speculation(lambda n, a=per_step, b=power: a * n**b, 1000).plan(sequences, 100) == {}
    assert sequences[0].lookup is None, "there was nothing to look up"


def test_what_seems_too_dear_is_tried_now_and_then_where_it_is_almost_certain() -> None:
    """So what many rows cost is learnt although nobody has measured it, and learnt again when it has changed."""
    speculation = Speculation(lambda n: 0.01 * n, 10_000)
    sure, unsure = following(20)[0], following(9)[0]
    sure.lookup = Lookup(sure.tokens)
    sure.tokens += sure.tokens * 3
    tried = [len(speculation.plan([sure], 100).get(0, [])) for _ in range(256)]
    assert [count for count in tried if count] == [15, 7, 15, 7]
    assert not any(speculation.plan([unsure], 100) for _ in range(256))
    assert not any(speculation.plan([sure, unsure], 100) for _ in range(256)), "somebody else would wait for it"


@pytest.mark.parametrize("known", [range(0), range(1, 2), range(2), range(1, 9), range(4, 30)])
def test_times_that_are_not_known_are_no_reason_to_guess(known: range) -> None:
    speculation = Speculation(lambda n: 0.01 if n in known else 0.0, 1000)
    plan = speculation.plan(following(20), 100)
    assert sum(map(len, plan.values())) + 1 in (1, *known)


@pytest.mark.parametrize("room", [-3, 0, 1, 4, 100])
def test_the_gate_opens_as_far_as_there_is_room(room: int) -> None:
    plan = Speculation(lambda _: 0.01, 1000).plan(following(16, 4, 0), room)
    assert sum(map(len, plan.values())) <= max(0, min(room, MAX_DRAFTS))
    assert bool(plan) == (room > 0)
    if room == 1:
        assert list(plan) == [0], "the likeliest guess goes first"


@settings(max_examples=200)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=5), st.floats(0.0, 0.5), st.integers(1, 20))
def test_the_gate_takes_what_makes_the_streams_fastest(matches: list[int], per_row: float, room: int) -> None:
    def decode_time(n: int) -> float:
        return 1 + per_row * (n - 1) + (0.5 if n > 4 else 0.0)

    sequences = following(*matches)
    plan = Speculation(decode_time, 1000).plan(sequences, room)
    chances: list[list[float]] = []
    for sequence in sequences:
        lookup = Lookup(sequence.tokens)
        lookup.catch_up()
        chances.append(lookup.chances(min(room, MAX_DRAFTS)))

    def value(counts: Sequence[int]) -> float:
        """The logarithm of the product of all streams' speeds."""
        tokens = [1 + sum(found[:count]) for found, count in zip(chances, counts, strict=True)]
        return sum(log(expected / decode_time(len(sequences) + sum(counts))) for expected in tokens)

    counts = [len(plan.get(place, [])) for place in range(len(sequences))]
    for place, tokens in plan.items():
        lookup = sequences[place].lookup
        assert lookup is not None
        assert tokens == lookup.propose(len(tokens)) != []
    possible = product(*(range(0, len(found) + 1, 1 + len(sequences) // 2) for found in chances))
    best = max(value(counts) for counts in possible if sum(counts) <= min(room, MAX_DRAFTS))
    if plan:
        assert value(counts) >= best - 1e-9
    else:
        assert best <= value(counts) + len(sequences) * log(1.15) + 1e-9, "guesses would have paid"


def test_a_stream_that_copies_does_not_take_the_others_time() -> None:
    """One of eight could become three times as fast at the cost of a third of the others' speed: it does not."""

    def decode_time(n: int) -> float:
        return 1 + 0.06 * n

    alone = Speculation(decode_time, 1000).plan(following(20), 100)
    assert len(alone[0]) > 10
    among = Speculation(decode_time, 1000).plan(following(20, *[0] * 7), 100)
    assert sum(map(len, among.values())) < 3
