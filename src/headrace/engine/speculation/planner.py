"""Decides which sequences try guesses of their next tokens in a step, and how many: as many as pay in time.

A guess is verified by computing it along with the token before it: where sampling arrives at the same token, the next
one can be sampled in the same step. What is sampled stays what it would have been, since each token is drawn from its
own distribution behind the tokens before it; a guess only decides whether that distribution is there already. (For a
guess without a distribution of its own that is what speculative sampling comes down to; Leviathan et al., 2023.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from math import log, log1p

from headrace.engine.speculation.drafting import Drafter, Drafting
from headrace.engine.speculation.guessable import Guessable
from headrace.engine.speculation.prompt_lookup import Lookup

__all__ = ["MAX_DRAFTS", "Speculation"]

# Guessed tokens in a step at most, of all sequences together.
MAX_DRAFTS = 15
# How much faster streams must become, in the mean, for guesses to be tried: estimates err, and a guess that is wrong
# costs everybody who waits for the step.
_MARGIN = 1.15
# What many rows cost may be unknown, or no longer true. So now and then a stream that runs alone tries guesses that are
# almost certain although they seem too dear: even if each row costs as much as a step, little is lost.
_TRY_EVERY = 64
_TRIALS = (7, MAX_DRAFTS)
_CERTAIN = 0.75
# Step times hardly change from step to step, and are asked for many times in each.
_ASK_EVERY = 16


class Speculation:
    """Weighs what guesses may gain against what they cost.

    A guess that comes true speeds one stream up, and makes the step longer for all. What is made as large as it can be
    is the product of all streams' speeds, which is known as proportional fairness (Kelly, 1997): for one stream it is
    its speed; and of several, none is held up much so that another one can run. The sum of the speeds would be made
    largest by letting a stream that copies take most of the time from those that do not.

    Args:
        decode_time: seconds that a step with so many rows of logits takes; 0.0 where that is not known.
        max_length: longest sequence, in tokens.
        drafter: a smaller model that guesses where the text does not tell; None where there is none.

    Attributes:
        seconds: what was spent in the smaller model in this step.
    """

    def __init__(self, decode_time: Callable[[int], float], max_length: int, drafter: Drafter | None = None) -> None:
        self.seconds = 0.0
        self._drafting = None if drafter is None else Drafting(drafter, self._decode_time)
        self._ask_decode_time = decode_time
        self._decode_times: dict[int, float] = {}
        self._num_steps = 0
        self._max_length = max_length
        self._num_closed = 0  # steps in which no guesses could have paid

    def plan(self, sequences: Sequence[Guessable], room: int) -> dict[int, list[int]]:
        """What to guess in a step in which all of these sequences decode.

        Args:
            sequences: each computes one token.
            room: tokens that the step can take besides.

        Returns:
            The guessed tokens, by place in `sequences`; of those that guess nothing there is no entry.
        """
        room = min(room, MAX_DRAFTS)
        self._num_steps += 1
        if self._num_steps % _ASK_EVERY == 0:
            self._decode_times.clear()
        num_trial = 0
        if not self._can_pay(len(sequences), room):
            num_trial = self._next_trial(len(sequences))
            if not 0 < num_trial <= room:
                return {}
        mosts = [min(room, sequence.num_guessable(self._max_length)) for sequence in sequences]
        gains = self._gains(sequences, mosts)[:room]
        likeliest = [gain for gain, _ in gains]
        count, value = self._best_count(len(sequences), likeliest)
        if num_trial and sum(likeliest[:num_trial]) >= log1p(_CERTAIN * num_trial):
            count = num_trial
        if self._drafting is not None and not num_trial:
            drafts = self._drafting.plan(sequences, mosts, room, value)
            self.seconds = self._drafting.seconds
            if drafts:
                return drafts
        drafts: dict[int, list[int]] = {}
        for place, found in Counter(place for _, place in gains[:count]).items():
            lookup = sequences[place].lookup
            assert lookup is not None
            drafts[place] = lookup.propose(found)
        return drafts

    def _gains(self, sequences: Sequence[Guessable], mosts: Sequence[int]) -> list[tuple[float, int]]:
        """By how much the logarithm of a sequence's tokens for this step grows with each guess, and its place.

        A guess gains at most what the one before it in its sequence does, and the sort keeps the order of equals. So
        the best ones are always the first few of each sequence.
        """
        gains: list[tuple[float, int]] = []
        for place, (sequence, most) in enumerate(zip(sequences, mosts, strict=True)):
            if most > 0:
                lookup = sequence.lookup
                if lookup is None:
                    lookup = sequence.lookup = Lookup(sequence.tokens)
                lookup.catch_up()
                expected = 1.0
                for chance in lookup.chances(most):
                    gains.append((log1p(chance / expected), place))
                    expected += chance
        gains.sort(key=_gain, reverse=True)
        return gains

    def _decode_time(self, num_rows: int) -> float:
        seconds = self._decode_times.get(num_rows)
        if seconds is None:
            seconds = self._decode_times[num_rows] = self._ask_decode_time(num_rows)
        return seconds

    def _can_pay(self, num_sequences: int, room: int) -> bool:
        """Whether guesses would pay if all of them came true; where not, nobody needs to guess."""
        if room < 1:
            return False
        base = self._decode_time(num_sequences)
        if not base > 0:
            return False
        bar = _MARGIN * num_sequences / base
        times = [(count, self._decode_time(num_sequences + count)) for count in (room, (room + 1) // 2)]
        return any(seconds > 0 and (num_sequences + count) / seconds > bar for count, seconds in times)

    def _next_trial(self, num_sequences: int) -> int:
        """How many guesses to try in this step although they seem too dear; 0 for most steps."""
        if num_sequences != 1:
            return 0
        self._num_closed += 1
        number, rest = divmod(self._num_closed, _TRY_EVERY)
        return 0 if rest else _TRIALS[number % len(_TRIALS)]

    def _best_count(self, num_sequences: int, gains: Sequence[float]) -> tuple[int, float]:
        """How many guesses make the streams fastest, the best first, and what is gained; 0 where none of them pay.

        Args:
            num_sequences: how many there are.
            gains: of each guess.
        """
        best, best_count = num_sequences * log(_MARGIN), 0
        if not gains:
            return best_count, best
        base, total = self._decode_time(num_sequences), 0.0
        if not base > 0:
            return best_count, best
        for count, gain in enumerate(gains, 1):
            total += gain
            seconds = self._decode_time(num_sequences + count)
            if not seconds > 0:
                break  # it is not known any more
            value = total - num_sequences * log(seconds / base)
            if value > best:
                best, best_count = value, count
        return best_count, best


def _gain(entry: tuple[float, int]) -> float:
    return entry[0]
