"""`Speculation`: decides which sequences get drafts (guessed next tokens) in a step, and how many save time.

A draft is computed together with the token before it. If sampling then yields the drafted token, the token after it can
be sampled in the same step. The output's distribution does not change: each token is drawn from its own distribution,
which a right draft only makes available sooner. Speculative sampling (Leviathan et al., 2023) does the same for drafts
without probabilities.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from math import log, log1p

from headrace.engine.speculation.drafting import Drafter, Drafting
from headrace.engine.speculation.guessable import Guessable
from headrace.engine.speculation.prompt_lookup import Lookup

__all__ = ["MAX_DRAFTS", "Speculation"]

# The most drafts in a step, of all sequences together.
MAX_DRAFTS = 15
# Drafts must make the streams this much faster in the mean. The estimates may be wrong, and a wrong draft makes the
# step longer for all streams.
_MARGIN = 1.15
# The known times of steps with many tokens may be wrong. So where drafts seem not to pay, a stream that runs alone
# tries 7 or 15 almost certain drafts in one of 64 steps. Even if each draft costs as much as a step, little is lost.
_TRY_EVERY = 64
_TRIAL_COUNTS = (7, MAX_DRAFTS)
_CERTAIN = 0.75  # the least mean chance of such drafts
# Step times change slowly but are needed many times per step, so they are cached for this many steps.
_REFRESH_EVERY = 16


class Speculation:
    """Plans the drafts of each step, by their chances and their cost.

    A right draft speeds up one stream, and every draft makes the step longer for all. The plan maximises the product of
    all streams' speeds, which is known as proportional fairness (Kelly, 1997). With one stream, the product is that
    stream's speed. With several, no stream is slowed down much for another. If the plan maximised the sum of the speeds
    instead, a stream that copies text would slow the others down.

    Args:
        decode_time: returns the seconds of a step, by its rows of logits; 0.0 if unknown.
        max_length: the most tokens of a sequence.
        drafter: the draft model, used if `Lookup` has no better guesses; None for none.

    Attributes:
        seconds: seconds spent in the draft model in this step.
    """

    def __init__(self, decode_time: Callable[[int], float], max_length: int, drafter: Drafter | None = None) -> None:
        self.seconds = 0.0
        self._drafting = None if drafter is None else Drafting(drafter, self._decode_time)
        self._ask_decode_time = decode_time
        self._decode_times: dict[int, float] = {}
        self._num_steps = 0
        self._max_length = max_length
        self._num_unprofitable = 0  # steps with one sequence in which drafts seemed not to pay

    def plan(self, sequences: Sequence[Guessable], room: int) -> dict[int, list[int]]:
        """Plan the drafts of a step.

        Args:
            sequences: the sequences that decode in the step.
            room: the most drafts that the step has room for.

        Returns:
            The drafts by index in `sequences`; a sequence without drafts has no entry.
        """
        room = min(room, MAX_DRAFTS)
        self._num_steps += 1
        if self._num_steps % _REFRESH_EVERY == 0:
            self._decode_times.clear()
        num_trial = 0
        if not self._can_pay(len(sequences), room):
            num_trial = self._next_trial(len(sequences))
            if not 0 < num_trial <= room:
                return {}
        limits = [min(room, sequence.num_guessable(self._max_length)) for sequence in sequences]
        gains = self._gains(sequences, limits)[:room]
        likeliest = [gain for gain, _ in gains]
        count, value = self._best_count(len(sequences), likeliest)
        if num_trial and sum(likeliest[:num_trial]) >= log1p(_CERTAIN * num_trial):
            count = num_trial
        if self._drafting is not None and not num_trial:
            drafts = self._drafting.plan(sequences, limits, room, value)
            self.seconds = self._drafting.seconds
            if drafts:
                return drafts
        drafts: dict[int, list[int]] = {}
        for index, num_drafts in Counter(index for _, index in gains[:count]).items():
            lookup = sequences[index].lookup
            assert lookup is not None
            drafts[index] = lookup.propose(num_drafts)
        return drafts

    def _gains(self, sequences: Sequence[Guessable], limits: Sequence[int]) -> list[tuple[float, int]]:
        """Returns the gain of each possible draft, largest first, with the index of its sequence.

        The gain is the growth of the logarithm of the sequence's expected tokens in this step. A draft gains at most as
        much as the draft before it in its sequence, and the sort is stable. So the best drafts are always the first
        ones of each sequence.
        """
        gains: list[tuple[float, int]] = []
        for index, (sequence, limit) in enumerate(zip(sequences, limits, strict=True)):
            if limit > 0:
                lookup = sequence.lookup
                if lookup is None:
                    lookup = sequence.lookup = Lookup(sequence.tokens)
                lookup.catch_up()
                expected = 1.0
                for chance in lookup.chances(limit):
                    gains.append((log1p(chance / expected), index))
                    expected += chance
        gains.sort(key=_gain, reverse=True)
        return gains

    def _decode_time(self, num_rows: int) -> float:
        seconds = self._decode_times.get(num_rows)
        if seconds is None:
            seconds = self._decode_times[num_rows] = self._ask_decode_time(num_rows)
        return seconds

    def _can_pay(self, num_sequences: int, room: int) -> bool:
        """Returns whether drafts would pay if all of them were right."""
        if room < 1:
            return False
        base = self._decode_time(num_sequences)
        if not base > 0:
            return False
        bar = _MARGIN * num_sequences / base
        times = [(count, self._decode_time(num_sequences + count)) for count in (room, (room + 1) // 2)]
        return any(seconds > 0 and (num_sequences + count) / seconds > bar for count, seconds in times)

    def _next_trial(self, num_sequences: int) -> int:
        """Returns how many drafts to try in this step although they seem not to pay; 0 for most steps."""
        if num_sequences != 1:
            return 0
        self._num_unprofitable += 1
        number, rest = divmod(self._num_unprofitable, _TRY_EVERY)
        return 0 if rest else _TRIAL_COUNTS[number % len(_TRIAL_COUNTS)]

    def _best_count(self, num_sequences: int, gains: Sequence[float]) -> tuple[int, float]:
        """Returns how many drafts, the best first, make the streams fastest, and their gain; 0 drafts if none pay.

        Args:
            num_sequences: sequences in the step.
            gains: the gain of each draft, largest first.
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
                break  # unknown from here on
            value = total - num_sequences * log(seconds / base)
            if value > best:
                best, best_count = value, count
        return best_count, best


def _gain(entry: tuple[float, int]) -> float:
    return entry[0]
