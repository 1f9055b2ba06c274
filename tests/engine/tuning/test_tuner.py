"""Steps are padded if a larger step takes less time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from harness import scripted, within

from headrace.engine.kv.cache import KVCache
from headrace.engine.runner import Slice
from headrace.engine.scripted import ScriptedRunner
from headrace.engine.tuning.cost import CostModel
from headrace.engine.tuning.tuner import Tuning

TARGET = 0.1


def test_steps_are_padded_where_a_larger_one_is_faster() -> None:
    cost = CostModel(TARGET, 512, (1, 2))
    for size, seconds in {1: 0.006, 4: 0.028, 5: 0.043, 6: 0.048, 7: 0.053, 8: 0.042, 9: 0.061, 12: 0.0605}.items():
        cost.learn(size, 0, seconds, 2)
    table = cost.tables[2]
    assert [table.padding(size) for size in (1, 4, 5, 6, 7, 8, 9, 10, 12)] == [0, 0, 0, 2, 1, 0, 0, 0, 0]
    assert table.decode_time(7) == 0.042
    cost.learn(8, 0, 0.060, 2, weight=1.0)
    assert table.padding(7) == 0, "no longer"


@pytest.mark.parametrize(("drops", "expected"), [(True, [0, 0, 1, 0, 1, 1]), (False, [0] * 6)])
def test_the_engine_pads_its_steps(drops: bool, expected: list[int]) -> None:
    seen: list[int] = []
    runners: list[ScriptedRunner] = []

    def note(slices: Sequence[Slice]) -> None:
        if len(slices) == 3:
            seen.append(runners[0].padding)

    with scripted("abcdef", max_streams=3, can_drop_partial=drops, before_step=note) as made:
        runners.append(made.runner)
        for size, seconds in ((3, 10.0), (4, 1e-9)):
            made.engine._tuning.cost.learn(size, 0, seconds, 1)
        with made.hold():
            streams = [made.model.generate_stream(letter, max_tokens=6) for letter in "xyz"]
        assert [within(stream.result).text for stream in streams] == ["abcdef"] * 3
    assert seen == expected


def test_rows_of_no_use_take_no_cell_from_anybody() -> None:
    kv = KVCache(ScriptedRunner({0: b""}), num_cells=10, num_rows=4)
    row = kv.acquire()
    kv.append(row, [1, 2, 3, 4])
    assert kv.room_besides(2) == 4
    kv.release(row)
    assert kv.room_besides(0) == 6, "not even a cached prefix"
    assert kv.room_besides(7) == 0


def test_padding_that_finds_no_room_is_not_expected_of_the_step() -> None:
    tuning = Tuning(ScriptedRunner({0: b""}, thread_counts=(1, 2)), target=TARGET, max_streams=4)
    for size, seconds in ((3, 0.080), (4, 0.050)):
        tuning.cost.learn(size, 0, seconds)
    for _ in range(20):
        assert tuning.begin(3, 0, room=0, repeatable=False) == 0
        tuning.end(3, 0, 0.080)
    assert tuning.cost.slowdown == {1: 1.0, 2: 1.0}


def padded(seconds: tuple[float, float], known: tuple[float, float]) -> list[int]:
    """The padding of a thousand steps of three streams, which take so long without and with it."""
    tuning = Tuning(ScriptedRunner({0: b""}), target=TARGET, max_streams=4)
    for size, known_seconds in zip((3, 4), known, strict=True):
        tuning.cost.learn(size, 0, known_seconds)
    paddings: list[int] = []
    for _ in range(1024):
        paddings.append(tuning.begin(3, 0, room=9, repeatable=False))
        tuning.end(3 + paddings[-1], 0, seconds[paddings[-1]])
    return paddings


def test_that_padding_does_not_pay_is_found_out() -> None:
    assert padded((0.030, 0.040), known=(0.050, 0.040))[-990:] == [0] * 990


def test_that_padding_pays_is_doubted_now_and_then() -> None:
    assert padded((0.050, 0.040), known=(0.050, 0.040)).count(0) == 6 + 1024 // 64
