"""`LlamaRunner`: runs steps with llama.cpp: fills the batch, decodes it, and samples from the rows of logits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any

from headrace.engine.constraint import Constraint
from headrace.engine.runner import InterruptedStepError, NoRoomError, Slice, StepOutput, verified
from headrace.engine.speculation.drafting import Drafter
from headrace.values.events import Sample
from headrace.values.request import Request

if TYPE_CHECKING:
    from headrace.llama.context import LlamaContext
    from headrace.llama.model import LlamaModel

__all__ = ["LlamaRunner"]


class LlamaRunner:
    """A `Runner` on llama.cpp. It owns the context and the drafter, but not the model.

    Args:
        model: the loaded model; its owner closes it.
        context: a context on the model.
        num_cells: the number of KV cells to use, at most the context's.
        thread_counts: the thread counts to choose from, rising.
        drafter: the draft model, or None.
    """

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
        self._spare = context.n_seq_max - 1  # the sequence id for padding, and for saving and loading KV
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
        self.max_saved = context.max_saved
        self._model = model
        self._context = context
        self._no_slot_error = NoKVSlotError
        self._interrupted_error = InterruptedDecodeError
        self._sampler_type = Sampler
        self._sample_rows = sample_rows

    def make_sampler(self, request: Request) -> Any:
        """Returns a sampler with the request's settings and its own random state."""
        model = self._model
        return self._sampler_type(
            request.config, n_vocab=model.n_vocab, eog_tokens=model.eog_tokens, prompt=request.prompt
        )

    def warm_up(self) -> None:
        """Run the first decodes, which also find out whether the end of a sequence can be removed.

        Only the engine thread may do this. OpenMP keeps a team of compute threads for each thread that ever used it; if
        all teams exceed the cores, they sleep at barriers instead of spinning, and steps of a small model take half as
        long again.
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
        constraints: list[Constraint | None] = []
        num_drafts = 0
        for row, start, part, sampler, constraint, drafts in slices:
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
                constraints.append(constraint)
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
        has_extra_tokens = False
        if padding > 0:
            has_extra_tokens = self._pad(at, slices[-1], padding)
        before = time.perf_counter()
        try:
            logits = context.decode(at + padding * has_extra_tokens, num_outputs + padding)
        except self._no_slot_error as error:
            raise NoRoomError(str(error)) from error
        except self._interrupted_error as error:
            raise InterruptedStepError from error
        finally:
            if has_extra_tokens:
                context.remove_sequence(self._spare, 0)
        decoded = time.perf_counter()
        if num_drafts:
            samples = self._verify(logits, [part for part in slices if part.sampler is not None])
        else:
            samples = self._sample_rows(logits[:num_outputs], samplers, constraints) if samplers else ()
        return StepOutput(samples, decoded - before, time.perf_counter() - decoded)

    def set_threads(self, count: int) -> None:
        """Set the number of compute threads for later steps."""
        self._context.set_threads(count, count)

    def measure(self, num_decodes: int, num_prefill: int) -> float:
        """Returns the seconds that llama.cpp takes for a step of this shape."""
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
        """Request `count` unused rows of logits; returns whether tokens were added to the batch for them."""
        context = self._context
        if last.sampler is None and len(last.tokens) >= count:
            context.outputs[at - count : at] = 1  # prefill tokens, which have no output of their own
            return False
        end = at + count
        context.tokens[at:end] = self._model.bos_token or 0
        context.positions[at:end] = range(count)
        context.sequences[at:end] = self._spare
        context.outputs[at:end] = 1
        return True

    def _verify(self, logits: Any, slices: Sequence[Slice]) -> list[Sample | Exception]:
        """Sample row by row in a step with drafts: the penalties of a row count the drafts before it."""
        samples: list[Sample | Exception] = []
        at = 0
        for part in slices:
            samples += verified(part.drafts, map(self._sample_row, logits[at:], repeat(part)))
            at += 1 + len(part.drafts)
        return samples

    def _sample_row(self, row: Any, part: Slice) -> Sample | Exception:
        return self._sample_rows(row[None], [part.sampler], [part.constraint])[0]

    def close(self) -> None:
        """Free the context and the draft model."""
        self._context.close()
        if self.drafter is not None:
            self.drafter.close()
