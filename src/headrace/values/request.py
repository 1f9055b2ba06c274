"""What a caller sends to the engine: one frozen message per stream."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from headrace.values.config import StreamConfig
from headrace.values.outline import PLAIN, Outline

__all__ = ["Request", "Trail"]


@dataclass(slots=True)
class Trail:
    """Where the engine leaves the tokens of the stream that ended last, its prompt's and those it sampled."""

    tokens: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """One stream to generate.

    Attributes:
        id: name of the stream, unique in its engine.
        prompt: token ids, at least one.
        config: its settings.
        lane: whose turn this is in the fair queue; requests of one lane are served in the order in which they come, but
            for short prompts that overtake a few long ones, lanes in turn. Async streams come when their prompts are
            made, a short one sooner than a long one.
        outline: what its output consists of besides text.
        trail: where its tokens are left when it has ended; None where nobody wants them.
    """

    id: str
    prompt: tuple[int, ...]
    config: StreamConfig
    lane: Hashable = None
    outline: Outline = PLAIN
    trail: Trail | None = None
