"""Fits the steps to the machine: the threads of each, and what is known of their cost."""

from __future__ import annotations

import time
from typing import Protocol

from headrace.engine.tuning.calibration import Calibration, CostFile, Shape
from headrace.engine.tuning.cost import CostModel
from headrace.engine.tuning.governor import Governor

__all__ = ["Tunable", "Tuning"]

# One of so many steps that would be padded is not, and more of the first ones: what is known of steps without padding
# may be wrong.
_DOUBT_EVERY = 64


class Tunable(Protocol):
    """What of an engine's `Runner` is tuned; see there."""

    max_batch: int
    thread_counts: tuple[int, ...]
    can_measure: bool

    def set_threads(self, count: int) -> None: ...

    def measure(self, num_decodes: int, num_prefill: int) -> float: ...


class Tuning:
    """What the engine asks before and tells after each step. Belongs to the engine thread.

    Args:
        runner: whose threads are set, and which is measured.
        target: what a step should take at most while a prompt is read, in seconds.
        max_streams: sequences that decode together at most.
        file: where the costs are kept from one start to the next; None to forget them.

    Attributes:
        cost: what steps cost.
    """

    def __init__(self, runner: Tunable, *, target: float, max_streams: int, file: CostFile | None = None) -> None:
        self.cost = CostModel(target, runner.max_batch, runner.thread_counts)
        self._runner = runner
        self._governor = Governor(self.cost)
        self._file = file
        self._threads = runner.thread_counts[-1]
        self._num_learnt = 0
        self._num_padded = 0
        self._only_learns = False
        self._calibration: Calibration | None = None
        if runner.can_measure:
            self._calibration = Calibration(
                self.cost, self._measure, max_streams=max_streams, largest_chunk=runner.max_batch
            )
        if file is not None:
            file.load(self.cost)

    @property
    def is_measured(self) -> bool:
        """Whether there is nothing left that idle time would be used for."""
        return self._calibration is None

    def begin(self, num_decodes: int, num_prefill: int, *, room: int, repeatable: bool) -> int:
        """Set the threads of the next step; returns with how many rows of no use it is faster.

        Args:
            num_decodes: sequences that decode in it.
            num_prefill: tokens of prompts in it.
            room: tokens that the memory can take besides.
            repeatable: whether its logits shall be the same, to the last bit, whenever it is run. Attention over a long
                sequence is shared among the threads, so their number decides in which order it is summed up.
        """
        threads = self._governor.choose(num_decodes, num_prefill, time.perf_counter(), repeatable=repeatable)
        self._set_threads(threads)
        padding = 0 if repeatable else self.cost.tables[threads].padding(num_decodes)
        self._only_learns = False
        if padding:
            self._num_padded += 1
            doubt_every = min(_DOUBT_EVERY, 1 << (self._num_padded.bit_length() - 1))
            # What is expected of the step is what it takes with padding.
            self._only_learns = padding > room or self._num_padded % doubt_every == 0
        return 0 if self._only_learns else padding

    def end(self, num_decodes: int, num_prefill: int, seconds: float) -> None:
        """Learn from the step that was run."""
        if self._only_learns:
            self.cost.learn(num_decodes, num_prefill, seconds, self._threads, weight=0.5)
        else:
            self._governor.observe(num_decodes, num_prefill, self._threads, seconds, time.perf_counter())
        self._num_learnt += 1

    def use_idle_time(self) -> bool:
        """Measure something, if there is anything left to measure; the memory must be empty."""
        calibration = self._calibration
        if calibration is None:
            return False
        try:
            calibration.go_on()
        except Exception:  # whatever it is: what only saves time later must not end the engine
            self._calibration = None
            return False
        if calibration.is_done:
            self._calibration = None
            self.save()
        return True

    def save(self) -> None:
        """Keep what was learnt, unless somebody else wants the cores: what that has done to it is not known."""
        is_calm = all(slowdown == 1 for slowdown in self.cost.slowdown.values())
        if self._file is not None and is_calm and (self._num_learnt or self._calibration is None):
            self._file.save(self.cost)

    def _measure(self, shape: Shape) -> float:
        self._set_threads(shape.threads)
        return self._runner.measure(shape.num_decodes, shape.num_prefill)

    def _set_threads(self, threads: int) -> None:
        if threads != self._threads:
            self._runner.set_threads(threads)
            self._threads = threads
