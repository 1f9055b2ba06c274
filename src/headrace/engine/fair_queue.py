"""The queue of streams that wait for a place: flows take turns, so that one busy caller does not starve the others."""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Hashable, Iterator
from typing import NamedTuple

from headrace.engine.sequence import Sequence

__all__ = ["MOST_OVERTAKING", "FairQueue"]

# A prompt stands back by one place for so many tokens that it needs computed, and by so many places at most: whoever
# waits behind a long one gains much, and the long one loses little.
_TOKENS_PER_PLACE = 256
MOST_OVERTAKING = 4


class _Place(NamedTuple):
    key: float
    number: int
    sequence: Sequence


class FairQueue:
    """First come, first served within a flow, one from each flow in turn; preempted sequences before all others.

    Within a flow, a short prompt may overtake long ones: each is overtaken by fewer than `MOST_OVERTAKING` later ones.
    """

    def __init__(self) -> None:
        self._returned: deque[Sequence] = deque()
        self._flows: dict[Hashable, list[_Place]] = {}  # in the order of their turns
        self._num_pushed = 0

    def __len__(self) -> int:
        return len(self._returned) + sum(map(len, self._flows.values()))

    def __iter__(self) -> Iterator[Sequence]:
        yield from self._returned
        for flow in self._flows.values():
            for place in flow:
                yield place.sequence

    def push(self, sequence: Sequence, num_tokens: int) -> None:
        """Queue a new sequence, which so many tokens must be computed for before it can start to write."""
        number = self._num_pushed
        self._num_pushed += 1
        key = number + min(num_tokens / _TOKENS_PER_PLACE, MOST_OVERTAKING)
        bisect.insort(self._flows.setdefault(sequence.request.flow, []), _Place(key, number, sequence))

    def push_front(self, sequence: Sequence) -> None:
        """Queue a sequence that ran before, ahead of everything new; of several, the oldest first."""
        at = sum(other.order < sequence.order for other in self._returned)
        self._returned.insert(at, sequence)

    def peek(self) -> Sequence | None:
        """Whose turn it is."""
        return next(iter(self), None)

    def pop(self) -> Sequence:
        """Take the one whose turn it is."""
        if self._returned:
            return self._returned.popleft()
        key = next(iter(self._flows))
        flow = self._flows.pop(key)
        place = flow.pop(0)
        if flow:
            self._flows[key] = flow  # to the end of the round
        return place.sequence

    def remove(self, sequence: Sequence) -> None:
        """Take one out of turn, if it is here."""
        if sequence in self._returned:
            self._returned.remove(sequence)
            return
        key = sequence.request.flow
        flow = self._flows.get(key, [])
        at = next((at for at, place in enumerate(flow) if place.sequence is sequence), None)
        if at is not None:
            del flow[at]
            if not flow:
                del self._flows[key]
