"""What runs a step: the protocol that the engine needs, and the runner that does it with llama.cpp."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from headrace.engine.guide import Guide
from headrace.engine.speculation.drafting import Drafter
from headrace.values.events import Sample
from headrace.values.request import Request

if TYPE_CHECKING:
    from headrace.llama.context import LlamaContext
    from headrace.llama.model import LlamaModel

__all__ = ["InterruptedStepError", "LlamaRunner", "NoRoomError", "Runner", "Slice", "StepOutput", "verified"]


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
        guide: what restricts the sample; None where anything goes.
        drafts: what may follow the tokens: computed with them, to be verified. There must be a sampler, and no guide.
    """

    row: int
    start: int
    tokens: Sequence[int]
    sampler: Any
    guide: Guide | None = None
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


class LlamaRunner:
    """Runs steps with llama.cpp, and owns the context; the model belongs to whoever loaded it."""

    can_measure = True

    def __init__(
        self,
        model: LlamaModel,
        context: LlamaContext,
        *,
        num_cells: int,
        thread_counts: tuple[int, ...],
        drafter: Drafter | None = None,
    ) -> None:
        from headrace.llama.context import InterruptedDecodeError, NoKVSlotError
        from headrace.llama.library import library_version
        from headrace.llama.sampler import Sampler, sample_rows

        self.num_cells = num_cells
        self.max_length = min(num_cells, model.n_ctx_train or num_cells)
        self.num_rows = context.n_seq_max - 1
        self._spare = context.n_seq_max - 1  # a sequence for what is only computed
        self.max_batch = context.n_batch
        self.max_outputs = context.n_outputs_max
        self.eog_tokens = model.eog_tokens
        self.can_drop_partial = False
        self.thread_counts = thread_counts
        self.drafter: Drafter | None = drafter
        self.piece = model.piece
        self.copy_sequence = context.copy_sequence
        self.remove_sequence = context.remove_sequence
        self.can_reuse = context.can_reuse
        self.interrupt = context.interrupt
        self.save_sequence = context.save_state
        self.load_sequence = context.load_state
        self.kv_format = f"{context.kv_type} of llama.cpp {library_version()}"
        self.most_saved = context.most_saved
        self._model = model
        self._context = context
        self._no_slot_error = NoKVSlotError
        self._interrupted_error = InterruptedDecodeError
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
        if self.drafter is not None:
            self.drafter.warm_up()

    def run(self, slices: Sequence[Slice], padding: int = 0) -> StepOutput:
        """Fill the batch, decode it, sample from its rows."""
        context = self._context
        tokens, positions, rows, outputs = context.tokens, context.positions, context.sequences, context.outputs
        at = 0
        samplers: list[Any] = []
        guides: list[Guide | None] = []
        num_drafts = 0
        for row, start, part, sampler, guide, drafts in slices:
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
            if drafts:
                end = at + len(drafts)
                tokens[at:end] = drafts
                positions[at:end] = range(start + count, start + count + len(drafts))
                rows[at:end] = row
                outputs[at:end] = 1
                num_drafts += len(drafts)
                at = end
        num_outputs = len(samplers) + num_drafts
        padding = min(padding, self.max_outputs - num_outputs, self.max_batch - at)
        is_apart = False
        if padding > 0:
            is_apart = self._pad(at, slices[-1], padding)
        before = time.perf_counter()
        try:
            logits = context.decode(at + padding * is_apart, num_outputs + padding)
        except self._no_slot_error as error:
            raise NoRoomError(str(error)) from error
        except self._interrupted_error as error:
            raise InterruptedStepError from error
        finally:
            if is_apart:
                context.remove_sequence(self._spare, 0)
        decoded = time.perf_counter()
        if num_drafts:
            samples = self._verify(logits, [part for part in slices if part.sampler is not None])
        else:
            samples = self._sample_rows(logits[:num_outputs], samplers, guides) if samplers else ()
        return StepOutput(samples, decoded - before, time.perf_counter() - decoded)

    def set_threads(self, count: int) -> None:
        """Compute the steps that follow with so many threads."""
        self._context.set_threads(count, count)

    def measure(self, num_decodes: int, num_prefill: int) -> float:
        """Seconds that llama.cpp takes for such a step."""
        context, count = self._context, num_decodes + num_prefill
        context.tokens[:count] = self._model.bos_token or 0
        context.positions[:num_decodes] = 0
        context.positions[num_decodes:count] = range(num_prefill)
        context.sequences[:num_decodes] = range(num_decodes)
        context.sequences[num_decodes:count] = num_decodes
        context.outputs[:num_decodes] = 1
        context.outputs[num_decodes:count] = 0
        before = time.perf_counter()
        try:
            context.decode(count, num_decodes)
            return time.perf_counter() - before
        finally:
            context.clear()

    def _pad(self, at: int, last: Slice, count: int) -> bool:
        """Ask for so many rows behind those that are needed; True where tokens were added to the batch for them."""
        context = self._context
        if last.sampler is None and len(last.tokens) >= count:
            context.outputs[at - count : at] = 1  # in the midst of a prompt there are rows enough
            return False
        end = at + count
        context.tokens[at:end] = self._model.bos_token or 0
        context.positions[at:end] = range(count)
        context.sequences[at:end] = self._spare
        context.outputs[at:end] = 1
        return True

    def _verify(self, logits: Any, slices: Sequence[Slice]) -> list[Sample | Exception]:
        """Sample where there are drafts, row after row, since a draft counts for the penalties of what follows it."""
        samples: list[Sample | Exception] = []
        at = 0
        for part in slices:
            samples += verified(part.drafts, map(self._sample_row, logits[at:], repeat(part)))
            at += 1 + len(part.drafts)
        return samples

    def _sample_row(self, row: Any, part: Slice) -> Sample | Exception:
        return self._sample_rows(row[None], [part.sampler], [part.guide])[0]

    def close(self) -> None:
        """Free the context, and the smaller model."""
        self._context.close()
        if self.drafter is not None:
            self.drafter.close()
