"""What runs a step: the protocol that the engine needs, and the runner that does it with llama.cpp."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from headrace.engine.guide import Guide
from headrace.events import Sample
from headrace.request import Request

if TYPE_CHECKING:
    from headrace.llama.context import LlamaContext
    from headrace.llama.model import LlamaModel

__all__ = ["LlamaRunner", "NoRoomError", "Runner", "Slice", "StepOutput"]


class NoRoomError(Exception):
    """The model's memory has no place for this step; nothing was changed."""


class Slice(NamedTuple):
    """Consecutive tokens of one sequence, for one step.

    Attributes:
        row: llama.cpp's sequence id.
        start: position of the first token.
        tokens: what to compute.
        sampler: what samples from the last token's logits; None where the prompt goes on in a later step.
        guide: what restricts the sample; None where anything goes.
    """

    row: int
    start: int
    tokens: Sequence[int]
    sampler: Any
    guide: Guide | None = None


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What a step gave.

    Attributes:
        samples: one per slice with a sampler, in order; an exception where sampling failed for that one alone.
        decode_seconds: time in the model, without sampling.
        sample_seconds: time of choosing tokens from the model's logits.
    """

    samples: Sequence[Sample | Exception]
    decode_seconds: float
    sample_seconds: float = 0.0


class Runner(Protocol):
    """A model as the engine sees it. `run` and the sequence operations are only called by the engine thread.

    Attributes:
        num_cells: KV budget, in tokens.
        max_length: longest sequence, in tokens.
        num_rows: sequence ids.
        max_batch: tokens in one step at most.
        eog_tokens: tokens that end a generation.
        can_drop_partial: whether part of a sequence can be removed from the memory; known after `warm_up`.
    """

    num_cells: int
    max_length: int
    num_rows: int
    max_batch: int
    eog_tokens: frozenset[int]
    can_drop_partial: bool

    def make_sampler(self, request: Request) -> Any:
        """What samples for a request; called by the caller's thread, raises InvalidRequestError."""
        ...

    def piece(self, token: int) -> bytes:
        """The text of a token."""
        ...

    def warm_up(self) -> None:
        """Whatever has to be done before the first step, on the engine thread."""
        ...

    def run(self, slices: Sequence[Slice]) -> StepOutput:
        """Compute and sample.

        Raises:
            NoRoomError: the memory is full; nothing was changed.
            Exception: the step failed.
        """
        ...

    def copy_sequence(self, source: int, target: int, start: int, end: int) -> None: ...

    def remove_sequence(self, sequence: int, start: int, end: int = -1) -> bool: ...

    def close(self) -> None: ...


class LlamaRunner:
    """Runs steps with llama.cpp, and owns the context; the model belongs to whoever loaded it."""

    def __init__(self, model: LlamaModel, context: LlamaContext, *, num_cells: int) -> None:
        from headrace.llama.context import NoKVSlotError
        from headrace.llama.sampler import Sampler, sample_rows

        self.num_cells = num_cells
        self.max_length = min(num_cells, model.n_ctx_train or num_cells)
        self.num_rows = context.n_seq_max
        self.max_batch = context.n_batch
        self.eog_tokens = model.eog_tokens
        self.can_drop_partial = False
        self.piece = model.piece
        self.copy_sequence = context.copy_sequence
        self.remove_sequence = context.remove_sequence
        self._model = model
        self._context = context
        self._no_slot_error = NoKVSlotError
        self._sampler_type = Sampler
        self._sample_rows = sample_rows

    def make_sampler(self, request: Request) -> Any:
        """A sampler with the request's settings and a random state of its own."""
        model = self._model
        return self._sampler_type(
            request.config, n_vocab=model.n_vocab, eog_tokens=model.eog_tokens, prompt=request.prompt
        )

    def warm_up(self) -> None:
        """Find out what the memory can do.

        This must not happen on any other thread: OpenMP keeps a team of compute threads for each thread that ever asked
        for one, and where its count of all of them exceeds the cores, it no longer spins at barriers but sleeps, which
        makes every step of a small model half as fast again.
        """
        self.can_drop_partial = self._context.probe()

    def run(self, slices: Sequence[Slice]) -> StepOutput:
        """Fill the batch, decode it, sample from its rows."""
        context = self._context
        tokens, positions, rows, outputs = context.tokens, context.positions, context.sequences, context.outputs
        at = 0
        samplers: list[Any] = []
        guides: list[Guide | None] = []
        for row, start, part, sampler, guide in slices:
            count = len(part)
            if count == 1:
                tokens[at], positions[at], rows[at], outputs[at] = part[0], start, row, sampler is not None
            else:
                end = at + count
                tokens[at:end] = part
                positions[at:end] = range(start, start + count)
                rows[at:end] = row
                outputs[at:end] = 0
                outputs[end - 1] = sampler is not None
            if sampler is not None:
                samplers.append(sampler)
                guides.append(guide)
            at += count
        before = time.perf_counter()
        try:
            logits = context.decode(at, len(samplers))
        except self._no_slot_error as error:
            raise NoRoomError(str(error)) from error
        decoded = time.perf_counter()
        samples = self._sample_rows(logits, samplers, guides) if samplers else ()
        return StepOutput(samples, decoded - before, time.perf_counter() - decoded)

    def close(self) -> None:
        """Free the context."""
        self._context.close()
