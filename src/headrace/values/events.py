"""What happens to a stream: a token is sampled, a token reaches its reader, and, once, it ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from headrace.values.results import FinishReason, Kind, Part, ToolCall, ToolCallDelta, TopLogprob

__all__ = ["End", "Sample", "TokenEvent"]


class Sample(NamedTuple):
    """What was chosen from a step's logits.

    Attributes:
        token: its id.
        logprob: its natural log probability under the model, before any setting changed it; None if not asked for.
        top: ids and log probabilities of the most likely tokens, most likely first; None if not asked for.
    """

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] | None = None


class TokenEvent(NamedTuple):
    """One sampled token on its way to its reader; a tuple, because one is made per token on the engine thread."""

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
    """The one terminal event of a stream.

    Attributes:
        text: everything that was emitted of kind "text".
        finish_reason: why it ended; None where `error` says so.
        stop_sequence: which stop sequence matched.
        timeout: which deadline passed, where finish_reason is "timeout".
        error: what failed, where something did.
        thinking: the thought, where one was kept apart.
        tool_calls: what was asked for.
        answer_start: where in the text the answer starts: a raw thought comes before it.
        is_complete: whether the output fits what it was constrained to, as a whole.
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
