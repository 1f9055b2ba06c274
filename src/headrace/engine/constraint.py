"""Keeps a stream to its output_format: which tokens may come next, and which must."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.engine.output import Output
from headrace.values.output_format import Matcher, OutputFormat

__all__ = ["Constraint"]

_BANNED = -np.inf


class _Mode(Enum):
    """What may come next, where no token is forced: tokens that must come, such as those of a tag, go before it all.

    FREE: anything. It is a thought, or an answer of any form. Ended by what the output reads: a thought that is closed
        (to CHOICE, if the answer has a form), or the trigger of a call (to MATCH).
    CHOICE: the beginning of an answer that has a form, of a call or of a thought. Ended by what is chosen: to MATCH for
        the answer; the rest of a trigger or a tag is forced, then FREE.
    MATCH: what a grammar allows, of the answer or of a call. Ended by the end of the grammar: to DONE, or to BETWEEN.
    BETWEEN: behind a call, another one (what is before it is forced, then FREE), or the end.
    DONE: nothing.
    """

    FREE = "free"
    CHOICE = "choice"
    MATCH = "match"
    BETWEEN = "between"
    DONE = "done"


class Constraint:
    """Says what may be sampled next, from what was sampled.

    Before each token `restrict` bans what may not come, and `refuses` looks at what was chosen all the same; afterwards
    comes `accept`, once the output has read the token.

    A thought is free; a token that closes it, or that triggers a call, may have nothing but white space behind the tag,
    so that what follows begins with a token of its own and can be restricted. Whether a token does that is looked at
    when it was chosen, since to look at all of the vocabulary would take too long.

    All of this is done on the engine thread, after each decode: a mask takes tens of microseconds as a rule, and what
    could make it elsewhere would take a core from the decode of the next step.

    Args:
        output_format: what to keep it to.
        output: what reads the stream.
        piece: the bytes of a token.
        eog_tokens: the tokens that end a generation.
    """

    def __init__(
        self, output_format: OutputFormat, output: Output, piece: Callable[[int], bytes], eog_tokens: frozenset[int]
    ) -> None:
        self._output_format = output_format
        self._output = output
        self._piece = piece
        self._eog = np.array(sorted(eog_tokens), np.intp)
        ends = output_format.finishing[:1] or sorted(eog_tokens)
        self._behind_call = np.array([*ends, *output_format.going_on[:1]], np.intp)
        self._forced: deque[int] = deque()
        self._matcher: Matcher | None = None
        self._is_in_call = False
        self._has_calls = False
        self._num_thought = int(
            output_format.is_thinking
        )  # tokens of the thought behind its opening tag, the next included
        self._is_constrained = output_format.answer is not None or output_format.is_required
        self._minds_tags = self._is_constrained or output_format.call is not None
        self._choices: tuple[tuple[int, ...], ...] = ()
        self._has_chosen = False  # whether the first token of one of them has come
        self._mode = _Mode.FREE
        if self._is_constrained and not output_format.is_thinking:
            self._begin_answer(may_think=True)
        elif output_format.is_thinking and output_format.budget == 0:
            self._forced.extend(output_format.closing)

    @property
    def is_over(self) -> bool:
        """Whether nothing may follow: the answer's grammar has come to its end, or the calls have."""
        return self._mode is _Mode.DONE and not self._forced

    @property
    def is_in_tag(self) -> bool:
        """Whether a tag or a trigger has been begun that has to be completed."""
        return bool(self._forced) or (self._mode is _Mode.CHOICE and self._has_chosen)

    @property
    def is_accepting(self) -> bool:
        """Whether there is an answer that, as it is, fits its grammar as a whole."""
        if self._is_in_call or self._has_calls:
            return False
        return self._mode is _Mode.DONE or (self._matcher is not None and self._matcher.is_accepting)

    def restrict(self, row: NDArray[np.float32]) -> None:
        """Ban, in a row of logits, what may not come next."""
        if self._forced:
            _keep(row, np.array([self._forced[0]]))
        elif self._mode is _Mode.MATCH:
            assert self._matcher is not None
            _keep_where(row, self._matcher.allowed())
        elif self._mode is _Mode.CHOICE:
            self._restrict_to_choices(row)
        elif self._mode is _Mode.BETWEEN:
            _keep(row, self._behind_call)
        elif self._is_constrained:
            row[self._eog] = _BANNED  # a thought is not the answer that was asked for

    def refuses(self, token: int) -> bool:
        """Whether a token cannot be taken, although it was not banned."""
        if self._mode is not _Mode.FREE or self._forced or not self._minds_tags:
            return False
        piece = self._output_format.texts.get(token) or self._piece(token)  # as the output will read it
        return self._output.overshoots(piece)

    def accept(self, token: int) -> None:
        """Note what was sampled."""
        if self._forced:
            self._forced.popleft()
        elif self._mode is _Mode.MATCH:
            self._follow(token)
        elif self._mode is _Mode.CHOICE:
            self._choose(token)
        elif self._mode is _Mode.BETWEEN:
            self._go_on(token)
        if not self._forced:
            self._look_at_output()

    def _begin_answer(self, *, may_think: bool) -> None:
        """The answer may begin: with what it has to be, with a call, or with a thought."""
        output_format = self._output_format
        choices = [output_format.opening] if may_think and output_format.opening and output_format.budget != 0 else []
        if output_format.tools is not None:
            choices.append(output_format.calling)
        self._choices = tuple(choices)
        self._has_chosen = False
        self._matcher = (
            output_format.answer.start() if output_format.answer is not None and not output_format.is_required else None
        )
        if self._matcher is None and len(choices) == 1:
            self._mode = _Mode.FREE
            self._forced.extend(choices[0])
        else:
            self._mode = _Mode.CHOICE

    def _restrict_to_choices(self, row: NDArray[np.float32]) -> None:
        firsts = np.array([choice[0] for choice in self._choices], np.intp)
        if self._matcher is None:
            _keep(row, firsts)
            return
        kept = row[firsts]
        _keep_where(row, self._matcher.allowed())
        row[firsts] = kept

    def _choose(self, token: int) -> None:
        matcher = self._matcher
        if matcher is not None and matcher.allowed()[token]:
            self._mode = _Mode.MATCH
            self._follow(token)
            return
        self._matcher = None
        self._has_chosen = True
        # A thought and a call may begin alike: "<" is the first token of "<think>" as of "<tool_call>".
        self._choices = tuple(choice[1:] for choice in self._choices if choice[0] == token)
        if len(self._choices) == 1 or not all(self._choices):
            self._mode = _Mode.FREE
            self._forced.extend(min(self._choices, key=len))

    def _follow(self, token: int) -> None:
        assert self._matcher is not None
        self._matcher.accept(token)
        if not self._matcher.is_stopped:
            return
        self._matcher = None
        if self._is_in_call:
            self._is_in_call = False
            self._has_calls = True
            self._mode = _Mode.BETWEEN
            self._forced.extend(self._output_format.after_call)
        else:
            self._mode = _Mode.DONE

    def _go_on(self, token: int) -> None:
        output_format = self._output_format
        if output_format.going_on and token == output_format.going_on[0]:
            self._forced.extend(output_format.going_on[1:])
            self._mode = _Mode.FREE
        elif output_format.finishing and token == output_format.finishing[0]:
            self._forced.extend(output_format.finishing[1:])
            self._mode = _Mode.DONE

    def _look_at_output(self) -> None:
        """Change modes with what the output has read, the token that was just accepted included."""
        if self._mode is not _Mode.FREE:
            return
        output_format, output = self._output_format, self._output
        if output.is_thinking:
            # A tag that the model has begun to write itself it may finish.
            if output_format.budget is not None and self._num_thought >= output_format.budget and not output.is_closing:
                self._forced.extend(output_format.closing)
            self._num_thought += 1
        elif output.is_calling:
            grammar = output_format.next_call if self._has_calls else output_format.call
            if grammar is not None:
                self._is_in_call = True
                self._matcher = grammar.start()
                self._mode = _Mode.MATCH
        elif self._is_constrained and output.is_answer and not self._has_calls:
            self._begin_answer(may_think=False)


def _keep(row: NDArray[np.float32], tokens: NDArray[Any]) -> None:
    """Ban all but these."""
    kept = row[tokens]
    row.fill(_BANNED)
    # A token must be possible even where the model itself, or a bias, makes it impossible.
    row[tokens] = np.maximum(kept, np.finfo(np.float32).min)


def _keep_where(row: NDArray[np.float32], allowed: NDArray[np.bool_]) -> None:
    """Ban all that are not allowed; the way that touches fewer is the faster one."""
    banned = ~allowed
    if np.count_nonzero(banned) * 2 < row.size:
        row[banned] = _BANNED
        return
    tokens = np.flatnonzero(allowed)
    kept = row[tokens]
    row.fill(_BANNED)
    row[tokens] = kept
