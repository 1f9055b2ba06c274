"""`Runner`: what the engine needs of a model. `llama_runner.py` computes; `scripted.py` emits given tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from headrace.engine.constraint import Constraint
from headrace.engine.speculation.drafting import Drafter
from headrace.values.events import Sample
from headrace.values.request import Request

__all__ = ["InterruptedStepError", "NoRoomError", "Runner", "Slice", "StepOutput", "verified"]


class NoRoomError(Exception):
    """The model's memory has no place for this step; nothing was changed."""


class InterruptedStepError(Exception):
    """`interrupt` was called; what the step began has to be removed."""


class Slice(NamedTuple):
    """Consecutive tokens of one sequence, for one step.

    Attributes:
        row: llama.cpp's sequence id.
        start: position of the first token.
        tokens: what to compute.
        sampler: what samples from the last token's logits; None where the prompt goes on in a later step.
        constraint: what restricts the sample; None where anything goes.
        drafts: what may follow the tokens: computed with them, to be verified. There must be a sampler, and no
            constraint.
    """

    row: int
    start: int
    tokens: Sequence[int]
    sampler: Any
    constraint: Constraint | None = None
    drafts: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What a step gave.

    Attributes:
        samples: one per slice with a sampler, in order; an exception where sampling failed for that one alone. A slice
            with drafts gives one more behind each sample that is the draft in its place: see `verified`.
        decode_seconds: time in the model, without sampling.
        sample_seconds: time of choosing tokens from the model's logits.
    """

    samples: Sequence[Sample | Exception]
    decode_seconds: float
    sample_seconds: float = 0.0


def verified(drafts: Sequence[int], samples: Iterator[Sample | Exception]) -> list[Sample | Exception]:
    """The samples of a slice with drafts: one, and another behind each that is the draft in its place.

    Args:
        drafts: what may follow the slice's tokens.
        samples: what to take from, no more than is needed.
    """
    taken = [next(samples)]
    for draft in drafts:
        last = taken[-1]
        if isinstance(last, Exception) or last.token != draft:
            break
        taken.append(next(samples))
    return taken


class Runner(Protocol):
    """A model as the engine sees it. `run` and the sequence operations are only called by the engine thread.

    Attributes:
        num_cells: KV budget, in tokens.
        max_length: longest sequence, in tokens.
        num_rows: sequence ids.
        max_batch: tokens in one step at most.
        max_outputs: samples and drafts in one step at most.
        eog_tokens: tokens that end a generation.
        can_drop_partial: whether part of a sequence can be removed from the memory; known after `warm_up`.
        thread_counts: numbers of threads that a step can be computed with, rising; it begins with the last.
        can_measure: whether `measure` tells what steps cost.
        drafter: a smaller model that guesses; None where there is none.
        kv_format: in what form it saves KV: what was saved in another one cannot be loaded.
        most_saved: tokens whose KV is saved at once at most.
    """

    num_cells: int
    max_length: int
    num_rows: int
    max_batch: int
    max_outputs: int
    eog_tokens: frozenset[int]
    can_drop_partial: bool
    thread_counts: tuple[int, ...]
    can_measure: bool
    drafter: Drafter | None
    kv_format: str
    most_saved: int

    def make_sampler(self, request: Request) -> Any:
        """What samples for a request; called by the caller's thread, raises InvalidRequestError."""
        ...

    def piece(self, token: int) -> bytes:
        """The text of a token."""
        ...

    def warm_up(self) -> None:
        """Whatever has to be done before the first step, on the engine thread."""
        ...

    def run(self, slices: Sequence[Slice], padding: int = 0) -> StepOutput:
        """Compute and sample.

        Args:
            slices: what to compute.
            padding: rows of logits of no use to compute besides; there is room for as many tokens.

        Raises:
            NoRoomError: the memory is full; nothing was changed.
            InterruptedStepError: `interrupt` was called meanwhile.
            Exception: the step failed.
        """
        ...

    def interrupt(self) -> None:
        """Make a step that is running fail soon, where that can be done. Any thread may call this, at any time."""
        ...

    def set_threads(self, count: int) -> None:
        """Compute the steps that follow with so many threads."""
        ...

    def measure(self, num_decodes: int, num_prefill: int) -> float:
        """Seconds that a step of so many decodes and prefill tokens takes, on an empty memory, which stays empty."""
        ...

    def copy_sequence(self, source: int, target: int, start: int, end: int) -> None: ...

    def remove_sequence(self, sequence: int, start: int, end: int = -1) -> bool: ...

    def can_reuse(self, sequence: int, length: int) -> bool: ...

    def save_sequence(self, sequence: int, spare: int, start: int, end: int) -> bytearray | None: ...

    def load_sequence(self, sequence: int, spare: int, start: int, end: int, data: bytearray) -> bool: ...

    def close(self) -> None: ...
