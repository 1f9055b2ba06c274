"""`Drafting`: decides when the draft model guesses, and how many tokens, by its accuracy and by both models' speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from math import log
from typing import Protocol

from headrace.engine.speculation.guessable import Guessable

__all__ = ["Drafter", "Drafting"]

# The most guesses for a sequence in a step.
_MAX_GUESSES = 8
# The expected accuracy of guesses before the first one, and the weight of each further guess in its mean.
_PRIOR = 0.7
_WEIGHT = 0.05
# While guesses seem not to pay, one of this many steps tries a few: the text may have become easier to guess.
_TRY_EVERY = 256
_TRIAL_GUESSES = 4
# If the draft model has more than `_CLOSE` tokens of a sequence to read, it reads before it guesses: in each step, for
# the share `_READING` of the step's time. It reads only if all of it takes at most the share `_WORTH_READING` of the
# sequence's remaining time.
_CLOSE = 32
_READING = 0.5
_WORTH_READING = 0.25


@dataclass(slots=True)
class _Trust:
    """How often the draft model was right about a sequence, and its last guess."""

    chance: float = _PRIOR
    guess: list[int] = field(default_factory=list[int])
    at: int = 0  # the position of the guess

    def learn(self, tokens: list[int]) -> None:
        """Compare the last guess with the sampled tokens."""
        for guessed, token in zip(self.guess, tokens[self.at : self.at + len(self.guess)], strict=False):
            self.chance += ((guessed == token) - self.chance) * _WEIGHT
            if guessed != token:
                break
        self.guess = []


class Drafter(Protocol):
    """A draft model: guesses the next tokens of the runner's model. Used by the engine thread only.

    A text is the tokens of one sequence, and is identified by a key.

    Attributes:
        seconds_per_read_token: seconds of prefill per token.
    """

    seconds_per_read_token: float

    def warm_up(self) -> None:
        """Prepare for the first guess, on the engine thread."""
        ...

    def seconds(self, num_texts: int) -> float:
        """Returns the seconds to guess one token for each of `num_texts` texts."""
        ...

    def behind(self, key: Hashable, tokens: list[int]) -> int:
        """Returns an upper bound of the tokens of a text that were not read yet."""
        ...

    def read(self, key: Hashable, tokens: list[int], seconds: float) -> None:
        """Prefill more tokens of a text, for about this many seconds."""
        ...

    def guess(self, texts: Sequence[tuple[Hashable, list[int]]], count: int) -> list[list[int]]:
        """Returns `count` guessed tokens for each text, or none if impossible. With many unread, call `read` first."""
        ...

    def forget(self, key: Hashable) -> None:
        """Stop following a text."""
        ...

    def close(self) -> None: ...


class Drafting:
    """Plans the guesses of a draft model. Used by the engine thread only.

    Args:
        drafter: the draft model.
        decode_time: returns the seconds of a step of the larger model, by its rows of logits.

    Attributes:
        seconds: seconds that the last `plan` spent in the draft model.
    """

    def __init__(self, drafter: Drafter, decode_time: Callable[[int], float]) -> None:
        self.seconds = 0.0
        self._drafter = drafter
        self._decode_time = decode_time
        self._trusts: dict[Guessable, _Trust] = {}
        self._num_unprofitable = 0

    def plan(
        self, sequences: Sequence[Guessable], limits: Sequence[int], room: int, least: float
    ) -> dict[int, list[int]]:
        """Returns the guesses for a step, by index in `sequences`.

        Args:
            sequences: the sequences that decode in this step.
            limits: the most guesses for each of them.
            room: the most guesses for all of them together.
            least: the gain that guessing must exceed: that of the best plan without the draft model.
        """
        self.seconds = 0.0
        indices = [index for index, most in enumerate(limits) if most > 0]
        for index in indices:
            self._trust(sequences[index]).learn(sequences[index].tokens)
        count = self._best_count(sequences, limits, indices, room, least)
        if not count:
            self._num_unprofitable += 1
            if self._num_unprofitable % _TRY_EVERY or room < _TRIAL_GUESSES * len(indices):
                return {}
            count = _TRIAL_GUESSES
        before = time.perf_counter()
        try:
            return self._guess(sequences, limits, indices, room, count, least)
        finally:
            self.seconds = time.perf_counter() - before

    def _guess(
        self,
        sequences: Sequence[Guessable],
        limits: Sequence[int],
        indices: list[int],
        room: int,
        count: int,
        least: float,
    ) -> dict[int, list[int]]:
        drafter = self._drafter
        ready = [index for index in indices if drafter.behind(sequences[index], sequences[index].tokens) <= _CLOSE]
        if len(ready) < len(indices):
            self._read(sequences, [index for index in indices if index not in ready])
            count = self._best_count(sequences, limits, ready, room, least)
        if not count or not ready:
            return {}
        guesses = drafter.guess([(sequences[index], sequences[index].tokens) for index in ready], count)
        found: dict[int, list[int]] = {}
        for index, guess in zip(ready, guesses, strict=True):
            trust = self._trust(sequences[index])
            trust.guess, trust.at = guess[: limits[index]], len(sequences[index].tokens)
            if trust.guess:
                found[index] = trust.guess
        return found

    def _read(self, sequences: Sequence[Guessable], indices: list[int]) -> None:
        """Let the draft model read more of one sequence that will probably run long enough to make up for it."""
        step = self._decode_time(len(sequences))
        for index in indices:
            sequence = sequences[index]
            reading = self._drafter.behind(sequence, sequence.tokens) * self._drafter.seconds_per_read_token
            left = sequence.num_left
            if reading <= _WORTH_READING * left * step:
                self._drafter.read(sequence, sequence.tokens, _READING * step)
                return

    def _best_count(
        self, sequences: Sequence[Guessable], limits: Sequence[int], indices: list[int], room: int, least: float
    ) -> int:
        """Returns how many tokens to guess for each of these sequences; 0 if no number gains more than `least`."""
        num = len(sequences)
        base = self._decode_time(num)
        if not indices or not base > 0:
            return 0
        per_token = self._drafter.seconds(len(indices))
        chances = [self._trust(sequences[index]).chance for index in indices]
        expected = [1.0] * len(indices)
        best, best_count, num_rows = least, 0, num
        for count in range(1, _MAX_GUESSES + 1):
            for at, index in enumerate(indices):
                if count <= limits[index]:
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
