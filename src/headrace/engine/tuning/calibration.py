"""`Calibration`: measures step times while a new engine is idle. `CostFile`: keeps them for the next start."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

from headrace.engine.tuning.cost import CostModel, Costs

__all__ = ["Calibration", "CostFile", "Shape"]

# Seconds of measuring in all, and of the longest step to measure: the first request waits for a running measurement.
_BUDGET = 1.5
_LONGEST_STEP = 0.15
_PREFILL = 32  # prefill tokens of a measured step
_ROW_SHARE = 0.25  # assumed time of a further row, relative to a step of one row
_VERSION = 1
# A step time above this means that the file is damaged.
_MAX_SECONDS = 3600.0


class Shape(NamedTuple):
    """A step to measure."""

    threads: int
    num_decodes: int
    num_prefill: int


class Calibration:
    """Measures one step shape after another on an empty KV cache, the most important first.

    Args:
        cost: learns the results; shapes that it knows already are not measured.
        measure: runs a step of a shape and returns its seconds.
        max_streams: the most sequences that decode together.
        largest_chunk: the most prefill tokens in a step.
    """

    def __init__(
        self, cost: CostModel, measure: Callable[[Shape], float], *, max_streams: int, largest_chunk: int
    ) -> None:
        self._cost = cost
        self._measure = measure
        self._left = _BUDGET
        self._shapes = self._plan(max_streams, min(_PREFILL, largest_chunk))
        self.is_done = False

    def go_on(self) -> None:
        """Measure one shape."""
        cost = self._cost
        shape = next(self._shapes, None)
        if shape is None or self._left <= 0:
            self.is_done = True
            return
        threads, num_decodes, num_prefill = shape
        expected = cost.step_time(num_decodes, num_prefill, threads, calm=True)
        if not expected:
            expected = cost.step_time(1, 0, threads, calm=True) * _ROW_SHARE * (num_decodes + num_prefill)
        if expected > _LONGEST_STEP:
            return
        seconds = self._measure(shape)
        self._left -= seconds
        if seconds < _LONGEST_STEP:  # the first step of a shape includes setting up its graph
            again = self._measure(shape)
            self._left -= again
            seconds = min(seconds, again)
        cost.learn(num_decodes, num_prefill, seconds, threads, weight=1.0)
        self._drop_suspects(shape)

    def _drop_suspects(self, shape: Shape) -> None:
        """Forget measurements that contradict this one: another process may have used the cores meanwhile.

        If more threads took longer, their time is dropped; the governor then tries them in real steps. If fewer decodes
        took longer, their time is dropped, too, because steps are to be padded only if real steps show that it pays.
        """
        threads, num_decodes, num_prefill = shape
        tables = self._cost.tables
        larger = [table for count, table in tables.items() if count > threads]
        if num_prefill:
            per_token = tables[threads].per_prefill_token or 0.0
            for table in larger:
                if (table.per_prefill_token or 0.0) > per_token:
                    table.per_prefill_token = None
            return
        seconds = tables[threads].decode[num_decodes]
        for table in larger:
            if table.decode.get(num_decodes, 0.0) > seconds:
                del table.decode[num_decodes]
        own = tables[threads].decode
        for size in [size for size, known in own.items() if size < num_decodes and known > seconds]:
            del own[size]

    def _plan(self, max_streams: int, chunk: int) -> Iterator[Shape]:
        all_threads = self._cost.threads[-1]
        sizes = [size for size in (1, 8, 4, 16, 2, 32, 64) if size <= max_streams]
        for threads in (all_threads, *reversed(self._cost.threads[:-1])):
            yield from self._unknown(threads, [(1, 0), (0, chunk), *((size, 0) for size in sizes[1:4])])
        rest = [size for size in range(2, min(max_streams, 16) + 1) if size not in sizes[1:4]]
        yield from self._unknown(all_threads, [(size, 0) for size in (*rest, *sizes[5:])])

    def _unknown(self, threads: int, shapes: list[tuple[int, int]]) -> Iterator[Shape]:
        table = self._cost.tables[threads]
        for num_decodes, num_prefill in shapes:
            known = table.per_prefill_token if num_prefill else table.decode.get(num_decodes)
            if known is None:
                yield Shape(threads, num_decodes, num_prefill)


class CostFile:
    """Keeps the tables of a cost model in a file. Failures are ignored: the costs are then measured again.

    Args:
        path: the file; it and its folder may be absent.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self, cost: CostModel) -> None:
        """Fill the tables from the file, if it exists and can be read."""
        try:
            read = json.loads(self._path.read_bytes())
            found = {int(threads): _costs(table) for threads, table in read["threads"].items()}
            if read["version"] != _VERSION:
                return
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return
        for threads, table in found.items():
            if threads in cost.tables:
                cost.tables[threads] = table

    def save(self, cost: CostModel) -> None:
        """Write the tables to the file, atomically."""
        tables = {
            str(threads): {
                "decode": {str(n): round(t, 7) for n, t in sorted(table.decode.items())},
                "per_prefill_token": table.per_prefill_token,
            }
            for threads, table in cost.tables.items()
            if table.decode
        }
        if not tables:
            return
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._path.parent, prefix=self._path.name)
            try:
                with os.fdopen(handle, "w") as file:
                    json.dump({"version": _VERSION, "threads": tables}, file)
                os.replace(name, self._path)
            except BaseException:
                os.unlink(name)
                raise


def _costs(table: dict[str, Any]) -> Costs:
    per_token = table["per_prefill_token"]
    decode = {int(size): _seconds(value) for size, value in cast("dict[str, object]", table["decode"]).items()}
    if any(size < 1 for size in decode):
        raise ValueError("the number of decodes must be at least 1")
    return Costs(decode, None if per_token is None else _seconds(per_token))


def _seconds(value: object) -> float:
    if not isinstance(value, float) or not 0 < value < _MAX_SECONDS:
        raise ValueError(f"{value} is not a step time in seconds")
    return value
