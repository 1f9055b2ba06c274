"""`DraftModel`: a smaller model with the same vocabulary that guesses the tokens of the larger one."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.engine.kv.radix import common_prefix
from headrace.values.errors import InvalidRequestError

if TYPE_CHECKING:
    from headrace.llama.context import LlamaContext
    from headrace.llama.model import LlamaModel

__all__ = ["DraftModel"]

_WEIGHT = 0.1  # of a new sample in the mean of step times
_LEAST_READ = 16  # prefill tokens in a step at least
# A new sequence leaves an eighth of the context to the sequences whose tokens are in it already.
_RESERVE = 8


@dataclass(slots=True)
class _Text:
    """The tokens of a sequence in the draft model's context; all after the first `num_sure` are guesses."""

    row: int
    tokens: list[int] = field(default_factory=list[int])
    num_sure: int = 0


class DraftModel:
    """A `Drafter` that guesses greedily, with its own context: one row per text. Used by the engine thread only.

    A text is the tokens of one sequence, and is identified by a key.

    Args:
        model: the draft model; closed by `close`.
        context: a context on it; closed by `close`.
    """

    def __init__(self, model: LlamaModel, context: LlamaContext) -> None:
        from headrace.llama.context import DecodeError, NoKVSlotError

        self._failures = (NoKVSlotError, DecodeError)
        self._model = model
        self._context = context
        self._texts: dict[Hashable, _Text] = {}  # least recently used first
        self._free = list(range(context.n_seq_max))
        self._seconds: dict[int, float] = {}
        self.seconds_per_read_token = 0.0

    @classmethod
    def load(
        cls,
        path: Path,
        model: LlamaModel,
        context: LlamaContext,
        *,
        n_gpu_layers: int,
        num_rows: int,
        n_threads: int,
    ) -> DraftModel:
        """Load a draft model for a larger model, with a context for as many tokens.

        Args:
            path: the draft model's file.
            model: the larger model.
            context: the larger model's context.
            n_gpu_layers: number of layers to put on a GPU.
            num_rows: the most texts that are followed at once.
            n_threads: compute threads.

        Raises:
            InvalidRequestError: the draft model has another vocabulary.
            ModelLoadError: the draft model cannot be loaded.
        """
        draft = type(model).load(path, n_gpu_layers=n_gpu_layers)
        try:
            _check_vocabulary(model, draft)
            size, batch = context.n_ctx, context.n_batch
            own = type(context)(draft, n_ctx=size, n_batch=batch, n_seq_max=num_rows, n_threads=n_threads)
            return cls(draft, own)
        except BaseException:
            draft.close()
            raise

    def warm_up(self) -> None:
        """Check that wrong guesses can be removed, and measure the time of a token.

        Raises:
            InvalidRequestError: the model cannot drop part of a sequence.
        """
        if not self._context.probe():
            raise InvalidRequestError(
                "draft", self._model.path, "a model that can drop the end of a sequence; recurrent models cannot"
            )
        before = time.perf_counter()
        self.guess([(self, [self._model.bos_token or 0])], 1)
        self._seconds[1] = self.seconds_per_read_token = time.perf_counter() - before
        self.forget(self)

    def seconds(self, num_texts: int) -> float:
        """Returns the seconds to guess one token for each of `num_texts` texts; extrapolated in proportion."""
        known = self._seconds.get(num_texts)
        if known is not None:
            return known
        nearest = min(self._seconds, key=lambda size: abs(size - num_texts))
        return self._seconds[nearest] * max(1.0, num_texts / nearest)

    def behind(self, key: Hashable, tokens: list[int]) -> int:
        """Returns an upper bound of the tokens of a text that were not read yet."""
        text = self._texts.get(key)
        return len(tokens) - (text.num_sure if text is not None else 0)

    def read(self, key: Hashable, tokens: list[int], seconds: float) -> None:
        """Prefill more tokens of a text, for about this many seconds. The last token is left to `guess`."""
        text = self._text(key, tokens)
        count = int(seconds / self.seconds_per_read_token)
        start = len(text.tokens)
        end = min(start + max(count, _LEAST_READ), start + self._context.n_batch, len(tokens) - 1)
        if end <= start or not self._has_room(len(tokens) - start + self._context.n_ctx // _RESERVE):
            return
        before = time.perf_counter()
        if self._decode([(text, tokens[start:end])], has_outputs=False) is None:
            return
        text.num_sure = end
        sample = (time.perf_counter() - before) / (end - start)
        self.seconds_per_read_token += (sample - self.seconds_per_read_token) * 0.5

    def guess(self, texts: Sequence[tuple[Hashable, list[int]]], count: int) -> list[list[int]]:
        """Returns `count` guessed tokens for each text, or none if there is no room. Unread tokens are read first."""
        for key, _ in texts:
            if key in self._texts:  # mark all of them as used, so that a new text takes the row of none of them
                self._texts[key] = self._texts.pop(key)
        held = [self._text(key, tokens) for key, tokens in texts]
        guesses: list[list[int]] = [[] for _ in texts]
        if any(len(tokens) + count > self._model.n_ctx_train for _, tokens in texts):
            return guesses
        before = time.perf_counter()
        new = [tokens[len(text.tokens) :] for text, (_, tokens) in zip(held, texts, strict=True)]
        num_new = sum(map(len, new))
        if num_new > self._context.n_batch or not self._has_room(num_new + (count - 1) * len(texts)):
            return guesses
        for _ in range(count):
            chosen = self._decode(list(zip(held, new, strict=True)), has_outputs=True)
            if chosen is None:
                return [[] for _ in texts]
            for guess, token in zip(guesses, chosen, strict=True):
                guess.append(token)
            new = [[token] for token in chosen]
        for text, (_, tokens) in zip(held, texts, strict=True):
            text.num_sure = len(tokens)
        sample = (time.perf_counter() - before) / count
        known = self._seconds.get(len(texts), sample)
        self._seconds[len(texts)] = known + (sample - known) * _WEIGHT
        return guesses

    def forget(self, key: Hashable) -> None:
        """Stop following a text, and free its row."""
        text = self._texts.pop(key, None)
        if text is not None:
            self._context.remove_sequence(text.row, 0)
            self._free.append(text.row)

    def check_integrity(self) -> None:
        """Raise AssertionError if a row is lost, or has another length than recorded."""
        rows = [text.row for text in self._texts.values()]
        assert sorted(rows + self._free) == list(range(self._context.n_seq_max)), "a row was lost"
        for text in self._texts.values():
            assert self._context.position_max(text.row) == len(text.tokens) - 1, "a row has a wrong length"

    def close(self) -> None:
        """Free the context and the draft model."""
        self._context.close()
        self._model.close()

    def _text(self, key: Hashable, tokens: list[int]) -> _Text:
        """Returns the state of a text in the context, cut to its common prefix with `tokens`."""
        text = self._texts.pop(key, None)
        if text is None:
            if not self._free:
                self.forget(next(iter(self._texts)))
            text = _Text(self._free.pop())
        self._texts[key] = text
        sure = text.num_sure
        common = sure + common_prefix(text.tokens, tokens, len(tokens) - 1 - sure, sure, sure)
        common = min(common, len(tokens) - 1)
        if common < len(text.tokens):
            self._context.remove_sequence(text.row, common)
            del text.tokens[common:]
        text.num_sure = common
        return text

    def _has_room(self, count: int) -> bool:
        """Returns whether `count` more tokens fit. No text is evicted for another: it would have to be read again."""
        return sum(len(text.tokens) for text in self._texts.values()) + count <= self._context.n_ctx

    def _decode(self, parts: list[tuple[_Text, list[int]]], *, has_outputs: bool) -> list[int] | None:
        """Decode new tokens of some texts; returns the likeliest next token of each, or None if there is no room."""
        context, at = self._context, 0
        for text, new in parts:
            end, start = at + len(new), len(text.tokens)
            context.tokens[at:end] = new
            context.positions[at:end] = range(start, start + len(new))
            context.sequences[at:end] = text.row
            context.outputs[at:end] = 0
            context.outputs[end - 1] = has_outputs
            at = end
        try:
            logits = context.decode(at, len(parts) if has_outputs else 0)
        except self._failures:
            for key in list(self._texts):
                self.forget(key)
            return None
        for text, new in parts:
            text.tokens += new
        return logits.argmax(axis=1).tolist() if has_outputs else []


def _check_vocabulary(model: LlamaModel, draft: LlamaModel) -> None:
    """Raise InvalidRequestError if the draft model has another vocabulary."""
    if draft.n_vocab != model.n_vocab:
        allowed = f"a model with the same vocabulary: {model.n_vocab} tokens, not {draft.n_vocab}"
        raise InvalidRequestError("draft", str(draft.path), allowed)
    for token in range(model.n_vocab):
        if draft.piece(token) != model.piece(token):
            allowed = (
                f"a model with the same vocabulary; token {token} is {model.piece(token)!r}, not {draft.piece(token)!r}"
            )
            raise InvalidRequestError("draft", str(draft.path), allowed)
