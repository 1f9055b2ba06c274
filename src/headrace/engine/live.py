"""The streams that have not ended, and the only place where one of them ends."""

from __future__ import annotations

import threading
import time
from collections import Counter

from headrace.engine.metrics import Counts
from headrace.engine.sequence import Sequence, State
from headrace.values.errors import GenerationError, InvalidRequestError
from headrace.values.results import FinishReason

__all__ = ["Live"]


class Live:
    """What an engine has been asked for and still owes an End.

    Args:
        counts: what the engine counts.

    Attributes:
        lock: guards who is here, and the end of every sequence.
        next_deadline: no sequence times out before, on the clock of `time.perf_counter()`. The engine thread's.
    """

    def __init__(self, counts: Counts) -> None:
        self.lock = threading.RLock()
        self.next_deadline = float("inf")
        self._counts = counts
        self._sequences: dict[str, Sequence] = {}
        self._is_ending = False

    def get(self, stream_id: str) -> Sequence | None:
        """One of them; a single look, which needs no lock."""
        return self._sequences.get(stream_id)

    def all(self) -> list[Sequence]:
        """All of them."""
        with self.lock:
            return list(self._sequences.values())

    def states(self) -> Counter[State]:
        """How many are in which state."""
        return Counter(sequence.state for sequence in self.all())

    def num_staying(self) -> int:
        """How many there are, without those that were cancelled and are about to end."""
        return sum(not sequence.is_leaving for sequence in self.all())

    def check_id(self, stream_id: str) -> None:
        """Raise InvalidRequestError where an id is taken."""
        if stream_id in self._sequences:
            raise InvalidRequestError("id", stream_id, "an id that no live stream has")

    def add(self, sequence: Sequence) -> None:
        """Take one in; the lock is held, and its id was checked."""
        self._sequences[sequence.request.id] = sequence
        self._counts.started += 1
        self._counts.prompt_tokens += sequence.stats.prompt_tokens

    def claim(self, sequence: Sequence) -> bool:
        """Take one out of the hands of other threads, which may end it only while it waits."""
        with self.lock:
            if sequence.state is not State.WAITING:
                return False
            sequence.state = State.RUNNING
            return True

    def watch(self, sequence: Sequence) -> None:
        """Remember the deadline of a sequence whose state has changed."""
        due = sequence.deadline()
        if due is not None:
            self.next_deadline = min(self.next_deadline, due[0])

    def expired(self, now: float) -> list[tuple[Sequence, str]]:
        """Those that are past a deadline, with its name."""
        if now < self.next_deadline:
            return []
        self.next_deadline = float("inf")
        found: list[tuple[Sequence, str]] = []
        for sequence in self.all():
            due = sequence.deadline()
            if due is not None and due[0] <= now:
                found.append((sequence, due[1]))
            elif due is not None:
                self.next_deadline = min(self.next_deadline, due[0])
        return found

    def end(
        self,
        sequence: Sequence,
        reason: FinishReason | None,
        *,
        timeout: str | None = None,
        error: GenerationError | None = None,
    ) -> None:
        """End a stream; a second end is none. Whoever calls it wakes its reader.

        A signal handler that cancels may have interrupted this very method, and the lock lets its thread in again. What
        it asks for is left to the engine thread, which has a message of it.
        """
        with self.lock:
            if self._is_ending:
                return
            self._is_ending = True
            try:
                if self._sequences.get(sequence.request.id) is sequence:
                    self._end(sequence, reason, timeout, error)
            finally:
                self._is_ending = False

    def _end(
        self, sequence: Sequence, reason: FinishReason | None, timeout: str | None, error: GenerationError | None
    ) -> None:
        end = sequence.end(reason, timeout, error)
        del self._sequences[sequence.request.id]
        now = time.perf_counter()
        stats, request = sequence.stats, sequence.request
        stats.resume(now)
        stats.ended = now
        self._counts.stream_time.add(now - stats.created)
        key = reason or "error"
        self._counts.finished[key] = self._counts.finished.get(key, 0) + 1
        if sequence.state is State.WAITING:
            sequence.state = State.FINISHED  # in the queue it is only a husk by now
        if request.last_tokens is not None and sequence.has_computed:
            request.last_tokens.tokens = sequence.tokens
        sequence.channel.finish(end)

    def after_fork(self) -> None:
        """The parent's other threads may have held the lock."""
        self.lock = threading.RLock()
        self._is_ending = False
