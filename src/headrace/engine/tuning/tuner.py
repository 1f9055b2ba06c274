"""`Tuning`: chooses threads and padding of each step, and learns from its time."""

from __future__ import annotations

import time
from typing import Protocol

from headrace.engine.tuning.calibration import Calibration, CostFile, Shape
from headrace.engine.tuning.cost import CostModel
from headrace.engine.tuning.thread_governor import Governor

__all__ = ["Tunable", "Tuning"]

# One of this many steps, and more of the first ones, is run without padding although padding looks faster. The learnt
# time of a step without padding may be wrong.
_UNPADDED_EVERY = 64


class Tunable(Protocol):
    """The part of a `Runner` that `Tuning` uses.

    Attributes:
        max_batch: the most tokens in one step.
        thread_counts: the thread counts to choose from, rising; the runner starts with the last.
        can_measure: whether `measure` works.
    """

    max_batch: int
    thread_counts: tuple[int, ...]
    can_measure: bool

    def set_threads(self, count: int) -> None:
        """Set the number of compute threads for later steps."""
        ...

    def measure(self, num_decodes: int, num_prefill: int) -> float:
        """Returns the seconds that a step of this shape takes. The KV memory must be empty, and is empty afterwards."""
        ...


class Tuning:
    """Chooses threads and padding: `begin` is called before each step, and `end` after it. For the engine thread only.

    Args:
        runner: gets the thread counts, and is measured when idle.
        target: how long a step with prefill should take at most, in seconds.
        max_streams: the most sequences that decode together.
        file: keeps the costs from one start to the next; None to forget them.

    Attributes:
        cost: the learnt step times.
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
        """Whether nothing is left to measure in idle time."""
        return self._calibration is None

    def begin(self, num_decodes: int, num_prefill: int, *, room: int, repeatable: bool) -> int:
        """Set the threads of the next step, and return its padding: the unused rows that make it faster.

        Args:
            num_decodes: sequences that decode in the step.
            num_prefill: prefill tokens of the step.
            room: further tokens for which the KV cache has room.
            repeatable: whether the logits must be repeatable to the last bit. The number of threads decides the order
                in which attention over a long sequence adds up.
        """
        threads = self._governor.choose(num_decodes, num_prefill, time.perf_counter(), repeatable=repeatable)
        self._set_threads(threads)
        padding = 0 if repeatable else self.cost.tables[threads].padding(num_decodes)
        self._only_learns = False
        if padding:
            self._num_padded += 1
            unpadded_every = min(_UNPADDED_EVERY, 1 << (self._num_padded.bit_length() - 1))
            # The prediction assumes padding, so a step without padding is not compared with it.
            self._only_learns = padding > room or self._num_padded % unpadded_every == 0
        return 0 if self._only_learns else padding

    def end(self, num_decodes: int, num_prefill: int, seconds: float) -> None:
        """Learn from the time of the step that was run."""
        if self._only_learns:
            self.cost.learn(num_decodes, num_prefill, seconds, self._threads, weight=0.5)
        else:
            self._governor.observe(num_decodes, num_prefill, self._threads, seconds, time.perf_counter())
        self._num_learnt += 1

    def use_idle_time(self) -> bool:
        """Measure one step shape; False if nothing is left to measure. The KV cache must be empty."""
        calibration = self._calibration
        if calibration is None:
            return False
        try:
            calibration.go_on()
        except Exception:  # measuring only saves time later, so its failure must not end the engine
            self._calibration = None
            return False
        if calibration.is_done:
            self._calibration = None
            self.save()
        return True

    def save(self) -> None:
        """Save the costs to the file, unless another process is slowing steps down: they may be wrong then."""
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
