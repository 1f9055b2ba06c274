"""`Sampler`: chooses the next token of a stream from its logits; `sample_rows` does so for the streams of a step."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from headrace.llama.logits import exp_sum, log_probabilities, top_logits, top_token, unusable
from headrace.values.config import StreamConfig
from headrace.values.errors import InvalidRequestError
from headrace.values.events import Sample

__all__ = ["Constraint", "Sampler", "sample_rows"]

_Floats = NDArray[np.float32]


class Constraint(Protocol):
    """Bans tokens; the engine's `Constraint` satisfies this protocol."""

    def restrict(self, row: _Floats) -> None:
        """Write -inf to the logits of tokens that may not come next."""
        ...

    def refuses(self, token: int) -> bool:
        """Returns whether a sampled token must be replaced although it was not banned."""
        ...


# Larger settings have no further effect on float32 logits, but would turn them into infinities and then NaNs.
_LARGE = 1e30
# Without top-k, sampling looks at this many of the largest logits first, and at 4 times as many in each further try.
_FIRST_N = 64
_GROWTH = 4


class Sampler:
    """The sampling state of one stream: its random generator, and the tokens that its penalties count.

    The order is that of llama.cpp's default chain: logit bias (with `ignore_eos`), penalties, top-k, top-p, min-p,
    temperature; then a draw by the inverse of the cumulative distribution, over the remaining tokens, the most likely
    first and of equally likely ones the lowest id.

    No setting is approximated: top-k is exact, and every probability is that of the whole distribution except for the
    rounding of single precision, less than 1e-6 in total. A threshold for unlikely tokens would save little: at a
    temperature of 1, half of a vocabulary is usually needed for all but 1e-6 of the mass.

    Attributes:
        is_plain_greedy: whether the choice is the largest logit, without log probabilities.
        adjusts: whether there are biases or penalties.
    """

    def __init__(
        self, config: StreamConfig, *, n_vocab: int, eog_tokens: frozenset[int], prompt: Sequence[int]
    ) -> None:
        """Prepare the sampling of one stream.

        Args:
            config: the stream's settings.
            n_vocab: size of the vocabulary, in tokens.
            eog_tokens: ids that `ignore_eos` bans.
            prompt: the prompt's tokens; the penalties count them.

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
        """Choose a token, and count it for the penalties.

        Args:
            row: the logits of the vocabulary; bans, bias and penalties are written into it.
            constraint: bans tokens; None for none.

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
        return self.accept(token, *log_probabilities(raw, token, self._logprobs))

    def _choose(self, row: _Floats) -> int:
        return top_token(row) if self._greedy else self._draw(row)

    def adjust(self, row: _Floats) -> None:
        """Write bias and penalties into the logits."""
        if self._bias.size:
            row[self._bias_ids] += self._bias
        if self._counts:
            ids = np.fromiter(self._counts, np.intp, len(self._counts))
            logits = row[ids]
            if self._repeat != 1:
                with np.errstate(over="ignore"):  # overflow to -inf is right for a strong penalty
                    logits = np.where(logits > 0, logits / self._repeat, logits * self._repeat)
            if self._frequency or self._presence:
                counts = np.fromiter(self._counts.values(), np.float32, len(self._counts))
                logits -= counts * self._frequency + self._presence
            row[ids] = logits

    def accept(
        self, token: int, logprob: float | None = None, top: tuple[tuple[int, float], ...] | None = None
    ) -> Sample:
        """Count a chosen token for the penalties."""
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
        n = self._top_k or _FIRST_N
        mass: float | None = None
        while True:
            # Every filter keeps the largest logits. Top-k gives their number. Without it, take more and more of the
            # largest ones until they include all that are kept, or the drawn token.
            values, ids = top_logits(row, n)
            logits = np.subtract(values, values[0], dtype=np.float64)
            cumulative = np.exp(logits).cumsum()
            is_complete = self._top_k > 0 or values.size < n or n >= row.size
            if self._top_p < 1 and mass is None:
                mass = float(cumulative[-1]) if is_complete else exp_sum(row, values[0], 1.0)
            kept = self._num_kept(logits, cumulative, mass or 0.0)
            if self._sharpness != 1:
                logits = logits[:kept] * self._sharpness
                cumulative = np.exp(logits, out=logits).cumsum()
            total = float(cumulative[kept - 1])
            if is_complete or kept < values.size:
                target = draw * total
                break
            if not self._filters:
                mass = mass or exp_sum(row, values[0], self._sharpness)
                target = draw * mass
                if target < total:
                    break
            n *= _GROWTH
        # Rounding may move the target to the very end, behind tokens with probability 0.
        target = min(target, math.nextafter(total, 0.0))
        return int(ids[cumulative.searchsorted(target, side="right")])

    def _num_kept(self, logits: NDArray[np.float64], cumulative: NDArray[np.float64], mass: float) -> int:
        """Returns how many of the most likely tokens the filters keep; at least one.

        Args:
            logits: the largest logits, falling, shifted so that the first is 0.
            cumulative: running sums of their exponentials.
            mass: sum of the exponentials of all logits, the base of top-p.
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
    """Choose a token for each row. If a row raises an exception, that is its result; the other rows go on.

    Args:
        logits: shape (len(samplers), n_vocab); bans, bias and penalties are written into it.
        samplers: one for each row.
        constraints: a constraint or None for each row; None if no row has one.
    """
    constraints = constraints or [None] * len(samplers)
    if all(sampler.is_plain_greedy for sampler in samplers) and not any(constraints):
        return _sample_greedily(logits, samplers)
    results: list[Sample | Exception] = []
    for row, sampler, constraint in zip(logits, samplers, constraints, strict=True):
        try:
            results.append(sampler.sample(row, constraint))
        except Exception as error:
            results.append(error)
    return results


def _sample_greedily(logits: _Floats, samplers: Sequence[Sampler]) -> list[Sample | Exception]:
    """Choose the largest logit of each row, all rows in one pass.

    Right after a decode numpy's code is in no CPU cache, and each numpy function costs 10 to 50 µs whatever it does. So
    this calls as few as possible.
    """
    for index, sampler in enumerate(samplers):
        if sampler.adjusts:
            sampler.adjust(logits[index])
    results: list[Sample | Exception] = []
    for index, token in enumerate(logits.argmax(axis=1).tolist()):
        peak = logits.item(index, token)
        results.append(samplers[index].accept(token) if math.isfinite(peak) else unusable(peak))
    return results
