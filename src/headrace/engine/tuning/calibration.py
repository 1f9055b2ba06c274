"""Measures what steps cost while a new engine has nothing to do, and keeps it for the next start."""

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

# Seconds of measuring in all, and of a single step: the first request waits for the one that is running.
_BUDGET = 1.5
_LONGEST = 0.15
_PREFILL = 32
_ROW = 0.25
_VERSION = 1
# Longer than any step that somebody would wait for: a file that says so was damaged.
_MOST_SECONDS = 3600.0


class Shape(NamedTuple):
    """A step to measure."""

    threads: int
    num_decodes: int
    num_prefill: int


class Calibration:
    """Runs one step after another on an empty memory, what matters most first, as long as nobody wants anything.

    Args:
        cost: what takes the results in; shapes that it knows already are left out.
        measure: runs a step of so many decodes and prefill tokens with so many threads, and returns the seconds.
        max_streams: the most sequences that decode together.
        largest_chunk: prefill tokens in a step at most.
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
        if not expected:  # a row of several takes at least about this part of one alone
            expected = cost.step_time(1, 0, threads, calm=True) * _ROW * (num_decodes + num_prefill)
        if expected > _LONGEST:
            return
        seconds = self._measure(shape)
        self._left -= seconds
        if seconds < _LONGEST:  # the first step of a shape pays for what is set up in it
            again = self._measure(shape)
            self._left -= again
            seconds = min(seconds, again)
        cost.learn(num_decodes, num_prefill, seconds, threads, weight=1.0)
        self._doubt(shape)

    def _doubt(self, shape: Shape) -> None:
        """Forget what may have been measured beside somebody who wanted the cores: steps will tell.

        More threads that are slower are measured again as soon as they are tried, and they are where nothing is known
        of them. A step that takes longer than one with more rows is not padded before that was seen in earnest.
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
        most = self._cost.threads[-1]
        sizes = [size for size in (1, 8, 4, 16, 2, 32, 64) if size <= max_streams]
        for threads in (most, *reversed(self._cost.threads[:-1])):
            yield from self._unknown(threads, [(1, 0), (0, chunk), *((size, 0) for size in sizes[1:4])])
        rest = [size for size in range(2, min(max_streams, 16) + 1) if size not in sizes[1:4]]
        yield from self._unknown(most, [(size, 0) for size in (*rest, *sizes[5:])])

    def _unknown(self, threads: int, shapes: list[tuple[int, int]]) -> Iterator[Shape]:
        table = self._cost.tables[threads]
        for num_decodes, num_prefill in shapes:
            known = table.per_prefill_token if num_prefill else table.decode.get(num_decodes)
            if known is None:
                yield Shape(threads, num_decodes, num_prefill)


class CostFile:
    """Keeps the tables of a cost model on disk; as it is only a shortcut, whatever fails here goes unsaid.

    Args:
        path: where; it and its folder may be absent.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self, cost: CostModel) -> None:
        """Fill empty tables with what is there."""
        try:
            read = json.loads(self._path.read_bytes())
            found = {int(threads): _costs(table) for threads, table in read["threads"].items()}
            if read["version"] != _VERSION:
                return
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return  # none yet, or none that can be read: it is measured again
        for threads, table in found.items():
            if threads in cost.tables:
                cost.tables[threads] = table

    def save(self, cost: CostModel) -> None:
        """Write the tables, as a whole or not at all."""
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
        raise ValueError("sizes begin at 1")
    return Costs(decode, None if per_token is None else _seconds(per_token))


def _seconds(value: object) -> float:
    if not isinstance(value, float) or not 0 < value < _MOST_SECONDS:
        raise ValueError(f"{value} is no time of a step")
    return value
