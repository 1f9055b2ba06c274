"""`Lookup`: guesses that a sequence continues as it did after an earlier occurrence of its last tokens.

This is known as prompt lookup decoding (Saxena, 2023) and n-gram speculation. `Lookup` updates its guess with every
token, even if no draft is made of the guess. So it learns how often its guesses are right without the cost of drafts.
"""

from __future__ import annotations

from itertools import islice

__all__ = ["Lookup"]

# The last tokens of a prompt are indexed one by one, all tokens before them in bulk.
_TAIL = 8
# Only this many tokens at the end of a sequence are indexed, so that the index takes some megabytes at most.
_MAX_INDEXED = 16_384
# Equal tokens are counted up to this number. With more of them, a guess does not get better.
_LONGEST = 32
# The first estimate of how often a guess is right, by the bit length of the number of equal tokens before it: 0, 1, up
# to 3, 7, 15, 31, and 32. A short match may be chance; a long match is probably a copy.
_PRIOR = (0.0, 0.2, 0.3, 0.5, 0.7, 0.85, 0.95)
_WEIGHT = 0.1  # of each further guess in the mean
_LEAST_CHANCE = 0.05  # tokens below this probability are not guessed


class Lookup:
    """Guesses the next tokens of one sequence from its own text.

    A guess is a copy of the tokens after an earlier occurrence of the last four tokens, or else of the last two. Of
    several occurrences, the latest counts. Each token takes constant time, about two microseconds.

    Args:
        tokens: the sequence's own list. It may grow at its end; its tokens must not change.

    Attributes:
        length: how many of the last tokens equal those before the copied ones, at most 32; 0 if there is no guess.
    """

    __slots__ = ("_chances", "_long", "_next", "_num_seen", "_short", "_tokens", "length")

    def __init__(self, tokens: list[int]) -> None:
        self.length = 0
        self._tokens = tokens
        self._next = 0  # the index of the token to copy
        self._short: dict[tuple[int, int], int] = {}  # two tokens -> the index after their latest occurrence
        self._long: dict[tuple[int, int, int, int], int] = {}
        self._num_seen = max(0, len(tokens) - _MAX_INDEXED)
        self._chances = list(_PRIOR)
        if len(tokens) > _TAIL:
            self._index(len(tokens) - _TAIL)

    def catch_up(self) -> None:
        """Update the index and the guess with the tokens that were added since the last call."""
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
        """Returns `count` guessed tokens, or none if there is no guess. Call `catch_up` before."""
        if not self.length:
            return []
        draft = self._tokens[self._next : self._next + count]
        # If the copied tokens reach the end of the text, as in "ha ha ha", the guess repeats itself.
        while len(draft) < count:
            draft += draft[: count - len(draft)]
        return draft

    def chances(self, most: int) -> list[float]:
        """Returns, for each token of a guess, the probability that it and all before it are right; stops at 5 %."""
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
        """Index the tokens before `end` in bulk: ten times as fast as one by one. Later occurrences replace earlier."""
        start, tokens = self._num_seen, self._tokens
        first, second, third, fourth = (islice(tokens, start + shift, end) for shift in range(4))
        self._long.update(zip(zip(first, second, third, fourth, strict=False), range(start + 4, end + 1), strict=False))
        first, second = (islice(tokens, start + shift, end) for shift in (2, 3))
        self._short.update(zip(zip(first, second, strict=False), range(start + 4, end + 1), strict=False))
        self._num_seen = end

    def _common(self, place: int, at: int) -> int:
        """Returns how many tokens before `place` equal those up to `at`, at most 32."""
        tokens, count = self._tokens, 0
        while count < min(_LONGEST, place) and tokens[place - 1 - count] == tokens[at - count]:
            count += 1
        return count
