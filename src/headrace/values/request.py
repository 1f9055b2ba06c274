"""`Request`: the message with which a caller submits a stream to the engine."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from headrace.values.config import StreamConfig
from headrace.values.output_format import PLAIN, OutputFormat

__all__ = ["LastTokens", "Request"]


@dataclass(slots=True)
class LastTokens:
    """The tokens, prompt and output, of a caller's most recently ended stream; the engine stores them here."""

    tokens: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """One stream to generate.

    Attributes:
        id: name of the stream, unique in its engine.
        prompt: token ids, at least one.
        config: the stream's settings.
        flow: the flow to which the stream belongs in the fair queue. Flows take turns. The requests of one flow are
            served in the order in which they arrive, except that short prompts overtake a few long ones. An async
            stream arrives when its prompt is made, which takes less time for a short one.
        output_format: the parts that the output has, and the constraints on them.
        last_tokens: where the engine stores the stream's tokens when it ends; None to drop them.
    """

    id: str
    prompt: tuple[int, ...]
    config: StreamConfig
    flow: Hashable = None
    output_format: OutputFormat = PLAIN
    last_tokens: LastTokens | None = None
