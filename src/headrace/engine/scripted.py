"""`ScriptedRunner`: a runner without a model that emits the tokens of a script, for tests of the engine and of apps."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from types import MappingProxyType
from typing import Any

import numpy as np

from headrace.engine.constraint import Constraint
from headrace.engine.runner import InterruptedStepError, NoRoomError, Slice, StepOutput, verified
from headrace.engine.speculation.drafting import Drafter
from headrace.values.errors import InvalidRequestError
from headrace.values.events import Sample
from headrace.values.request import Request

__all__ = ["ScriptedRunner", "ScriptedVocabulary"]

Script = Sequence[int] | Callable[[tuple[int, ...]], Sequence[int]]


@dataclass
class _ScriptedSampler:
    """A script, and the index of its next token."""

    script: Sequence[int]
    at: int = 0


@dataclass
class ScriptedRunner:
    """A `Runner` with a script in place of a model.

    It records which tokens lie in which row's cells. It raises an error if tokens are computed at a wrong position,
    behind a missing prefix, or in more cells than exist. So every test of the engine also tests the KV bookkeeping.

    Args:
        pieces: the text of each token, as bytes. Token 0 ends a generation.
        script: the tokens to sample, the same for every request, or a function that makes them from the prompt. Token 0
            follows the last one. If a constraint allows one token only, that token is sampled instead; if it does not
            allow the script's token, the stream fails.
        num_cells: number of KV cells: the most tokens of all sequences together.
        num_rows: number of sequence ids.
        max_batch: the most tokens in a step.
        max_outputs: the most samples and drafts in a step.
        can_drop_partial: False behaves like a recurrent model.
        before_step: called with the slices of each step on the engine thread; an exception from it fails the step.
        on_sample: called with a slice and its sample; an exception from it fails that sample alone.
        steps: a list to which the slices of each step are added.
        drafter: guesses tokens; None for no drafts.
        thread_counts: thread counts that the engine chooses from; a script uses none.
        threads: the thread count that the engine chose last.
        padding: unused rows of logits in the last step.
        kv_format: names the format of saved KV; KV saved in another format is refused.
        max_saved: the most tokens whose KV is saved at once.
    """

    pieces: Mapping[int, bytes]
    script: Script = ()
    num_cells: int = 4096
    num_rows: int = 32
    max_batch: int = 512
    max_outputs: int = 512
    can_drop_partial: bool = True
    before_step: Callable[[Sequence[Slice]], None] | None = None
    on_sample: Callable[[Slice, Sample], None] | None = None
    steps: list[list[Slice]] | None = None
    drafter: Drafter | None = None
    eog_tokens: frozenset[int] = frozenset({0})
    thread_counts: tuple[int, ...] = (1,)
    can_measure: bool = False
    threads: int = 0
    padding: int = 0
    kv_format: str = "scripted"
    max_saved: int = 512
    is_closed: bool = False
    _is_interrupted: bool = False
    _rows: dict[int, list[tuple[int, object]]] = field(default_factory=dict[int, "list[tuple[int, object]]"])

    @property
    def max_length(self) -> int:
        """The most tokens of one sequence."""
        return self.num_cells

    @property
    def num_used(self) -> int:
        """Cells in use. A cell that several rows share counts once."""
        return len({id(cell) for row in self._rows.values() for _, cell in row})

    def row(self, sequence: int) -> list[int]:
        """Returns the tokens of a row."""
        return [token for token, _ in self._rows.get(sequence, [])]

    def make_sampler(self, request: Request) -> Any:
        """Returns a sampler at the start of the request's script."""
        script = self.script(request.prompt) if callable(self.script) else self.script
        return _ScriptedSampler(script)

    def piece(self, token: int) -> bytes:
        """Returns the text of a token; empty if it has none."""
        return self.pieces.get(token, b"")

    def warm_up(self) -> None:
        """Prepare the drafter."""
        if self.drafter is not None:
            self.drafter.warm_up()

    def run(self, slices: Sequence[Slice], padding: int = 0) -> StepOutput:
        """Write the tokens to their rows, and sample the next token of each script."""
        self.padding = padding
        self._is_interrupted = False
        if self.before_step is not None:
            self.before_step(slices)
        if self._is_interrupted:
            raise InterruptedStepError
        count = padding + sum(len(part.tokens) + len(part.drafts) for part in slices)
        if count > self.max_batch:
            raise AssertionError(f"a step of {count} tokens; at most {self.max_batch} are allowed")
        num_outputs = sum(1 + len(part.drafts) for part in slices if part.sampler is not None)
        if num_outputs > self.max_outputs:
            raise AssertionError(f"a step of {num_outputs} outputs; at most {self.max_outputs} are allowed")
        if self.num_used + count > self.num_cells:
            raise NoRoomError(f"{count} tokens do not fit: {self.num_used} of {self.num_cells} cells are in use")
        if self.steps is not None:
            self.steps.append([part._replace(tokens=tuple(part.tokens), drafts=tuple(part.drafts)) for part in slices])
        samples: list[Sample | Exception] = []
        for part in slices:
            held = self._rows.setdefault(part.row, [])
            if len(held) != part.start:
                raise AssertionError(f"row {part.row} holds {len(held)} tokens, but the step starts at {part.start}")
            held.extend((token, object()) for token in (*part.tokens, *part.drafts))
            if part.sampler is not None:
                samples += verified(part.drafts, map(self._sample, repeat(part)))
        return StepOutput(samples, 0.0)

    def _sample(self, part: Slice) -> Sample | Exception:
        sampler = part.sampler
        token = sampler.script[sampler.at] if sampler.at < len(sampler.script) else 0
        try:
            if part.constraint is not None:
                token = self._constrained(token, part.constraint)
            sample = Sample(token)
            if self.on_sample is not None:
                self.on_sample(part, sample)
        except Exception as error:
            return error
        if sampler.at < len(sampler.script) and token == sampler.script[sampler.at]:
            sampler.at += 1
        return sample

    def _constrained(self, token: int, constraint: Constraint) -> int:
        """Returns the script's token if it is allowed; if only one token is allowed, that one, and the script waits."""
        row = np.zeros(max(self.pieces, default=0) + 1, np.float32)
        constraint.restrict(row)
        allowed = np.flatnonzero(row == 0)
        if len(allowed) == 1:
            return int(allowed[0])
        if token not in allowed or constraint.refuses(token):
            raise ValueError(f"the script goes on with token {token}, {self.piece(token)!r}, which may not come here")
        return token

    def set_threads(self, count: int) -> None:
        """Record the thread count."""
        self.threads = count

    def measure(self, num_decodes: int, num_prefill: int) -> float:
        """Returns 0: a script takes no time."""
        return 0.0

    def interrupt(self) -> None:
        """Fail the running step, unless it has begun to write tokens."""
        self._is_interrupted = True

    def copy_sequence(self, source: int, target: int, start: int, end: int) -> None:
        """Let `target` share cells of `source`."""
        held = self._rows.get(source, [])
        if end > len(held) or start != 0 or self._rows.get(target):
            raise AssertionError(f"copy of {start} to {end} from a row of {len(held)} tokens")
        if not self.can_drop_partial and end != len(held):
            raise AssertionError("a recurrent state can only be copied whole")
        self._rows[target] = held[:end]

    def remove_sequence(self, sequence: int, start: int, end: int = -1) -> bool:
        """Remove the end of a sequence."""
        held = self._rows.get(sequence, [])
        if end != -1:
            raise AssertionError("only tails are removed")
        if not self.can_drop_partial and 0 < start < len(held):
            return False
        del held[start:]
        return True

    def can_reuse(self, sequence: int, length: int) -> bool:
        """Returns whether the sequence has `length` positions: there is no sliding window here."""
        return length <= len(self._rows.get(sequence, []))

    def save_sequence(self, sequence: int, spare: int, start: int, end: int) -> bytearray | None:
        """Returns the tokens, which stand for their KV."""
        held = self.row(sequence)
        if self._rows.get(spare) or end > len(held) or not 0 < end - start <= self.max_saved:
            raise AssertionError(f"cannot save {start} to {end} of {len(held)} tokens through row {spare}")
        return bytearray(json.dumps(held[start:end]).encode())

    def load_sequence(self, sequence: int, spare: int, start: int, end: int, data: bytearray) -> bool:
        """Append saved tokens to a row."""
        held, tokens = self._rows.setdefault(sequence, []), json.loads(data)
        if self._rows.get(spare) or len(held) != start or len(tokens) != end - start:
            raise AssertionError(f"cannot load {start} to {end} behind {len(held)} tokens through row {spare}")
        if self.num_used + len(tokens) > self.num_cells:
            raise AssertionError(
                f"{len(tokens)} tokens do not fit: {self.num_used} of {self.num_cells} cells are in use"
            )
        held.extend((token, object()) for token in tokens)
        return True

    def close(self) -> None:
        """Record that the engine closed the runner."""
        self.is_closed = True
        if self.drafter is not None:
            self.drafter.close()


class ScriptedVocabulary:
    """A `Vocabulary` for a scripted model: each token is a piece of text.

    Args:
        pieces: the text of each token, as bytes.
        chat_template: a Jinja template, or None for a model that cannot chat.
    """

    add_bos = False
    add_eos = False
    bos_token: int | None = None
    eos_token: int | None = 0
    bos_text = ""
    eos_text = "<end>"
    special_texts: tuple[str, ...] = ("<end>",)
    special_tokens: Mapping[int, str] = MappingProxyType({0: "<end>"})
    eog_tokens: frozenset[int] = frozenset({0})

    def __init__(self, pieces: Mapping[int, bytes], *, chat_template: str | None = None) -> None:
        self.chat_template = chat_template
        self.fingerprint = repr(sorted(pieces.items()))
        self._pieces = pieces
        self._longest_first = sorted(
            ((piece, token) for token, piece in pieces.items() if piece), key=lambda entry: -len(entry[0])
        )

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Split text into pieces, the longest matching piece first. Text that no piece matches is an error."""
        del add_special
        data = text.encode()
        tokens: list[int] = []
        while data:
            if parse_special and data.startswith(b"<end>"):
                tokens.append(0)
                data = data[len(b"<end>") :]
                continue
            piece, token = next(((p, t) for p, t in self._longest_first if data.startswith(p)), (b"", -1))
            if not piece:
                raise InvalidRequestError("prompt", text, "text that the scripted pieces can spell")
            tokens.append(token)
            data = data[len(piece) :]
        return tokens

    @property
    def n_vocab(self) -> int:
        """Size of the vocabulary, in tokens."""
        return max(self._pieces, default=0) + 1

    def piece(self, token: int) -> bytes:
        """Returns the text of a token; empty if it has none."""
        return self._pieces.get(token, b"")

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> bytes:
        """Returns the joined pieces."""
        del special
        return b"".join(self._pieces.get(token, b"") for token in tokens)

    @property
    def longest_piece(self) -> int:
        """Length of the longest piece, in bytes."""
        return max(map(len, self._pieces.values()))

    def check_tokens(self, tokens: Sequence[int]) -> None:
        """Raise InvalidRequestError if a token is not in the vocabulary."""
        for index, token in enumerate(tokens):
            if token != 0 and token not in self._pieces:
                raise InvalidRequestError(f"prompt[{index}]", token, f"token ids of the script: {sorted(self._pieces)}")

    def close(self) -> None:
        """Do nothing: there is nothing to free."""
