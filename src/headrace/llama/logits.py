"""Operations on one row of logits: `top_logits`, `top_token`, `log_probabilities`, and the sum of exponentials."""

from __future__ import annotations

import math
import threading
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["exp_sum", "log_probabilities", "top_logits", "top_token", "unusable"]

_Floats = NDArray[np.float32]
_Ids = NDArray[np.intp]

_LOWEST = float(np.finfo(np.float32).min)


def top_logits(row: _Floats, n: int) -> tuple[_Floats, _Ids]:
    """Returns the n largest logits, falling, and their ids. Of equal logits the lowest ids win; -inf is left out.

    The row is cut into blocks, and the blocks into twice as many groups as n. The n-th largest maximum of a group is a
    lower bound of the n-th largest logit, since n logits reach it. So only blocks whose maximum reaches the bound are
    looked at again, and only their logits that reach it are sorted.

    Raises:
        ValueError: the logits are not numbers, or all are -inf.
    """
    n = min(n, row.size)
    height, width, groups, steps = _layout(row.size, n)
    covered = height * width
    maxima = _block_maxima(row[:covered], width)
    rest = row[covered:]
    peak = float(maxima[maxima.argmax()])
    if rest.size:
        peak = float(np.maximum(peak, rest.max()))  # NaN if one of them is
    if not math.isfinite(peak):
        raise unusable(peak)
    # Blocks beyond the last full row of groups are left out, which can only lower the bound.
    tops = np.maximum.reduce(maxima[: width // groups * groups].reshape(-1, groups), axis=0)
    tops.partition(groups - n)
    bound = max(float(tops[groups - n]), _LOWEST)
    ids = ((maxima >= bound).nonzero()[0][:, None] + steps).ravel()
    ids = ids[(row[ids] >= bound).nonzero()[0]]
    ids.sort()
    if rest.size:
        ids = np.concatenate((ids, (rest >= bound).nonzero()[0] + covered))
    values = row[ids]
    order = (-values).argsort(kind="stable")[:n]  # ids rise, so of equal logits the lowest id comes first
    return values[order], ids[order]


def top_token(row: _Floats) -> int:
    """Returns the id of the largest logit, the lowest of equal ones.

    Raises:
        ValueError: the logits are not numbers, or all are -inf.
    """
    token = int(row.argmax())
    if not math.isfinite(row[token]):
        raise unusable(float(row[token]))
    return token


def exp_sum(row: _Floats, peak: np.float32, sharpness: float) -> float:
    """Returns the sum of exp(sharpness * (logit - peak)), exact except for single precision's rounding."""
    with np.errstate(over="ignore"):  # overflow to -inf is right for a very low temperature
        shifted = np.subtract(row, peak, out=_scratch.of_size(row.size))
        if sharpness != 1:
            shifted *= sharpness
        return float(np.exp(shifted, out=shifted).sum())


def log_probabilities(row: _Floats, token: int, n: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    """Returns the log probability of a token, and the n most likely tokens with theirs."""
    # Log-softmax, https://en.wikipedia.org/wiki/LogSumExp
    peak = row.max()
    log_sum = float(peak) + math.log(exp_sum(row, peak, 1.0))
    top: tuple[tuple[int, float], ...] = ()
    if n:
        values, ids = top_logits(row, n)
        top = tuple(zip(ids.tolist(), (values.astype(np.float64) - log_sum).tolist(), strict=True))
    return float(row[token]) - log_sum, top


def unusable(peak: float) -> ValueError:
    """Returns the error for a row whose largest logit is not a finite number."""
    if peak == -math.inf:
        return ValueError("every token is banned: all logits are -inf")
    return ValueError(f"the model's logits are not finite numbers: the largest is {peak}")


class _Layout(NamedTuple):
    """How `top_logits` cuts a row into blocks, and the blocks into groups.

    The row is laid out as a table of `height` lines, and each column is a block.

    Attributes:
        height: lines of the table: the logits of a block; a power of two.
        width: columns of the table: the number of blocks.
        groups: groups of blocks, at least n.
        steps: distances from a block's first logit, whose index is the block's number, to each of its logits.
    """

    height: int
    width: int
    groups: int
    steps: _Ids


@lru_cache(maxsize=64)
def _layout(size: int, n: int) -> _Layout:
    # Larger blocks mean more logits to look at again, smaller ones more maxima. The size of most vocabularies is a
    # multiple of a power of two, so nothing is left over.
    height = max(1, min(math.isqrt(size // max(n, 32)), size // (2 * n)))
    height = 1 << (height.bit_length() - 1)
    width = size // height
    return _Layout(height, width, min(2 * n, width), np.arange(0, height * width, width))


def _block_maxima(row: _Floats, width: int) -> _Floats:
    """Returns the largest logit of each block; NaN if one of them is. The next use of the scratch overwrites it.

    It takes the maximum of the two halves of the row, then of the halves of the result: a few operations on long
    vectors. They take less time than a reduction over the lines, and much less than one over short lines.
    """
    size = row.size
    while size > width:
        size //= 2
        # From the second round on, the result overwrites the first half, element by element.
        row = np.maximum(row[:size], row[size : 2 * size], out=_scratch.of_size(size))
    return row


class _Scratch(threading.local):
    """A row to compute in, one for each thread: allocating a new one takes as long as filling it."""

    def __init__(self) -> None:
        self._row = np.empty(0, np.float32)

    def of_size(self, n: int) -> _Floats:
        if self._row.size < n:
            self._row = np.empty(n, np.float32)
        return self._row[:n]


_scratch = _Scratch()
