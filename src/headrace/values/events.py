"""The events of a stream: `Sample` (a token is sampled), `TokenEvent` (it goes to its reader), `End` (once, last)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from headrace.values.results import FinishReason, Kind, Part, ToolCall, ToolCallDelta, TopLogprob

__all__ = ["End", "Sample", "TokenEvent"]


class Sample(NamedTuple):
    """A token that was sampled from a row of logits.

    Attributes:
        token: the token's id.
        logprob: its natural log probability under the model, before any setting changed it; None if not asked for.
        top: ids and log probabilities of the most likely tokens, most likely first; None if not asked for.
    """

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] | None = None


class TokenEvent(NamedTuple):
    """One sampled token on its way to its reader; see `results.Token`.

    It is a tuple, which is fast to make, because the engine thread makes one for each token.
    """

    text: str
    id: int
    number: int
    timestamp: float
    piece: bytes
    logprob: float | None
    top_logprobs: tuple[TopLogprob, ...] | None
    kind: Kind = "text"
    tool_call: ToolCallDelta | None = None
    rest: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class End:
    """The last event of a stream; each stream has one.

    Attributes:
        text: all text of kind "text".
        finish_reason: why the stream ended; None if it failed, and `error` says why.
        stop_sequence: the stop sequence that matched, if any.
        timeout: the deadline that passed, if `finish_reason` is "timeout".
        error: the error that ended the stream, if any.
        thinking: the thought, if one was kept apart from the text.
        tool_calls: the calls that the model asks for.
        answer_start: index in the text at which the answer begins; a raw thought comes before it.
        is_complete: whether the whole output fits its constraint.
    """

    text: str
    finish_reason: FinishReason | None
    stop_sequence: str | None = None
    timeout: str | None = None
    error: BaseException | None = None
    thinking: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    answer_start: int = 0
    is_complete: bool = False
