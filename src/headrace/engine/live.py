"""`Live`: the streams that have not ended, and the only place where a stream ends."""

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
    """The sequences that were submitted and have not got their End yet.

    Args:
        counts: the engine's counters.

    Attributes:
        lock: guards the set of sequences, and the end of each.
        next_deadline: no sequence times out before this time of `time.perf_counter()`. Used by the engine thread only.
    """

    def __init__(self, counts: Counts) -> None:
        self.lock = threading.RLock()
        self.next_deadline = float("inf")
        self._counts = counts
        self._sequences: dict[str, Sequence] = {}
        self._is_ending = False

    def get(self, stream_id: str) -> Sequence | None:
        """Returns a live sequence by id, or None. This is one atomic look-up and takes no lock."""
        return self._sequences.get(stream_id)

    def all(self) -> list[Sequence]:
        """Returns all live sequences."""
        with self.lock:
            return list(self._sequences.values())

    def states(self) -> Counter[State]:
        """Returns the number of live sequences in each state."""
        return Counter(sequence.state for sequence in self.all())

    def num_staying(self) -> int:
        """Returns the number of live sequences that were not cancelled."""
        return sum(not sequence.is_leaving for sequence in self.all())

    def check_id(self, stream_id: str) -> None:
        """Raise InvalidRequestError if a live stream has this id."""
        if stream_id in self._sequences:
            raise InvalidRequestError("id", stream_id, "an id that no live stream has")

    def add(self, sequence: Sequence) -> None:
        """Add a sequence. The caller holds the lock and has called `check_id`."""
        self._sequences[sequence.request.id] = sequence
        self._counts.started += 1
        self._counts.prompt_tokens += sequence.stats.prompt_tokens

    def claim(self, sequence: Sequence) -> bool:
        """Mark a waiting sequence as running, so that other threads can no longer end it; False if it has ended."""
        with self.lock:
            if sequence.state is not State.WAITING:
                return False
            sequence.state = State.RUNNING
            return True

    def watch(self, sequence: Sequence) -> None:
        """Update `next_deadline` after the state of a sequence has changed."""
        due = sequence.deadline()
        if due is not None:
            self.next_deadline = min(self.next_deadline, due[0])

    def expired(self, now: float) -> list[tuple[Sequence, str]]:
        """Returns the sequences that are past a deadline, with the name of the deadline."""
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
        """End a stream, unless it has ended. The caller wakes its reader.

        A signal handler may interrupt this method and cancel a stream; the lock is re-entrant and lets it in. The call
        is then ignored, and the engine thread ends that stream when it gets the cancel message.
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
            sequence.state = State.FINISHED  # the scheduler drops it from the queue later
        if request.last_tokens is not None and sequence.has_computed:
            request.last_tokens.tokens = sequence.tokens
        sequence.channel.finish(end)

    def after_fork(self) -> None:
        """Replace the lock in a forked child: a thread of the parent may have held it."""
        self.lock = threading.RLock()
        self._is_ending = False
