"""Guesses how a sequence goes on: as it did where its last tokens stood before, in the prompt or in the output.

Known as prompt lookup decoding (Saxena, 2023) and n-gram speculation. Here the guess is kept up even while nobody asks
for it: each token that comes tells whether the guess would have been right. So how often guesses come true is known
without a single draft that costs anything.
"""

from __future__ import annotations

from itertools import islice

__all__ = ["Lookup"]

# Tokens that are indexed one by one; what is before them is indexed in bulk.
_TAIL = 8
# Of a longer sequence only the end is indexed, so that the index takes some megabytes at most.
_MOST = 16_384
# Equal tokens are counted up to this number. How good a guess is does not change any more beyond.
_LONGEST = 32
# How often a guess comes true, by the number of equal tokens before it: less than 2, 4, 8, 16, 32, and more. It starts
# with what holds for text that is not a copy, up to where chance does not explain the match any more.
_PRIOR = (0.0, 0.2, 0.3, 0.5, 0.7, 0.85, 0.95)
_WEIGHT = 0.1
_LEAST_CHANCE = 0.05


class Lookup:
    """Follows one sequence.

    A guess needs two equal tokens before it; where four are equal somewhere, that place is the better one. Of several
    places it is the latest. Each token takes constant time, about two microseconds.

    Args:
        tokens: the sequence's own list. It may grow at its end; what is in it must not change.

    Attributes:
        length: how many tokens are equal before the guess and before its source, at most 32; 0 where there is no guess.
    """

    __slots__ = ("_chances", "_long", "_next", "_num_seen", "_short", "_tokens", "length")

    def __init__(self, tokens: list[int]) -> None:
        self.length = 0
        self._tokens = tokens
        self._next = 0  # where the guess stands
        self._short: dict[tuple[int, int], int] = {}  # what follows the latest occurrence of two tokens: its place
        self._long: dict[tuple[int, int, int, int], int] = {}
        self._num_seen = max(0, len(tokens) - _MOST)
        self._chances = list(_PRIOR)
        if len(tokens) > _TAIL:
            self._index(len(tokens) - _TAIL)

    def catch_up(self) -> None:
        """Take in the tokens that have come since the last call."""
        tokens, chances, length, place = self._tokens, self._chances, self.length, self._next
        for at in range(self._num_seen, len(tokens)):
            token = tokens[at]
            if length:
                kind = length.bit_length()
                if tokens[place] == token:
                    chances[kind] += (1 - chances[kind]) * _WEIGHT
                    length = min(length + 1, _LONGEST)
                    place += 1
                else:
                    chances[kind] -= chances[kind] * _WEIGHT
                    length = 0
            if at >= 3:
                two, four = (tokens[at - 1], token), (tokens[at - 3], tokens[at - 2], tokens[at - 1], token)
                if not length:
                    place = self._long.get(four) or self._short.get(two) or 0
                    length = self._common(place, at) if place else 0
                self._short[two] = self._long[four] = at + 1
        self._num_seen, self.length, self._next = len(tokens), length, place

    def propose(self, count: int) -> list[int]:
        """The next tokens, as guessed: so many, or none. Everything that came must have been taken in."""
        if not self.length:
            return []
        draft = self._tokens[self._next : self._next + count]
        # The source may end where the guess begins, as in "ha ha ha"; from there on the guess is its own source.
        while len(draft) < count:
            draft += draft[: count - len(draft)]
        return draft

    def chances(self, most: int) -> list[float]:
        """For each token of a guess, the probability that it and all before it come true; the likely ones only."""
        found: list[float] = []
        chance, length = 1.0, self.length
        while len(found) < most and length:
            chance *= self._chances[length.bit_length()]
            if chance < _LEAST_CHANCE:
                break
            found.append(chance)
            length = min(length + 1, _LONGEST)
        return found

    def _index(self, end: int) -> None:
        """Index what is before `end` in bulk, ten times as fast as one by one; later occurrences replace earlier."""
        start, tokens = self._num_seen, self._tokens
        first, second, third, fourth = (islice(tokens, start + shift, end) for shift in range(4))
        self._long.update(zip(zip(first, second, third, fourth, strict=False), range(start + 4, end + 1), strict=False))
        first, second = (islice(tokens, start + shift, end) for shift in (2, 3))
        self._short.update(zip(zip(first, second, strict=False), range(start + 4, end + 1), strict=False))
        self._num_seen = end

    def _common(self, place: int, at: int) -> int:
        """How many tokens before `place` are equal to those up to `at`."""
        tokens, count = self._tokens, 0
        while count < min(_LONGEST, place) and tokens[place - 1 - count] == tokens[at - count]:
            count += 1
        return count
