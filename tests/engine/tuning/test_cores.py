"""The thread counts that a machine has to offer."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.engine.tuning.cores import available_cores, processor, thread_counts


@pytest.mark.parametrize(
    ("most", "expected"),
    [(1, (1,)), (2, (1, 2)), (4, (1, 2, 3, 4)), (6, (1, 3, 6)), (8, (1, 2, 4, 8)), (96, (1, 3, 6, 12, 24, 48, 96))],
)
def test_thread_counts(most: int, expected: tuple[int, ...]) -> None:
    assert thread_counts(most) == expected


def test_the_processor_has_a_name(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some Processor 9000\n")
    assert processor(tmp_path / "cpuinfo") == "Some Processor 9000"
    assert processor(tmp_path / "none")
    assert available_cores() >= 1
