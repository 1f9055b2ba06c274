"""`StepPart`: what one sequence computes in a step; `step_shape` counts the decodes and prefill tokens of all parts."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from typing import NamedTuple

from headrace.engine.kv.radix import Row
from headrace.engine.runner import Slice
from headrace.engine.sequence import Sequence

__all__ = ["StepPart", "step_shape"]


class StepPart(NamedTuple):
    """The next tokens of one sequence that a step computes.

    Attributes:
        sequence: the sequence.
        row: its row in the KV cache.
        num_tokens: how many of its tokens to compute.
        samples: whether to sample behind the last of them.
        drafts: guessed tokens to verify behind them.
        is_repeatable: whether a seeded stream that runs alone would compute the same tokens in the same way, so that
            other such streams may reuse their KV.
    """

    sequence: Sequence
    row: Row
    num_tokens: int
    samples: bool
    drafts: SequenceOf[int] = ()
    is_repeatable: bool = False

    def slice(self) -> Slice:
        """Returns this part in the form that a runner takes."""
        sequence, tokens = self.sequence, self.sequence.uncomputed(self.num_tokens)
        sampler = sequence.sampler if self.samples else None
        return Slice(self.row.id, self.row.length, tokens, sampler, sequence.constraint, self.drafts)


def step_shape(parts: SequenceOf[StepPart]) -> tuple[int, int]:
    """Returns the number of decoded tokens of a step, drafts included, and of prefill tokens."""
    num_decodes = num_prefill = 0
    for part in parts:
        if part.num_tokens == 1 and part.samples:
            num_decodes += 1 + len(part.drafts)
        else:
            num_prefill += part.num_tokens
    return num_decodes, num_prefill
