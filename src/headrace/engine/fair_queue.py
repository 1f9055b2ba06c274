"""`FairQueue`: the queue of streams that wait for a slot. Flows take turns, so that a busy caller starves no other."""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Hashable, Iterator
from typing import NamedTuple

from headrace.engine.sequence import Sequence

__all__ = ["MAX_OVERTAKING", "FairQueue"]

# A sequence is queued one position further back for every 256 tokens that it has to prefill, at most 4 positions. That
# helps the sequences behind a long prompt much, and delays the long prompt little.
_TOKENS_PER_POSITION = 256
MAX_OVERTAKING = 4


class _Entry(NamedTuple):
    key: float
    number: int
    sequence: Sequence


class FairQueue:
    """Takes one sequence from each flow in turn, and preempted sequences before all others.

    A flow has a caller's waiting sequences in order, except that short prompts overtake long ones. Fewer than
    `MAX_OVERTAKING` later sequences overtake a sequence.
    """

    def __init__(self) -> None:
        self._returned: deque[Sequence] = deque()
        self._flows: dict[Hashable, list[_Entry]] = {}  # in the order of their turns
        self._num_pushed = 0

    def __len__(self) -> int:
        return len(self._returned) + sum(map(len, self._flows.values()))

    def __iter__(self) -> Iterator[Sequence]:
        yield from self._returned
        for flow in self._flows.values():
            for entry in flow:
                yield entry.sequence

    def push(self, sequence: Sequence, num_tokens: int) -> None:
        """Queue a new sequence that has `num_tokens` tokens to prefill."""
        number = self._num_pushed
        self._num_pushed += 1
        key = number + min(num_tokens / _TOKENS_PER_POSITION, MAX_OVERTAKING)
        bisect.insort(self._flows.setdefault(sequence.request.flow, []), _Entry(key, number, sequence))

    def push_front(self, sequence: Sequence) -> None:
        """Queue a preempted sequence ahead of all new ones; preempted ones are ordered by age, the oldest first."""
        at = sum(other.order < sequence.order for other in self._returned)
        self._returned.insert(at, sequence)

    def peek(self) -> Sequence | None:
        """Returns the next sequence without taking it; None if the queue is empty."""
        return next(iter(self), None)

    def pop(self) -> Sequence:
        """Take the next sequence."""
        if self._returned:
            return self._returned.popleft()
        key = next(iter(self._flows))
        flow = self._flows.pop(key)
        entry = flow.pop(0)
        if flow:
            self._flows[key] = flow  # at the end of the dict: all other flows come first
        return entry.sequence

    def remove(self, sequence: Sequence) -> None:
        """Remove a sequence, if it is queued."""
        if sequence in self._returned:
            self._returned.remove(sequence)
            return
        key = sequence.request.flow
        flow = self._flows.get(key, [])
        at = next((at for at, entry in enumerate(flow) if entry.sequence is sequence), None)
        if at is not None:
            del flow[at]
            if not flow:
                del self._flows[key]
