"""What happens to a stream: a token is sampled, a token reaches its reader, and, once, it ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from headrace.results import FinishReason, TopLogprob

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


@dataclass(frozen=True, slots=True)
class End:
    """The one terminal event of a stream.

    Attributes:
        text: everything that was emitted.
        finish_reason: why it ended; None where `error` says so.
        stop_sequence: which stop sequence matched.
        timeout: which deadline passed, where finish_reason is "timeout".
        error: what failed, where something did.
    """

    text: str
    finish_reason: FinishReason | None
    stop_sequence: str | None = None
    timeout: str | None = None
    error: BaseException | None = None
