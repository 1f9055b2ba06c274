"""Chooses the next token of a stream from its logits, without sorting the vocabulary."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from headrace.values.config import StreamConfig
from headrace.values.errors import InvalidRequestError
from headrace.values.events import Sample

__all__ = ["Constraint", "Sampler", "sample_rows"]

_Floats = NDArray[np.float32]
_Ids = NDArray[np.intp]


class Constraint(Protocol):
    """What may come next in a stream."""

    def restrict(self, row: _Floats) -> None:
        """Writes -inf to what may not."""
        ...

    def refuses(self, token: int) -> bool:
        """Whether a token cannot be taken although it was not banned."""
        ...


_LOWEST = float(np.finfo(np.float32).min)
# Beyond these, settings have no further effect on float32 logits, but would make infinities and then NaNs of them.
_LARGE = 1e30
_FIRST_GUESS = 64
_GROWTH = 4


class Sampler:
    """The sampling state of one stream: its random generator and the tokens that its penalties count.

    The order is that of llama.cpp's default chain: logit bias (`ignore_eos` included), penalties, top-k, top-p, min-p,
    temperature; then a draw by the inverse of the cumulative distribution over the tokens that are left, most likely
    first, of equal ones the lowest id.

    No setting is an approximation: what top-k keeps is exact, and every probability is that of the whole distribution
    but for the rounding of single precision, less than 1e-6 in all. A threshold that drops what is too unlikely would
    save little: at a temperature of 1, half of a vocabulary is needed as a rule for all but 1e-6 of the mass.

    Attributes:
        is_plain_greedy: whether the choice is the largest logit and nothing else is asked for.
        adjusts: whether there are biases or penalties.
    """

    def __init__(
        self, config: StreamConfig, *, n_vocab: int, eog_tokens: frozenset[int], prompt: Sequence[int]
    ) -> None:
        """Prepares a stream.

        Args:
            config: its settings.
            n_vocab: size of the vocabulary, in tokens.
            eog_tokens: ids that `ignore_eos` bans.
            prompt: its tokens, which the penalties count.

        Raises:
            InvalidRequestError: a logit bias for a token that the model does not have.
        """
        for token in config.logit_bias:
            if token >= n_vocab:
                raise InvalidRequestError("logit_bias", token, f"token ids, 0 to {n_vocab - 1}")
        bias = {token: min(max(value, -_LARGE), _LARGE) for token, value in config.logit_bias.items()}
        if config.ignore_eos:
            bias.update(dict.fromkeys(eog_tokens, -math.inf))
        self._bias_ids = np.fromiter(bias, np.intp, len(bias))
        self._bias = np.fromiter(bias.values(), np.float32, len(bias))

        self._repeat = min(max(config.repeat_penalty, 1 / _LARGE), _LARGE)
        self._frequency = config.frequency_penalty
        self._presence = config.presence_penalty
        has_penalties = self._repeat != 1 or self._frequency != 0 or self._presence != 0
        self._last_n = config.penalty_last_n if has_penalties else 0
        self._recent: deque[int] = deque()
        self._counts: dict[int, int] = {}
        for token in prompt[-self._last_n :] if self._last_n else ():
            self._remember(token)
        self.adjusts = bool(bias) or self._last_n > 0

        self._greedy = config.temperature == 0
        self._sharpness = 1.0 if self._greedy else min(max(1 / config.temperature, 1 / _LARGE), _LARGE)
        self._top_k = config.top_k
        self._top_p = config.top_p
        self._min_logit = math.log(config.min_p) if config.min_p > 0 else -math.inf
        self._filters = config.top_p < 1 or config.min_p > 0
        self._logprobs = config.logprobs
        self._random = np.random.Generator(np.random.PCG64(config.seed))
        self.is_plain_greedy = self._greedy and config.logprobs is None

    def sample(self, row: _Floats, constraint: Constraint | None = None) -> Sample:
        """Chooses a token, and counts it for the penalties.

        Args:
            row: the logits of the vocabulary; what the constraint bans, bias and penalties are written into it.
            constraint: what may come next; None where anything may.

        Raises:
            ValueError: the logits are not numbers, or every token is banned.
        """
        changes = self.adjusts or constraint is not None
        raw = row.copy() if changes and self._logprobs is not None else row
        if constraint is not None:
            constraint.restrict(row)
        if self.adjusts:
            self.adjust(row)
        token = self._choose(row)
        while constraint is not None and constraint.refuses(token):
            row[token] = -math.inf
            token = self._choose(row)
        if self._logprobs is None:
            return self.accept(token)
        return self.accept(token, *_logprobs(raw, token, self._logprobs))

    def _choose(self, row: _Floats) -> int:
        return _largest_one(row) if self._greedy else self._draw(row)

    def adjust(self, row: _Floats) -> None:
        """Writes bias and penalties into the logits."""
        if self._bias.size:
            row[self._bias_ids] += self._bias
        if self._counts:
            ids = np.fromiter(self._counts, np.intp, len(self._counts))
            logits = row[ids]
            if self._repeat != 1:
                with np.errstate(over="ignore"):  # to -inf, which is what a strong penalty means
                    logits = np.where(logits > 0, logits / self._repeat, logits * self._repeat)
            if self._frequency or self._presence:
                counts = np.fromiter(self._counts.values(), np.float32, len(self._counts))
                logits -= counts * self._frequency + self._presence
            row[ids] = logits

    def accept(
        self, token: int, logprob: float | None = None, top: tuple[tuple[int, float], ...] | None = None
    ) -> Sample:
        """Counts a chosen token for the penalties."""
        if self._last_n:
            self._remember(token)
        return Sample(token, logprob, top)

    def _remember(self, token: int) -> None:
        self._recent.append(token)
        self._counts[token] = self._counts.get(token, 0) + 1
        if len(self._recent) > self._last_n:
            oldest = self._recent.popleft()
            self._counts[oldest] -= 1
            if not self._counts[oldest]:
                del self._counts[oldest]

    def _draw(self, row: _Floats) -> int:
        draw = self._random.random()
        n = self._top_k or _FIRST_GUESS
        mass: float | None = None
        while True:
            # Every filter keeps the head of the vocabulary sorted by logit. Where top-k does not say how long that
            # is, try a short head, and a longer one until the end of what is kept, or the drawn token, is in it.
            values, ids = _largest(row, n)
            logits = np.subtract(values, values[0], dtype=np.float64)
            cumulative = np.exp(logits).cumsum()
            is_complete = self._top_k > 0 or values.size < n or n >= row.size
            if self._top_p < 1 and mass is None:
                mass = float(cumulative[-1]) if is_complete else _mass(row, values[0], 1.0)
            kept = self._kept(logits, cumulative, mass or 0.0)
            if self._sharpness != 1:
                logits = logits[:kept] * self._sharpness
                cumulative = np.exp(logits, out=logits).cumsum()
            total = float(cumulative[kept - 1])
            if is_complete or kept < values.size:
                target = draw * total
                break
            if not self._filters:
                mass = mass or _mass(row, values[0], self._sharpness)
                target = draw * mass
                if target < total:
                    break
            n *= _GROWTH
        # Rounding may put the target at the very end, behind tokens whose probability is 0.
        target = min(target, math.nextafter(total, 0.0))
        return int(ids[cumulative.searchsorted(target, side="right")])

    def _kept(self, logits: NDArray[np.float64], cumulative: NDArray[np.float64], mass: float) -> int:
        """How many of the most likely tokens the filters keep; at least one.

        Args:
            logits: falling, the first is 0.
            cumulative: running sums of their exponentials.
            mass: sum of the exponentials of all logits that top-p looks at.
        """
        kept = logits.size
        if self._top_p < 1:
            kept = min(kept, int(cumulative.searchsorted(self._top_p * mass)) + 1)
        if self._min_logit > -math.inf:
            kept = min(kept, int((-logits).searchsorted(-self._min_logit, side="right")))
        return kept


def sample_rows(
    logits: _Floats, samplers: Sequence[Sampler], constraints: Sequence[Constraint | None] | None = None
) -> list[Sample | Exception]:
    """Chooses a token for each row; what one row raises is its result, and the others are not affected.

    Args:
        logits: shape (len(samplers), n_vocab); bans, bias and penalties are written into it.
        samplers: one for each row.
        constraints: one for each row, or None; None where there are none at all.
    """
    constraints = constraints or [None] * len(samplers)
    if all(sampler.is_plain_greedy for sampler in samplers) and not any(constraints):
        return _likeliest(logits, samplers)
    results: list[Sample | Exception] = []
    for row, sampler, constraint in zip(logits, samplers, constraints, strict=True):
        try:
            results.append(sampler.sample(row, constraint))
        except Exception as error:
            results.append(error)
    return results


def _likeliest(logits: _Floats, samplers: Sequence[Sampler]) -> list[Sample | Exception]:
    """The largest logit of each row, all of them in one pass.

    Right after a decode nothing of numpy is in the processor's caches, and each of its functions costs 10 to 50 µs,
    whatever it does; so there are as few of them as can be.
    """
    for index, sampler in enumerate(samplers):
        if sampler.adjusts:
            sampler.adjust(logits[index])
    results: list[Sample | Exception] = []
    for index, token in enumerate(logits.argmax(axis=1).tolist()):
        peak = logits.item(index, token)
        results.append(samplers[index].accept(token) if math.isfinite(peak) else _unusable(peak))
    return results


class _Layout(NamedTuple):
    """How a row is cut into blocks, and the blocks into groups, to look for its n largest logits.

    The row is laid out as a table, and a block is a column of it.

    Attributes:
        height: lines of the table, the logits in a block; a power of two.
        width: columns of the table, which is how many blocks there are.
        groups: groups of blocks, at least n.
        steps: from a block's first logit, the index of which is the block's own, to each of its logits.
    """

    height: int
    width: int
    groups: int
    steps: _Ids


@lru_cache(maxsize=64)
def _layout(size: int, n: int) -> _Layout:
    # High blocks make many logits of those that are looked at again, low ones make many maxima. Vocabularies are
    # padded to a multiple of a power of two as a rule, and then nothing is left over.
    height = max(1, min(math.isqrt(size // max(n, 32)), size // (2 * n)))
    height = 1 << (height.bit_length() - 1)
    width = size // height
    return _Layout(height, width, min(2 * n, width), np.arange(0, height * width, width))


def _maxima(row: _Floats, width: int) -> _Floats:
    """The largest logit of each block; NaN where one of them is. Good until the scratch is used again.

    The one half of the row against the other, then the halves of what is left: a few operations on long vectors, which
    take less time than a reduction over the lines, and much less than one over short lines.
    """
    size = row.size
    while size > width:
        size //= 2
        # From the second time on the result takes the place of the first half, element by element.
        row = np.maximum(row[:size], row[size : 2 * size], out=_scratch.of_size(size))
    return row


def _largest(row: _Floats, n: int) -> tuple[_Floats, _Ids]:
    """The n largest logits, falling, and their ids; of equal ones the lowest ids. Fewer where the rest is -inf.

    The row is cut into blocks, and those into twice as many groups as are asked for. The n-th largest of the groups'
    maxima is a lower bound of the n-th largest logit, since there are n logits that reach it. So only blocks whose
    maximum reaches it can hold one of the n, and of these only the logits that reach it are sorted.
    """
    n = min(n, row.size)
    height, width, groups, steps = _layout(row.size, n)
    covered = height * width
    maxima = _maxima(row[:covered], width)
    rest = row[covered:]
    peak = float(maxima[maxima.argmax()])
    if rest.size:
        peak = float(np.maximum(peak, rest.max()))  # which is NaN where one of them is
    if not math.isfinite(peak):
        raise _unusable(peak)
    # Blocks that fill no line of groups are left out, which makes the bound lower at most.
    tops = np.maximum.reduce(maxima[: width // groups * groups].reshape(-1, groups), axis=0)
    tops.partition(groups - n)
    bound = max(float(tops[groups - n]), _LOWEST)
    ids = ((maxima >= bound).nonzero()[0][:, None] + steps).ravel()
    ids = ids[(row[ids] >= bound).nonzero()[0]]
    ids.sort()
    if rest.size:
        ids = np.concatenate((ids, (rest >= bound).nonzero()[0] + covered))
    values = row[ids]
    order = (-values).argsort(kind="stable")[:n]  # ids rise, so of equal values the lowest id comes first
    return values[order], ids[order]


def _largest_one(row: _Floats) -> int:
    token = int(row.argmax())
    if not math.isfinite(row[token]):
        raise _unusable(float(row[token]))
    return token


class _Scratch(threading.local):
    """A row to compute in, one for each thread: to fetch a new one from the system takes as long as to fill it."""

    def __init__(self) -> None:
        self._row = np.empty(0, np.float32)

    def of_size(self, n: int) -> _Floats:
        if self._row.size < n:
            self._row = np.empty(n, np.float32)
        return self._row[:n]


_scratch = _Scratch()


def _mass(row: _Floats, peak: np.float32, sharpness: float) -> float:
    """Sum of the exponentials of all logits, the largest taken as 0, exact but for single precision's rounding."""
    with np.errstate(over="ignore"):  # to -inf, which is what a sharp temperature means
        shifted = np.subtract(row, peak, out=_scratch.of_size(row.size))
        if sharpness != 1:
            shifted *= sharpness
        return float(np.exp(shifted, out=shifted).sum())


def _logprobs(row: _Floats, token: int, n: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    # Log-softmax, https://en.wikipedia.org/wiki/LogSumExp
    peak = row.max()
    log_mass = float(peak) + math.log(_mass(row, peak, 1.0))
    top: tuple[tuple[int, float], ...] = ()
    if n:
        values, ids = _largest(row, n)
        top = tuple(zip(ids.tolist(), (values.astype(np.float64) - log_mass).tolist(), strict=True))
    return float(row[token]) - log_mass, top


def _unusable(peak: float) -> ValueError:
    if peak == -math.inf:
        return ValueError("every token is banned: all logits are -inf")
    return ValueError(f"the model's logits are not finite numbers: the largest is {peak}")
