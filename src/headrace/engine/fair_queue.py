"""The queue of streams that wait for a place: lanes take turns, so that one busy caller does not starve the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator

from headrace.engine.sequence import Sequence

__all__ = ["FairQueue"]


class FairQueue:
    """First come, first served within a lane, one from each lane in turn; preempted sequences before all others."""

    def __init__(self) -> None:
        self._returned: deque[Sequence] = deque()
        self._lanes: dict[Hashable, deque[Sequence]] = {}  # in the order of their turns

    def __len__(self) -> int:
        return len(self._returned) + sum(map(len, self._lanes.values()))

    def __iter__(self) -> Iterator[Sequence]:
        yield from self._returned
        for lane in self._lanes.values():
            yield from lane

    def push(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        self._lanes.setdefault(sequence.request.lane, deque()).append(sequence)

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
        key = next(iter(self._lanes))
        lane = self._lanes.pop(key)
        sequence = lane.popleft()
        if lane:
            self._lanes[key] = lane  # to the end of the round
        return sequence

    def remove(self, sequence: Sequence) -> None:
        """Take one out of turn, if it is here."""
        if sequence in self._returned:
            self._returned.remove(sequence)
            return
        key = sequence.request.lane
        lane = self._lanes.get(key)
        if lane is not None and sequence in lane:
            lane.remove(sequence)
            if not lane:
                del self._lanes[key]
