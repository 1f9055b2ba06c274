"""`Constraint`: keeps a stream to its output format, by banning tokens that may not come next."""

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
    """Which tokens may come next. In any mode, forced tokens, such as the rest of a tag, come before all others.

    FREE: any token, in a thought or in an unconstrained answer. CHOICE follows when a thought closes and the answer is
        constrained; MATCH follows when the trigger of a tool call is complete.
    CHOICE: the first token of the answer, of a tool call or of a thought. MATCH follows the first token of an answer.
        Otherwise the rest of the trigger or tag is forced, and FREE follows.
    MATCH: tokens that the grammar of the answer or of a tool call allows. At the end of the grammar, DONE follows an
        answer, and BETWEEN follows a tool call.
    BETWEEN: the first token of the next tool call, or of the output's end. The rest of a separator or closer is forced.
        FREE follows before the next call; DONE follows at the end.
    DONE: no token.
    """

    FREE = "free"
    CHOICE = "choice"
    MATCH = "match"
    BETWEEN = "between"
    DONE = "done"


class Constraint:
    """Decides which tokens may be sampled next, given the tokens so far.

    For each token: `restrict` bans tokens before sampling, `refuses` checks the sampled token, and `accept` records the
    token after the output has read it.

    A token that completes a closing tag or a trigger may have only white space after it, so that the next token starts
    the constrained part. `refuses` checks this for the sampled token only: checking the vocabulary would take too long.

    All of this runs on the engine thread after each decode. A mask mostly takes tens of microseconds, and another
    thread would take a core from the next decode.

    Args:
        output_format: the format of the output.
        output: reads the stream.
        piece: returns the bytes of a token.
        eog_tokens: the tokens that end a generation.
    """

    def __init__(
        self, output_format: OutputFormat, output: Output, piece: Callable[[int], bytes], eog_tokens: frozenset[int]
    ) -> None:
        self._output_format = output_format
        self._output = output
        self._piece = piece
        self._eog = np.array(sorted(eog_tokens), np.intp)
        ends = output_format.closer_tokens[:1] or sorted(eog_tokens)
        self._after_call = np.array([*ends, *output_format.separator_tokens[:1]], np.intp)
        self._forced: deque[int] = deque()
        self._matcher: Matcher | None = None
        self._is_in_call = False
        self._has_calls = False
        # Tokens of the thought after its opening tag, the next one included.
        self._num_thought = int(output_format.is_thinking)
        self._is_constrained = output_format.answer_grammar is not None or output_format.is_required
        self._checks_tags = self._is_constrained or output_format.call_grammar is not None
        self._choices: tuple[tuple[int, ...], ...] = ()  # in mode CHOICE: the token sequences of triggers and tags
        self._has_chosen = False  # whether the first token of a choice was sampled
        self._mode = _Mode.FREE
        if self._is_constrained and not output_format.is_thinking:
            self._begin_answer(may_think=True)
        elif output_format.is_thinking and output_format.budget == 0:
            self._forced.extend(output_format.closing_tokens)

    @property
    def is_over(self) -> bool:
        """Whether no token may follow: the answer's grammar has ended, or the last tool call has."""
        return self._mode is _Mode.DONE and not self._forced

    @property
    def is_in_tag(self) -> bool:
        """Whether a tag or a trigger has begun and is not complete."""
        return bool(self._forced) or (self._mode is _Mode.CHOICE and self._has_chosen)

    @property
    def is_accepting(self) -> bool:
        """Whether the answer so far is complete according to its grammar."""
        if self._is_in_call or self._has_calls:
            return False
        return self._mode is _Mode.DONE or (self._matcher is not None and self._matcher.is_accepting)

    def restrict(self, row: NDArray[np.float32]) -> None:
        """Ban tokens that may not come next: write -inf into a row of logits."""
        if self._forced:
            _keep(row, np.array([self._forced[0]]))
        elif self._mode is _Mode.MATCH:
            assert self._matcher is not None
            _keep_where(row, self._matcher.allowed())
        elif self._mode is _Mode.CHOICE:
            self._restrict_to_choices(row)
        elif self._mode is _Mode.BETWEEN:
            _keep(row, self._after_call)
        elif self._is_constrained:
            row[self._eog] = _BANNED  # the answer must follow the thought

    def refuses(self, token: int) -> bool:
        """Returns whether a sampled token must be replaced although it was not banned."""
        if self._mode is not _Mode.FREE or self._forced or not self._checks_tags:
            return False
        piece = self._output_format.control_texts.get(token) or self._piece(
            token
        )  # the bytes that the output will read
        return self._output.overshoots(piece)

    def accept(self, token: int) -> None:
        """Record a sampled token that the output has read."""
        if self._forced:
            self._forced.popleft()
        elif self._mode is _Mode.MATCH:
            self._advance_grammar(token)
        elif self._mode is _Mode.CHOICE:
            self._choose(token)
        elif self._mode is _Mode.BETWEEN:
            self._leave_call(token)
        if not self._forced:
            self._follow_output()

    def _begin_answer(self, *, may_think: bool) -> None:
        """Allow the first token of the answer, of a tool call, or of a thought (`may_think`)."""
        output_format = self._output_format
        choices = (
            [output_format.opening_tokens]
            if may_think and output_format.opening_tokens and output_format.budget != 0
            else []
        )
        if output_format.tools is not None:
            choices.append(output_format.trigger_tokens)
        self._choices = tuple(choices)
        self._has_chosen = False
        self._matcher = (
            output_format.answer_grammar.start()
            if output_format.answer_grammar is not None and not output_format.is_required
            else None
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
            self._advance_grammar(token)
            return
        self._matcher = None
        self._has_chosen = True
        # A thought and a tool call may start with the same token, such as "<" in "<think>" and "<tool_call>".
        self._choices = tuple(choice[1:] for choice in self._choices if choice[0] == token)
        if len(self._choices) == 1 or not all(self._choices):
            self._mode = _Mode.FREE
            self._forced.extend(min(self._choices, key=len))

    def _advance_grammar(self, token: int) -> None:
        assert self._matcher is not None
        self._matcher.accept(token)
        if not self._matcher.is_stopped:
            return
        self._matcher = None
        if self._is_in_call:
            self._is_in_call = False
            self._has_calls = True
            self._mode = _Mode.BETWEEN
            self._forced.extend(self._output_format.after_call_tokens)
        else:
            self._mode = _Mode.DONE

    def _leave_call(self, token: int) -> None:
        """Start the next tool call or end the output, whichever the token begins."""
        output_format = self._output_format
        if output_format.separator_tokens and token == output_format.separator_tokens[0]:
            self._forced.extend(output_format.separator_tokens[1:])
            self._mode = _Mode.FREE
        elif output_format.closer_tokens and token == output_format.closer_tokens[0]:
            self._forced.extend(output_format.closer_tokens[1:])
            self._mode = _Mode.DONE

    def _follow_output(self) -> None:
        """Change the mode, or force a closing tag, according to the part that the output has reached."""
        if self._mode is not _Mode.FREE:
            return
        output_format, output = self._output_format, self._output
        if output.is_thinking:
            # If the model has begun the closing tag itself, no tag is forced.
            if output_format.budget is not None and self._num_thought >= output_format.budget and not output.is_closing:
                self._forced.extend(output_format.closing_tokens)
            self._num_thought += 1
        elif output.is_calling:
            grammar = output_format.next_call_grammar if self._has_calls else output_format.call_grammar
            if grammar is not None:
                self._is_in_call = True
                self._matcher = grammar.start()
                self._mode = _Mode.MATCH
        elif self._is_constrained and output.is_answer and not self._has_calls:
            self._begin_answer(may_think=False)


def _keep(row: NDArray[np.float32], tokens: NDArray[Any]) -> None:
    """Ban all tokens except these."""
    kept = row[tokens]
    row.fill(_BANNED)
    # A forced token must stay possible even if its logit is -inf, from the model or from a logit bias.
    row[tokens] = np.maximum(kept, np.finfo(np.float32).min)


def _keep_where(row: NDArray[np.float32], allowed: NDArray[np.bool_]) -> None:
    """Ban all tokens that are not allowed. For speed, write only the smaller one of the two groups."""
    banned = ~allowed
    if np.count_nonzero(banned) * 2 < row.size:
        row[banned] = _BANNED
        return
    tokens = np.flatnonzero(allowed)
    kept = row[tokens]
    row.fill(_BANNED)
    row[tokens] = kept
