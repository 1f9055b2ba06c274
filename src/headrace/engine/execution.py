"""Runs the parts of a step; where that fails, finds out who is to blame, so that the others go on."""

from __future__ import annotations

from collections.abc import Callable

from headrace.engine.runner import InterruptedStepError, NoRoomError, Runner, StepOutput
from headrace.engine.scheduler import Part, Scheduler
from headrace.engine.sequence import Sequence

__all__ = ["Execution"]

_NOTHING_DONE: tuple[list[Part], StepOutput] = ([], StepOutput((), 0.0))


class Execution:
    """What stands between a plan and what was done of it. Belongs to the engine thread.

    Args:
        runner: what computes.
        scheduler: who planned.
        update: takes in what parts gave that were run apart from the others.
        fail: ends a sequence that is to blame.
    """

    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler,
        *,
        update: Callable[[list[Part], StepOutput], None],
        fail: Callable[[Sequence, Exception], None],
    ) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._update = update
        self._fail = fail
        self._reader: Sequence | None = None

    def run(self, parts: list[Part], padding: int = 0) -> tuple[list[Part], StepOutput]:
        """Run a step and return what of it was done.

        Args:
            parts: what is planned.
            padding: with how many rows of no use it is faster.
        """
        # What only decodes is over soon, and a recurrent state would be lost.
        if len(parts) == 1 and parts[0].num_tokens > 1 and self._runner.can_drop_partial:
            reader = parts[0].sequence
            if not any(sequence.leader is reader for sequence in self._scheduler.running):
                self._reader = reader
        try:
            if self._reader is not None and self._reader.is_leaving:  # since before anybody could interrupt it
                return _NOTHING_DONE
            return parts, self._runner.run([part.slice() for part in parts], padding)
        except InterruptedStepError:  # whoever is not leaving just tries again
            self._roll_back(parts)
            return _NOTHING_DONE
        except NoRoomError as error:
            self._roll_back(parts)
            if padding or any(part.drafts for part in parts):  # nobody has to give way to a guess, or to nothing
                return self.run([part._replace(drafts=()) for part in parts])
            self._shed(parts, error)
        except Exception as error:
            self._roll_back(parts)
            if len(parts) == 1 or not self._runner.can_drop_partial:  # a recurrent state is lost with the step
                for part in parts:
                    self._fail(part.sequence, error)
            else:
                self._run_apart(parts)
        finally:
            self._reader = None
        return _NOTHING_DONE

    def interrupt(self, sequence: Sequence | None = None) -> None:
        """End a step that does nothing but read the prompt of this sequence, or of any. Any thread may call this."""
        reader = self._reader
        if reader is not None and sequence in (None, reader):
            self._runner.interrupt()

    def _roll_back(self, parts: list[Part]) -> None:
        for part in parts:
            self._scheduler.kv.roll_back(part.row)

    def _run_apart(self, parts: list[Part]) -> None:
        """A batch has failed as a whole: run its parts one by one, so that only those that fail again end."""
        for part in parts:
            if part.sequence.row is part.row:  # it was not preempted meanwhile
                self._update(*self.run([part]))

    def _shed(self, parts: list[Part], error: NoRoomError) -> None:
        """The memory is full although our count says it is not: make room; the next step plans anew."""
        if self._scheduler.kv.num_cached:
            self._scheduler.kv.clear()
        elif not self._scheduler.shed():
            self._fail(parts[0].sequence, error)
