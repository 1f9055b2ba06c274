"""An idle engine measures its steps, and keeps their times in a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import scripted, wait_until, within

from headrace.engine.scripted import ScriptedRunner
from headrace.engine.tuning.calibration import Calibration, CostFile, Shape
from headrace.engine.tuning.cost import CostModel
from headrace.engine.tuning.thread_governor import Governor

TARGET = 0.1


def calibrated(seconds: Callable[[Shape], float], **given: object) -> tuple[CostModel, list[Shape]]:
    cost, seen = CostModel(TARGET, 512, (1, 2)), list[Shape]()

    def measure(shape: Shape) -> float:
        seen.append(shape)
        return seconds(shape)

    calibration = Calibration(cost, measure, **{"max_streams": 16, "largest_chunk": 512, **given})  # pyright: ignore[reportArgumentType]
    for _ in range(1000):
        if calibration.is_done:
            break
        calibration.go_on()
    assert calibration.is_done
    return cost, seen


def test_a_fast_model_is_measured_whole() -> None:
    cost, seen = calibrated(lambda shape: (1 + shape.num_decodes + shape.num_prefill) * 1e-4 / shape.threads)
    assert set(cost.tables[2].decode) == set(range(1, 17))
    assert {1, 4, 8, 16} <= set(cost.tables[1].decode)
    assert cost.tables[2].per_prefill_token == pytest.approx(0.5e-4, rel=0.1)
    assert len(seen) == 2 * len(set(seen))


def test_what_was_measured_beside_somebody_is_forgotten() -> None:
    """More threads are not slower because somebody wanted the cores when they were measured, nor fewer rows."""
    disturbed = {Shape(2, 8, 0): 0.04, Shape(2, 5, 0): 0.06, Shape(2, 0, 32): 0.07}
    measured: dict[Shape, float] = {}

    def seconds(shape: Shape) -> float:
        calm = (0.008 + 0.001 * shape.num_decodes + 0.001 * shape.num_prefill) / shape.threads
        measured[shape] = disturbed.get(shape, calm)
        return measured[shape]

    cost, _ = calibrated(seconds)
    assert measured.keys() >= disturbed.keys()
    assert max(cost.tables[2].decode.values()) < 0.02
    assert cost.tables[2].per_prefill_token is None
    governor = Governor(cost)
    for shape in ((8, 0), (5, 0), (0, 32), (3, 16)):
        assert governor.choose(*shape, 0.0) == 2
    assert cost.tables[2].padding(5) == 0


def test_a_slow_model_is_measured_for_a_second_or_two_and_never_for_long_at_once() -> None:
    times: list[float] = []

    def slow(shape: Shape) -> float:
        times.append(0.1 * shape.num_decodes + 0.05 * shape.num_prefill)
        return times[-1]

    calibrated(slow)
    assert max(times) < 0.5
    assert sum(times) < 2


def test_a_very_slow_model_is_measured_once() -> None:
    _, seen = calibrated(lambda shape: 2.0 * shape.num_decodes + 0.5 * shape.num_prefill)
    assert seen == [Shape(2, 1, 0)]


def test_a_measurement_that_fails_ends_nothing() -> None:
    class Failing(ScriptedRunner):
        def measure(self, num_decodes: int, num_prefill: int) -> float:
            raise RuntimeError("the device is gone")

    with scripted("abc", runner_type=Failing, can_measure=True) as made:
        assert within(made.model.generate, "p").text == "abc"
        wait_until(lambda: made.engine.tuning.is_measured or made.engine._scheduler.kv.num_used)


def test_no_step_is_measured_that_the_batch_does_not_hold() -> None:
    measured: list[int] = []

    class Small(ScriptedRunner):
        def measure(self, num_decodes: int, num_prefill: int) -> float:
            measured.append(num_decodes + num_prefill)
            return 0.001

    with scripted("abc", runner_type=Small, can_measure=True, max_batch=8, max_streams=2) as made:
        wait_until(lambda: made.engine.tuning.is_measured)
        assert within(made.model.generate, "p").text == "abc"
    assert 0 < max(measured) <= 8


def test_what_is_known_is_not_measured_again() -> None:
    cost = CostModel(TARGET, 512, (1, 2))
    for threads in (1, 2):
        cost.learn(1, 0, 0.001, threads)
    seen: list[Shape] = []

    def measure(shape: Shape) -> float:
        seen.append(shape)
        return 0.001

    calibration = Calibration(cost, measure, max_streams=1, largest_chunk=8)
    while not calibration.is_done:
        calibration.go_on()
    assert set(seen) == {Shape(2, 0, 8), Shape(1, 0, 8)}


# What is kept.


def filled() -> CostModel:
    cost = CostModel(TARGET, 512, (1, 2))
    cost.learn(1, 0, 0.0123, 1)
    cost.learn(8, 0, 0.5, 2)
    cost.learn(0, 32, 1.5, 2)
    return cost


def test_costs_come_back(tmp_path: Path) -> None:
    file = CostFile(tmp_path / "new" / "folder" / "costs.json")
    file.save(filled())
    cost = CostModel(TARGET, 512, (1, 2))
    file.load(cost)
    assert cost.tables == filled().tables
    fewer = CostModel(TARGET, 512, (1,))
    file.load(fewer)
    assert fewer.tables[1] == filled().tables[1]
    assert list((tmp_path / "new" / "folder").iterdir()) == [tmp_path / "new" / "folder" / "costs.json"]


GOOD = {"version": 1, "threads": {"2": {"decode": {"1": 0.5}, "per_prefill_token": None}}}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"threads": 5}',
        json.dumps({**GOOD, "version": 2}).encode(),
        json.dumps({**GOOD, "threads": {"x": {}}}).encode(),
        json.dumps(GOOD).replace("0.5", "-0.5").encode(),
        json.dumps(GOOD).replace("0.5", "NaN").encode(),
        json.dumps(GOOD).replace("0.5", "1e99").encode(),
        json.dumps(GOOD).replace("0.5", '"1"').encode(),
        json.dumps(GOOD).replace('"1"', '"0"').encode(),
        json.dumps(GOOD).replace("null", "-1.0").encode(),
        json.dumps(GOOD).encode()[:-3],
    ],
)
def test_a_damaged_file_is_as_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "costs.json"
    path.write_bytes(content)
    cost = CostModel(TARGET, 512, (1, 2))
    CostFile(path).load(cost)
    assert cost.tables == CostModel(TARGET, 512, (1, 2)).tables


def test_a_good_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text(json.dumps(GOOD))
    cost = CostModel(TARGET, 512, (1, 2))
    CostFile(path).load(cost)
    assert cost.tables[2].decode == {1: 0.5}


def test_a_folder_that_cannot_be_written_to_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "costs").write_text("a file in the way")
    CostFile(tmp_path / "costs" / "costs.json").save(filled())
    (tmp_path / "costs.json").mkdir()
    CostFile(tmp_path / "costs.json").save(filled())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["costs", "costs.json"]
    CostFile(tmp_path / "costs.json").load(filled())
