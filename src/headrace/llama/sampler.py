"""Chooses the next token of a stream from its logits, without sorting the vocabulary."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from headrace.config import StreamConfig
from headrace.errors import InvalidRequestError
from headrace.events import Sample

__all__ = ["Guide", "Sampler", "sample_rows"]

_Floats = NDArray[np.float32]
_Ids = NDArray[np.intp]


class Guide(Protocol):
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
_GROWTH = 8


class Sampler:
    """The sampling state of one stream: its random generator and the tokens that its penalties count.

    The order is that of llama.cpp's default chain: logit bias (`ignore_eos` included), penalties, top-k, top-p, min-p,
    temperature; then a draw by the inverse of the cumulative distribution over the tokens that are left, most likely
    first, of equal ones the lowest id.

    Attributes:
        is_plain_greedy: whether the choice is the largest logit and nothing else is asked for.
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
        self._adjusts = bool(bias) or self._last_n > 0

        self._greedy = config.temperature == 0
        self._sharpness = 1.0 if self._greedy else min(max(1 / config.temperature, 1 / _LARGE), _LARGE)
        self._top_k = config.top_k
        self._top_p = config.top_p
        self._min_logit = math.log(config.min_p) if config.min_p > 0 else -math.inf
        self._filters = config.top_p < 1 or config.min_p > 0
        self._logprobs = config.logprobs
        self._random = np.random.Generator(np.random.PCG64(config.seed))
        self.is_plain_greedy = self._greedy and config.logprobs is None

    def sample(self, row: _Floats, guide: Guide | None = None) -> Sample:
        """Chooses a token, and counts it for the penalties.

        Args:
            row: the logits of the vocabulary; what the guide bans, bias and penalties are written into it.
            guide: what may come next; None where anything may.

        Raises:
            ValueError: the logits are not numbers, or every token is banned.
        """
        changes = self._adjusts or guide is not None
        raw = row.copy() if changes and self._logprobs is not None else row
        # Sharp temperatures and strong penalties overflow to -inf, which is what they mean.
        with np.errstate(over="ignore"):
            if guide is not None:
                guide.restrict(row)
            self.adjust(row)
            token = self._choose(row)
            while guide is not None and guide.refuses(token):
                row[token] = -math.inf
                token = self._choose(row)
        if self._logprobs is None:
            return self.accept(token)
        return self.accept(token, *_logprobs(raw, token, self._logprobs))

    def _choose(self, row: _Floats) -> int:
        return _largest_one(row) if self._greedy else self._draw(row)

    def adjust(self, row: _Floats) -> None:
        """Writes bias and penalties into the logits."""
        if not self._adjusts:
            return
        row[self._bias_ids] += self._bias
        if self._counts:
            ids = np.fromiter(self._counts, np.intp, len(self._counts))
            counts = np.fromiter(self._counts.values(), np.float32, len(self._counts))
            logits = row[ids]
            logits = np.where(logits > 0, logits / self._repeat, logits * self._repeat)
            row[ids] = logits - (counts * self._frequency + self._presence)

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
            logits = values.astype(np.float64) - float(values[0])
            is_complete = self._top_k > 0 or values.size < n or n >= row.size
            if self._top_p < 1 and mass is None:
                mass = float(np.exp(logits).sum()) if is_complete else _mass(row, values[0], 1.0)
            kept = self._kept(logits, mass or 0.0)
            cumulative = np.exp(logits[:kept] * self._sharpness).cumsum()
            if is_complete or kept < values.size:
                target = draw * float(cumulative[-1])
                break
            if not self._filters:
                mass = mass or _mass(row, values[0], self._sharpness)
                target = draw * mass
                if target < cumulative[-1]:
                    break
            n *= _GROWTH
        # Rounding may put the target at the very end, behind tokens whose probability is 0.
        target = min(target, math.nextafter(float(cumulative[-1]), 0.0))
        return int(ids[cumulative.searchsorted(target, side="right")])

    def _kept(self, logits: NDArray[np.float64], mass: float) -> int:
        """How many of the most likely tokens the filters keep; at least one.

        Args:
            logits: falling, the first is 0.
            mass: sum of the exponentials of all logits that top-p looks at.
        """
        kept = logits.size
        if self._top_p < 1:
            kept = min(kept, int(np.exp(logits).cumsum().searchsorted(self._top_p * mass)) + 1)
        if self._min_logit > -math.inf:
            kept = min(kept, int((-logits).searchsorted(-self._min_logit, side="right")))
        return kept


def sample_rows(
    logits: _Floats, samplers: Sequence[Sampler], guides: Sequence[Guide | None] | None = None
) -> list[Sample | Exception]:
    """Chooses a token for each row; what one row raises is its result, and the others are not affected.

    Args:
        logits: shape (len(samplers), n_vocab); bans, bias and penalties are written into it.
        samplers: one for each row.
        guides: one for each row, or None; None where there are none at all.
    """
    guides = guides or [None] * len(samplers)
    if all(sampler.is_plain_greedy for sampler in samplers) and not any(guides):
        with np.errstate(over="ignore"):
            for row, sampler in zip(logits, samplers, strict=True):
                sampler.adjust(row)
        tokens = logits.argmax(axis=1)
        peaks = logits[np.arange(len(samplers)), tokens]
        return [
            sampler.accept(token) if math.isfinite(peak) else _unusable(peak)
            for sampler, token, peak in zip(samplers, tokens.tolist(), peaks.tolist(), strict=True)
        ]
    results: list[Sample | Exception] = []
    for row, sampler, guide in zip(logits, samplers, guides, strict=True):
        try:
            results.append(sampler.sample(row, guide))
        except Exception as error:
            results.append(error)
    return results


def _largest(row: _Floats, n: int) -> tuple[_Floats, _Ids]:
    """The n largest logits, falling, and their ids; of equal ones the lowest ids. Fewer where the rest is -inf.

    The row is cut into blocks. The n-th largest of the blocks' maxima is a lower bound of the n-th largest logit, so
    only blocks whose maximum reaches it can hold one of them, and of these only the logits that reach it are sorted.
    A block is a column of the row laid out as a table: maxima over columns are one pass of vector instructions.
    """
    n = min(n, row.size)
    height = max(1, min(math.isqrt(4 * row.size // n), row.size // n))
    width = row.size // height
    table = height * width
    # What does not fill the table is a block for each logit.
    maxima = np.concatenate((row[:table].reshape(height, width).max(axis=0), row[table:]))
    peak = float(maxima.max())
    if not math.isfinite(peak):
        raise _unusable(peak)
    place = maxima.size - n
    bound = max(float(np.partition(maxima, place)[place]), _LOWEST)
    blocks = np.flatnonzero(maxima >= bound)
    n_columns = int(blocks.searchsorted(width))
    rows = np.arange(0, table, width)
    ids = np.concatenate(((rows[:, None] + blocks[:n_columns]).ravel(), blocks[n_columns:] + (table - width)))
    values = row[ids]
    found = np.flatnonzero(values >= bound)
    ids, values = ids[found], values[found]
    order = (-values).argsort(kind="stable")[:n]  # ids rise, so of equal values the lowest id comes first
    return values[order], ids[order]


def _largest_one(row: _Floats) -> int:
    token = int(row.argmax())
    if not math.isfinite(row[token]):
        raise _unusable(float(row[token]))
    return token


def _mass(row: _Floats, peak: np.float32, sharpness: float) -> float:
    shifted = row - peak
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
