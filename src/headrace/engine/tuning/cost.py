"""What a step costs, by its shape and its threads: learnt from the steps seen, and used to plan the next ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["CostModel", "Costs"]

_WEIGHT = 0.2
_WEIGHT_BELOW = 0.5
_FAR_BELOW = 0.8
_SMALLEST_CHUNK = 8
# While a prompt is read, a step may take this many times as long as its decodes alone, whatever the target is; where
# there are none, as the least step.
_SHARE = 3.0
_SHARE_ALONE = 4.0
# Where there is one prompt and nothing else, only whoever comes waits for its end: whoever leaves may end it. Steps of
# 128 or 256 rows read a prompt by a tenth to a fifth faster than those of 64.
_ALONE = 3.0
# Where a step has so many rows, llama.cpp's attention on a CPU takes so many at a time, otherwise one after another. A
# long prompt is read a third faster like this. Rows of several sequences are not: each then looks at all cells.
_TILE = 64
# Before anything was measured, and then a tile at most: a big model's first chunk shall not freeze everybody.
_FIRST_GUESS = 0.002
# Rows that a step is padded with at most, and how much faster it must be for it.
_MOST_PADDING = 3
_CLEARLY = 0.95
# Of n times the threads, a step of a model that fits no cache gains this power of n.
_SCALING = 0.8


@dataclass(slots=True)
class Costs:
    """Step times with one number of threads.

    Attributes:
        decode: seconds of a step of so many decoding sequences.
        per_prefill_token: seconds that each token of a prompt adds; None where none was seen.
        per_token_beside: the same in steps in which sequences decode, too; None where that was not seen.
    """

    decode: dict[int, float] = field(default_factory=dict[int, float])
    per_prefill_token: float | None = None
    per_token_beside: float | None = None

    def per_token(self, num_decodes: int) -> float | None:
        """Seconds that each token of a prompt adds to a step of so many decodes; None where nothing is known."""
        alone, beside = self.per_prefill_token, self.per_token_beside
        first, second = (beside, alone) if num_decodes else (alone, beside)
        return first if first is not None else second

    def known(self, num_decodes: int, num_prefill: int) -> float | None:
        """What steps like this have taught: seconds, of a step that only decodes, or of each token of a prompt."""
        return self.per_token(num_decodes) if num_prefill else self.decode.get(num_decodes)

    def scale(self, num_decodes: int, num_prefill: int, factor: float) -> None:
        """Take what steps like this have taught times so much."""
        if num_decodes and self.decode:
            self.decode[num_decodes] = self._decode_time(num_decodes) * factor
        per_token = self.per_token(num_decodes)
        if num_prefill and per_token is not None:
            if num_decodes:
                self.per_token_beside = per_token * factor
            else:
                self.per_prefill_token = per_token * factor

    def padding(self, num_decodes: int) -> int:
        """Rows of no use to add to so many, since a larger step takes less time: with kernels for four rows, say."""
        if num_decodes < 2:
            return 0
        least = self.decode.get(num_decodes, 0.0) * _CLEARLY
        best = 0
        for padding in range(1, _MOST_PADDING + 1):
            seconds = self.decode.get(num_decodes + padding)
            if seconds is not None and seconds < least:
                best, least = padding, seconds
        return best

    def decode_time(self, num_decodes: int) -> float:
        """Seconds of a step of so many decoding sequences, padded where that is faster; 0 where nothing was seen."""
        return self._decode_time(num_decodes + self.padding(num_decodes))

    def _decode_time(self, num_decodes: int) -> float:
        """The same without padding; between the sizes seen."""
        if num_decodes == 0 or not self.decode:
            return 0.0
        known = self.decode.get(num_decodes)
        if known is not None:
            return known
        below = max((size for size in self.decode if size < num_decodes), default=None)
        above = min((size for size in self.decode if size > num_decodes), default=None)
        if below is None:
            assert above is not None
            return self.decode[above]  # a smaller batch costs at most as much
        if above is None:
            return self.decode[below] * num_decodes / below  # a bigger one at most in proportion
        share = (num_decodes - below) / (above - below)
        return self.decode[below] + share * (self.decode[above] - self.decode[below])

    def base(self, num_decodes: int) -> float:
        """What a step takes before its first prefill token: at least the weights are read once, as for one decode."""
        return self.decode_time(max(1, num_decodes))

    def step_time(self, num_decodes: int, num_prefill: int) -> float:
        """Seconds of a step; 0 where nothing like it was seen."""
        if not num_prefill:
            return self.decode_time(num_decodes)
        per_token = self.per_token(num_decodes)
        return 0.0 if per_token is None else self.base(num_decodes) + num_prefill * per_token


class CostModel:
    """Predicts step times as: a step of n decoding sequences, plus so much per prefill token, for each thread count.

    Args:
        target: what a step should take at most while a prompt is read, in seconds.
        largest_chunk: prefill tokens in a step at most.
        threads: the thread counts to choose from, rising.

    Attributes:
        threads: the same.
        tables: what was learnt with each of them, as if nobody else wanted the cores.
        slowdown: how many times as long steps take at present, for each of them.
    """

    def __init__(self, target: float, largest_chunk: int, threads: Sequence[int] = (1,)) -> None:
        self.target = target
        self.threads = tuple(threads)
        self.tables = {count: Costs() for count in self.threads}
        self.slowdown = dict.fromkeys(self.threads, 1.0)
        self._largest_chunk = largest_chunk

    def step_time(self, num_decodes: int, num_prefill: int, threads: int, *, calm: bool = False) -> float:
        """Seconds of a step with so many threads, 0 where nothing is known.

        Args:
            num_decodes: sequences that decode.
            num_prefill: tokens of prompts.
            threads: one of `threads`.
            calm: as if nobody else wanted the cores, instead of as it is now.
        """
        seconds = self.tables[threads].step_time(num_decodes, num_prefill)
        if not seconds:
            # From the nearest thread count that was seen: threads share the work, but for what they wait.
            by_distance = sorted(self.threads, key=lambda count: abs(math.log(count / threads)))
            for other in by_distance:
                seconds = self.tables[other].step_time(num_decodes, num_prefill) * (other / threads) ** _SCALING
                if seconds:
                    break
        return seconds if calm else seconds * self.slowdown[threads]

    def decode_time(self, num_decodes: int) -> float:
        """Seconds that a step of so many decoding sequences takes now, with the threads that are best for it."""
        return min(self.step_time(num_decodes, 0, threads) for threads in self.threads)

    def chunk(self, num_decodes: int, num_prompts: int = 1) -> int:
        """Tokens of so many prompts that fit into a step beside so many decoding sequences."""
        # Where the decodes leave little of it, the prompt still gets twice their time: who waits for it waits, too.
        if num_decodes:
            budget = max(self.target, self.decode_time(num_decodes) * _SHARE)
        else:
            target = self.target * (_ALONE if num_prompts == 1 else 1.0)
            budget = max(target, self.decode_time(1) * _SHARE_ALONE)
        fitting = max(self._fitting(budget, num_decodes, threads) for threads in self.threads)
        if num_decodes and _TILE <= num_decodes + fitting < 2 * _TILE:
            shorter = _TILE - 1 - num_decodes
            fitting = shorter if shorter >= fitting // 2 else fitting
        elif not num_decodes and num_prompts == 1 and fitting >= _TILE * 3 // 4:  # a third more than fits at most
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
        """Take in a step that was run.

        Args:
            num_decodes: sequences that decoded.
            num_prefill: tokens of prompts.
            seconds: what it took.
            threads: with how many threads; None for the most.
            weight: how much it counts against what was known.
            for_all: whether the same step with other threads is taken to cost so much more, or less, too. Memories fill
                and machines get warm: were only the threads in use to learn of it, they would look slow beside those
                that have not been tried since.
        """
        table = self.tables[self.threads[-1] if threads is None else threads]
        if 0 < num_prefill < _SMALLEST_CHUNK:  # such a sample is mostly the cost of having a step at all
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
        # Which of the two has changed is not to be seen, and as a rule it is both: a full memory makes every row
        # dearer. Were it all blamed on the prompt, a slow step would make the next chunk smaller, and the share of the
        # decodes in it larger, which would look like a still dearer prompt.
        expected = base + num_prefill * per_token
        ratio = _mean(expected, seconds, weight) / expected
        table.per_token_beside = per_token * ratio
        table.decode[num_decodes] = base * ratio


def _mean(known: float | None, sample: float, weight: float) -> float:
    """An exponential mean in which one step that the machine held up counts at most fourfold."""
    if known is None:
        return sample
    if sample < _FAR_BELOW * known:  # nothing makes a step faster by chance
        weight = max(weight, _WEIGHT_BELOW)
    return known + weight * (min(sample, 4 * known) - known)
