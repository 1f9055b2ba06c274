"""`Runner`: the interface between the engine and a model. `LlamaRunner` computes; `ScriptedRunner` emits a script."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from headrace.engine.constraint import Constraint
from headrace.engine.kv.tree import KVBackend
from headrace.engine.speculation.drafting import Drafter
from headrace.engine.tuning.tuner import Tunable
from headrace.values.events import Sample
from headrace.values.request import Request

__all__ = ["InterruptedStepError", "NoRoomError", "Runner", "Slice", "StepOutput", "verified"]


class NoRoomError(Exception):
    """The KV memory has no room for this step. Nothing has changed."""


class InterruptedStepError(Exception):
    """`interrupt` stopped the step. The caller removes the KV of the step's tokens."""


class Slice(NamedTuple):
    """Consecutive tokens of one sequence that a step computes.

    Attributes:
        row: llama.cpp's sequence id.
        start: position of the first token.
        tokens: the tokens to compute.
        sampler: samples from the last token's logits; None if the prompt goes on in a later step.
        constraint: restricts the sample; None for no restriction.
        drafts: guessed next tokens, to be computed and verified. They require a sampler and no constraint.
    """

    row: int
    start: int
    tokens: Sequence[int]
    sampler: Any
    constraint: Constraint | None = None
    drafts: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class StepOutput:
    """The output of a step.

    Attributes:
        samples: one per slice with a sampler, in order; an exception if sampling failed for that slice alone. A slice
            with drafts has one more sample for each draft that was sampled: see `verified`.
        decode_seconds: time of the decode, without sampling.
        sample_seconds: time of sampling.
    """

    samples: Sequence[Sample | Exception]
    decode_seconds: float
    sample_seconds: float = 0.0


def verified(drafts: Sequence[int], samples: Iterator[Sample | Exception]) -> list[Sample | Exception]:
    """Returns the samples of a slice with drafts: one, and one more for each leading draft that was sampled.

    Args:
        drafts: the guessed tokens.
        samples: the samples after the slice's last token and after each draft; only as many as needed are taken.
    """
    taken = [next(samples)]
    for draft in drafts:
        last = taken[-1]
        if isinstance(last, Exception) or last.token != draft:
            break
        taken.append(next(samples))
    return taken


class Runner(KVBackend, Tunable, Protocol):
    """A model as the engine uses it, with what `KVBackend` and `Tunable` have.

    Only the engine thread calls `run` and the operations on sequences.

    Attributes:
        num_cells: number of KV cells: the most tokens of all sequences together.
        max_length: the most tokens of one sequence.
        num_rows: number of sequence ids.
        max_outputs: the most samples and drafts in one step.
        eog_tokens: tokens that end a generation.
        can_drop_partial: whether the end of a sequence can be removed; known after `warm_up`.
        drafter: the draft model, or None.
        kv_format: names the format of saved KV; KV saved in another format cannot be loaded.
        max_saved: the most tokens whose KV is saved at once.
    """

    num_cells: int
    max_length: int
    num_rows: int
    max_outputs: int
    eog_tokens: frozenset[int]
    can_drop_partial: bool
    drafter: Drafter | None
    kv_format: str
    max_saved: int

    def make_sampler(self, request: Request) -> Any:
        """Returns the sampler for a request. Called on the caller's thread; raises InvalidRequestError."""
        ...

    def piece(self, token: int) -> bytes:
        """Returns the bytes of a token. Any thread may call this."""
        ...

    def warm_up(self) -> None:
        """Prepare for the first step, on the engine thread."""
        ...

    def run(self, slices: Sequence[Slice], padding: int = 0) -> StepOutput:
        """Compute a step and sample.

        Args:
            slices: the tokens to compute.
            padding: unused rows of logits to compute in addition; there is room for as many tokens.

        Raises:
            NoRoomError: the KV memory is full; nothing has changed.
            InterruptedStepError: `interrupt` was called meanwhile.
            Exception: the step failed.
        """
        ...

    def interrupt(self) -> None:
        """Make the running step fail soon, if the backend can. Any thread may call this, at any time."""
        ...

    def close(self) -> None: ...
