"""`CostModel`: predicts step times from those seen so far; `Costs` is its table for one thread count."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["CostModel", "Costs"]

_WEIGHT = 0.2  # of a new sample in an exponential mean
# A step far below the mean counts more: nothing makes a step faster by chance.
_WEIGHT_BELOW = 0.5
_FAR_BELOW = 0.8
_SMALLEST_CHUNK = 8
# A step with prefill may take this many times as long as its decodes alone, even beyond the target. Without decodes,
# it may take `_SHARE_ALONE` times as long as a step of one decode.
_SHARE = 3.0
_SHARE_ALONE = 4.0
# A prompt that is alone may exceed the target by this factor, because only new streams wait for the step: a cancel
# interrupts it. Steps of 128 or 256 tokens prefill a tenth to a fifth faster than steps of 64.
_ALONE = 3.0
# From this many tokens of one sequence on, llama.cpp's attention on a CPU works in tiles of this many tokens, and
# prefills a long prompt a third faster. If a step has tokens of several sequences, tiles are slower: attention then
# looks at all cells for each token.
_TILE = 64
# Seconds per prefill token before any was measured. The first chunk is a tile at most, so that a big model does not
# hold up all streams.
_FIRST_GUESS = 0.002
# The most rows of padding in a step. A padded step must take less than this share of the time without padding.
_MAX_PADDING = 3
_PADDING_GAIN = 0.95
# With n times the threads, a step of a model that exceeds the CPU caches is n ** 0.8 times as fast.
_SCALING = 0.8


@dataclass(slots=True)
class Costs:
    """Step times for one thread count.

    Attributes:
        decode: seconds of a step without prefill, by the number of decodes.
        per_prefill_token: seconds that each prefill token adds to a step without decodes; None if not seen yet.
        per_token_beside: seconds that each prefill token adds to a step with decodes; None if not seen yet.
    """

    decode: dict[int, float] = field(default_factory=dict[int, float])
    per_prefill_token: float | None = None
    per_token_beside: float | None = None

    def per_token(self, num_decodes: int) -> float | None:
        """Returns the seconds that a prefill token adds to a step with this many decodes; None if unknown."""
        alone, beside = self.per_prefill_token, self.per_token_beside
        first, second = (beside, alone) if num_decodes else (alone, beside)
        return first if first is not None else second

    def known(self, num_decodes: int, num_prefill: int) -> float | None:
        """Returns the learnt seconds per prefill token, or of the step if it has no prefill; None if unknown."""
        return self.per_token(num_decodes) if num_prefill else self.decode.get(num_decodes)

    def scale(self, num_decodes: int, num_prefill: int, factor: float) -> None:
        """Multiply the learnt seconds for steps of this shape by a factor."""
        if num_decodes and self.decode:
            self.decode[num_decodes] = self._decode_time(num_decodes) * factor
        per_token = self.per_token(num_decodes)
        if num_prefill and per_token is not None:
            if num_decodes:
                self.per_token_beside = per_token * factor
            else:
                self.per_prefill_token = per_token * factor

    def padding(self, num_decodes: int) -> int:
        """Returns how many unused rows make the step faster: some kernels, for example, work on four rows at a time."""
        if num_decodes < 2:
            return 0
        least = self.decode.get(num_decodes, 0.0) * _PADDING_GAIN
        best = 0
        for padding in range(1, _MAX_PADDING + 1):
            seconds = self.decode.get(num_decodes + padding)
            if seconds is not None and seconds < least:
                best, least = padding, seconds
        return best

    def decode_time(self, num_decodes: int) -> float:
        """Returns the seconds of a step of decodes, padded if that is faster; 0 if nothing is known."""
        return self._decode_time(num_decodes + self.padding(num_decodes))

    def _decode_time(self, num_decodes: int) -> float:
        """Returns the seconds of a step of decodes without padding, interpolated between the known sizes."""
        if num_decodes == 0 or not self.decode:
            return 0.0
        known = self.decode.get(num_decodes)
        if known is not None:
            return known
        below = max((size for size in self.decode if size < num_decodes), default=None)
        above = min((size for size in self.decode if size > num_decodes), default=None)
        if below is None:
            assert above is not None
            return self.decode[above]  # an upper bound: a smaller batch takes no longer
        if above is None:
            return self.decode[below] * num_decodes / below  # an upper bound: in proportion to the rows
        share = (num_decodes - below) / (above - below)
        return self.decode[below] + share * (self.decode[above] - self.decode[below])

    def base(self, num_decodes: int) -> float:
        """Returns the seconds of a step without its prefill tokens; at least those of one decode.

        Any step has to read all weights.
        """
        return self.decode_time(max(1, num_decodes))

    def step_time(self, num_decodes: int, num_prefill: int) -> float:
        """Returns the seconds of a step; 0 if unknown."""
        if not num_prefill:
            return self.decode_time(num_decodes)
        per_token = self.per_token(num_decodes)
        return 0.0 if per_token is None else self.base(num_decodes) + num_prefill * per_token


class CostModel:
    """Predicts step times: the time of n decodes, plus a time per prefill token, for each thread count.

    Args:
        target: how long a step with prefill should take at most, in seconds.
        largest_chunk: the most prefill tokens in a step.
        threads: the thread counts to choose from, rising.

    Attributes:
        target: see above.
        threads: see above.
        tables: the learnt times by thread count, without the influence of other processes.
        slowdown: the present time of a step divided by the learnt time, by thread count.
    """

    def __init__(self, target: float, largest_chunk: int, threads: Sequence[int] = (1,)) -> None:
        self.target = target
        self.threads = tuple(threads)
        self.tables = {count: Costs() for count in self.threads}
        self.slowdown = dict.fromkeys(self.threads, 1.0)
        self._largest_chunk = largest_chunk

    def step_time(self, num_decodes: int, num_prefill: int, threads: int, *, calm: bool = False) -> float:
        """Returns the seconds of a step with this many threads; 0 if unknown.

        Args:
            num_decodes: sequences that decode.
            num_prefill: prefill tokens.
            threads: one of `self.threads`.
            calm: whether to assume that no other process uses the cores; otherwise the present slowdown counts.
        """
        seconds = self.tables[threads].step_time(num_decodes, num_prefill)
        if not seconds:
            # Scale the time of the nearest known thread count.
            by_distance = sorted(self.threads, key=lambda count: abs(math.log(count / threads)))
            for other in by_distance:
                seconds = self.tables[other].step_time(num_decodes, num_prefill) * (other / threads) ** _SCALING
                if seconds:
                    break
        return seconds if calm else seconds * self.slowdown[threads]

    def decode_time(self, num_decodes: int) -> float:
        """Returns the seconds that a step of decodes takes now, with the best thread count."""
        return min(self.step_time(num_decodes, 0, threads) for threads in self.threads)

    def chunk(self, num_decodes: int, num_prompts: int = 1) -> int:
        """Returns how many prefill tokens of `num_prompts` prompts a step should have, beside its decodes."""
        # If the decodes use up the target, prefill still gets twice their time, so that the prompt makes progress.
        if num_decodes:
            budget = max(self.target, self.decode_time(num_decodes) * _SHARE)
        else:
            target = self.target * (_ALONE if num_prompts == 1 else 1.0)
            budget = max(target, self.decode_time(1) * _SHARE_ALONE)
        fitting = max(self._fitting(budget, num_decodes, threads) for threads in self.threads)
        if num_decodes and _TILE <= num_decodes + fitting < 2 * _TILE:
            shorter = _TILE - 1 - num_decodes
            fitting = shorter if shorter >= fitting // 2 else fitting
        elif not num_decodes and num_prompts == 1 and fitting >= _TILE * 3 // 4:  # rounded up by a third at most
            fitting = (fitting + _TILE // 2) // _TILE * _TILE
        return min(max(fitting, _SMALLEST_CHUNK), self._largest_chunk)

    def _fitting(self, budget: float, num_decodes: int, threads: int) -> int:
        table, slowdown = self.tables[threads], self.slowdown[threads]
        per_token = table.per_token(num_decodes)
        if per_token is None:
            if threads != self.threads[-1] or any(other.per_token(num_decodes) for other in self.tables.values()):
                return 0
            return min(_TILE, int((budget / slowdown - table.base(num_decodes)) / _FIRST_GUESS))
        return int((budget / slowdown - table.base(num_decodes)) / per_token)

    def learn(
        self,
        num_decodes: int,
        num_prefill: int,
        seconds: float,
        threads: int | None = None,
        weight: float = _WEIGHT,
        *,
        for_all: bool = False,
    ) -> None:
        """Learn from a step that was run.

        Args:
            num_decodes: sequences that decoded.
            num_prefill: prefill tokens.
            seconds: its time.
            threads: its thread count; None for the largest.
            weight: weight of this sample in the mean.
            for_all: whether to scale the times of the other thread counts, too. Steps get slower as the KV cache fills
                or the machine gets warm. If only the current count learnt that, the others would wrongly look faster.
        """
        table = self.tables[self.threads[-1] if threads is None else threads]
        if 0 < num_prefill < _SMALLEST_CHUNK:  # mostly the fixed cost of a step
            return
        before = table.known(num_decodes, num_prefill)
        _learn(table, num_decodes, num_prefill, seconds, weight)
        after = table.known(num_decodes, num_prefill)
        if before and after and for_all:
            for other in self.tables.values():
                if other is not table:
                    other.scale(num_decodes, num_prefill, after / before)


def _learn(table: Costs, num_decodes: int, num_prefill: int, seconds: float, weight: float) -> None:
    if not num_prefill:
        table.decode[num_decodes] = _mean(table.decode.get(num_decodes), seconds, weight)
        return
    base, per_token = table.base(num_decodes), table.per_token(num_decodes)
    if not num_decodes:
        sample = max(seconds - base, 0.1 * seconds) / num_prefill
        table.per_prefill_token = _mean(table.per_prefill_token, sample, weight)
    elif per_token is None:
        table.per_token_beside = max(seconds - base, 0.1 * seconds) / num_prefill
    else:
        # The time does not tell whether decodes or prefill got slower. Mostly both did, as the KV cache filled. If all
        # of it were attributed to prefill, the next chunk would be smaller, the decodes' share of the step larger, and
        # prefill would look still slower. So both are scaled.
        expected = base + num_prefill * per_token
        ratio = _mean(expected, seconds, weight) / expected
        table.per_token_beside = per_token * ratio
        table.decode[num_decodes] = base * ratio


def _mean(known: float | None, sample: float, weight: float) -> float:
    """Returns the exponential mean. A sample counts as at most four times the mean: a longer step was disturbed."""
    if known is None:
        return sample
    if sample < _FAR_BELOW * known:
        weight = max(weight, _WEIGHT_BELOW)
    return known + weight * (min(sample, 4 * known) - known)
