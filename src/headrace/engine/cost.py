"""What a step costs, learnt from the steps seen, and how many prefill tokens fit the step-time target."""

from __future__ import annotations

__all__ = ["CostModel"]

_WEIGHT = 0.2
_SMALLEST_CHUNK = 8
_ALONE = 2.0
# Before anything was measured: slow enough that the first chunk of a big model does not freeze everybody.
_FIRST_GUESS = 0.002


class CostModel:
    """Predicts step times as: a step of n decoding sequences, plus so much per prefill token.

    Args:
        target: what a step should take at most, in seconds.
        largest_chunk: prefill tokens in a step at most.
    """

    def __init__(self, target: float, largest_chunk: int) -> None:
        self.target = target
        self._largest_chunk = largest_chunk
        self._per_prefill_token: float | None = None
        self._decode: dict[int, float] = {}

    def decode_time(self, num_decodes: int) -> float:
        """Seconds that a step of so many decoding sequences takes, from the nearest size seen."""
        if num_decodes == 0 or not self._decode:
            return 0.0
        known = self._decode.get(num_decodes)
        if known is not None:
            return known
        nearest = min(self._decode, key=lambda size: abs(size - num_decodes))
        # A bigger batch costs at most in proportion, a smaller one at most as much.
        return self._decode[nearest] * max(1.0, num_decodes / nearest)

    def _base(self, num_decodes: int) -> float:
        """What a step takes before its first prefill token: at least the weights are read once, as for one decode.

        Were that counted as the tokens' cost, a slow step would make the next chunk smaller, its tokens dearer, and
        the chunk after that smaller still.
        """
        return self.decode_time(max(1, num_decodes))

    def chunk(self, num_decodes: int) -> int:
        """Prefill tokens that fit into a step beside so many decoding sequences."""
        per_token = self._per_prefill_token or _FIRST_GUESS
        # Where nobody's next token waits for the step, a longer one reads the prompt with less overhead.
        target = self.target if num_decodes else self.target * _ALONE
        fitting = int((target - self._base(num_decodes)) / per_token)
        return min(max(fitting, _SMALLEST_CHUNK), self._largest_chunk)

    def learn(self, num_decodes: int, num_prefill: int, seconds: float) -> None:
        """Take in a step that was run."""
        if num_prefill == 0:
            self._decode[num_decodes] = _mean(self._decode.get(num_decodes), seconds)
        elif num_prefill >= _SMALLEST_CHUNK:
            # Below that the sample is mostly the cost of having a step at all.
            sample = max(seconds - self._base(num_decodes), 0.1 * seconds) / num_prefill
            self._per_prefill_token = _mean(self._per_prefill_token, sample)


def _mean(known: float | None, sample: float) -> float:
    """An exponential mean in which one step that the machine held up counts at most fourfold."""
    if known is None:
        return sample
    return known + _WEIGHT * (min(sample, 4 * known) - known)
