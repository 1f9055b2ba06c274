"""Decides when a smaller model guesses tokens, and how many: by how often it was right, and what both models cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from math import log
from typing import Protocol

from headrace.engine.speculation.guessable import Guessable

__all__ = ["Drafter", "Drafting"]

# Guesses of the smaller model for a sequence in a step at most.
_DEEPEST = 8
# How often a guess is expected to be right before one was made, and how fast that is learnt.
_PRIOR = 0.7
_WEIGHT = 0.05
# Where guesses do not pay, a few are made now and then all the same: the text may have become a simpler one.
_TRY_EVERY = 256
_TRIAL = 4
# A sequence of which the smaller model has not read more than this is read in steps of their own, for so much of the
# time of a step, and only if all of that takes at most this share of the time that the sequence may still run.
_CLOSE = 32
_READING = 0.5
_WORTH_READING = 0.25


@dataclass(slots=True)
class _Trust:
    """How often the smaller model was right about a sequence."""

    chance: float = _PRIOR
    guess: list[int] = field(default_factory=list[int])
    at: int = 0

    def learn(self, tokens: list[int]) -> None:
        """Compare the last guess with what has come."""
        for guessed, token in zip(self.guess, tokens[self.at : self.at + len(self.guess)], strict=False):
            self.chance += ((guessed == token) - self.chance) * _WEIGHT
            if guessed != token:
                break
        self.guess = []


class Drafter(Protocol):
    """A smaller model that guesses what the runner's model will choose. Only the engine thread uses it.

    Attributes:
        seconds_per_read_token: seconds that it takes to read a token.
    """

    seconds_per_read_token: float

    def warm_up(self) -> None:
        """Whatever has to be done before the first guess."""
        ...

    def seconds(self, num_texts: int) -> float:
        """Seconds that a guess of one token for each of so many texts takes."""
        ...

    def behind(self, key: Hashable, tokens: list[int]) -> int:
        """How many tokens of a text it has not read yet, at most."""
        ...

    def read(self, key: Hashable, tokens: list[int], seconds: float) -> None:
        """Read on in a text, for about so long."""
        ...

    def guess(self, texts: Sequence[tuple[Hashable, list[int]]], count: int) -> list[list[int]]:
        """So many tokens for each text; none where it cannot. It should not be far behind."""
        ...

    def forget(self, key: Hashable) -> None:
        """A text is not followed any more."""
        ...

    def close(self) -> None: ...


class Drafting:
    """Belongs to the engine thread.

    Args:
        drafter: the smaller model.
        decode_time: seconds that a step of the larger one with so many rows of logits takes.

    Attributes:
        seconds: what the last `plan` spent in the smaller model.
    """

    def __init__(self, drafter: Drafter, decode_time: Callable[[int], float]) -> None:
        self.seconds = 0.0
        self._drafter = drafter
        self._decode_time = decode_time
        self._trusts: dict[Guessable, _Trust] = {}
        self._num_closed = 0

    def plan(
        self, sequences: Sequence[Guessable], mosts: Sequence[int], room: int, least: float
    ) -> dict[int, list[int]]:
        """What to guess, by place in `sequences`.

        Args:
            sequences: those that decode in this step.
            mosts: how many tokens may be guessed for each of them.
            room: how many for all of them.
            least: what guessing must gain at least; see `Speculation`.
        """
        self.seconds = 0.0
        places = [place for place, most in enumerate(mosts) if most > 0]
        for place in places:
            self._trust(sequences[place]).learn(sequences[place].tokens)
        count = self._best_count(sequences, mosts, places, room, least)
        if not count:
            self._num_closed += 1
            if self._num_closed % _TRY_EVERY or room < _TRIAL * len(places):
                return {}
            count = _TRIAL
        before = time.perf_counter()
        try:
            return self._guess(sequences, mosts, places, room, count, least)
        finally:
            self.seconds = time.perf_counter() - before

    def _guess(
        self,
        sequences: Sequence[Guessable],
        mosts: Sequence[int],
        places: list[int],
        room: int,
        count: int,
        least: float,
    ) -> dict[int, list[int]]:
        drafter = self._drafter
        ready = [place for place in places if drafter.behind(sequences[place], sequences[place].tokens) <= _CLOSE]
        if len(ready) < len(places):
            self._read(sequences, [place for place in places if place not in ready])
            count = self._best_count(sequences, mosts, ready, room, least)
        if not count or not ready:
            return {}
        guesses = drafter.guess([(sequences[place], sequences[place].tokens) for place in ready], count)
        found: dict[int, list[int]] = {}
        for place, guess in zip(ready, guesses, strict=True):
            trust = self._trust(sequences[place])
            trust.guess, trust.at = guess[: mosts[place]], len(sequences[place].tokens)
            if trust.guess:
                found[place] = trust.guess
        return found

    def _read(self, sequences: Sequence[Guessable], places: list[int]) -> None:
        """Let the smaller model catch up with one of them, if it has time enough to be of use afterwards."""
        step = self._decode_time(len(sequences))
        for place in places:
            sequence = sequences[place]
            reading = self._drafter.behind(sequence, sequence.tokens) * self._drafter.seconds_per_read_token
            left = sequence.num_left
            if reading <= _WORTH_READING * left * step:
                self._drafter.read(sequence, sequence.tokens, _READING * step)
                return

    def _best_count(
        self, sequences: Sequence[Guessable], mosts: Sequence[int], places: list[int], room: int, least: float
    ) -> int:
        """How many tokens to guess for each of these places; 0 where that gains less than `least`."""
        num = len(sequences)
        base = self._decode_time(num)
        if not places or not base > 0:
            return 0
        per_token = self._drafter.seconds(len(places))
        chances = [self._trust(sequences[place]).chance for place in places]
        expected = [1.0] * len(places)
        best, best_count, num_rows = least, 0, num
        for count in range(1, _DEEPEST + 1):
            for at, place in enumerate(places):
                if count <= mosts[place]:
                    expected[at] += chances[at] ** count
                    num_rows += 1
            if num_rows - num > room:
                break
            verifying = self._decode_time(num_rows)
            if not verifying > 0:
                break
            seconds = verifying + count * per_token
            value = sum(map(log, expected)) - num * log(seconds / base)
            if value > best:
                best, best_count = value, count
        return best_count

    def _trust(self, sequence: Guessable) -> _Trust:
        trust = self._trusts.get(sequence)
        if trust is None:
            for other in [other for other in self._trusts if other.is_finished]:
                del self._trusts[other]
                self._drafter.forget(other)
            trust = self._trusts[sequence] = _Trust()
        return trust
