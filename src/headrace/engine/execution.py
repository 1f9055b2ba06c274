"""`Execution`: runs a planned step. If the step fails, finds the sequence that caused it, so that the others go on."""

from __future__ import annotations

from collections.abc import Callable

from headrace.engine.runner import InterruptedStepError, NoRoomError, Runner, StepOutput
from headrace.engine.scheduler import Scheduler
from headrace.engine.sequence import Sequence
from headrace.engine.step import StepPart

__all__ = ["Execution"]

_NOTHING_DONE: tuple[list[StepPart], StepOutput] = ([], StepOutput((), 0.0))


class Execution:
    """Runs steps and handles their failures. Used by the engine thread, except for `interrupt`.

    Args:
        runner: computes the steps.
        scheduler: planned the steps; rolls back or preempts after a failure.
        update: takes in the output of parts that were run one by one after a failure.
        fail: ends a sequence that made a step fail.
    """

    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler,
        *,
        update: Callable[[list[StepPart], StepOutput], None],
        fail: Callable[[Sequence, Exception], None],
    ) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._update = update
        self._fail = fail
        self._interruptible: Sequence | None = None  # the only sequence of the running step, if that only prefills

    def run(self, parts: list[StepPart], padding: int = 0) -> tuple[list[StepPart], StepOutput]:
        """Run a step.

        Args:
            parts: the planned parts.
            padding: rows of logits to compute in addition, because the step is faster with them.

        Returns:
            The parts that were computed, and their output. Both are empty after a failure.
        """
        # Steps that decode are short, and an interrupted step loses a recurrent state.
        if len(parts) == 1 and parts[0].num_tokens > 1 and self._runner.can_drop_partial:
            sequence = parts[0].sequence
            if not any(other.leader is sequence for other in self._scheduler.running):
                self._interruptible = sequence
        try:
            # A cancel before `_interruptible` was set could not interrupt the step.
            if self._interruptible is not None and self._interruptible.is_leaving:
                return _NOTHING_DONE
            return parts, self._runner.run([part.slice() for part in parts], padding)
        except InterruptedStepError:  # a sequence that is not leaving is planned again in the next step
            self._roll_back(parts)
            return _NOTHING_DONE
        except NoRoomError as error:
            self._roll_back(parts)
            if padding or any(part.drafts for part in parts):  # first try without drafts and padding
                return self.run([part._replace(drafts=()) for part in parts])
            self._make_room(parts, error)
        except Exception as error:
            self._roll_back(parts)
            if len(parts) == 1 or not self._runner.can_drop_partial:  # the failed step has lost a recurrent state
                for part in parts:
                    self._fail(part.sequence, error)
            else:
                self._run_one_by_one(parts)
        finally:
            self._interruptible = None
        return _NOTHING_DONE

    def interrupt(self, sequence: Sequence | None = None) -> None:
        """Interrupt the running step if it only prefills this sequence; None means any. Any thread may call this."""
        interruptible = self._interruptible
        if interruptible is not None and sequence in (None, interruptible):
            self._runner.interrupt()

    def _roll_back(self, parts: list[StepPart]) -> None:
        for part in parts:
            self._scheduler.kv.roll_back(part.row)

    def _run_one_by_one(self, parts: list[StepPart]) -> None:
        """Run the parts of a failed batch one by one, and end only the sequences whose parts fail again."""
        for part in parts:
            if part.sequence.row is part.row:  # it was not preempted meanwhile
                self._update(*self.run([part]))

    def _make_room(self, parts: list[StepPart], error: NoRoomError) -> None:
        """Free KV after a step found no room although cells were counted as free. The next step plans again."""
        if self._scheduler.kv.num_cached:
            self._scheduler.kv.clear()
        elif not self._scheduler.shed():
            self._fail(parts[0].sequence, error)
