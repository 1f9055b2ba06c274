"""What a caller sends to the engine: one frozen message per stream."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from headrace.values.config import StreamConfig
from headrace.values.output_format import PLAIN, OutputFormat

__all__ = ["LastTokens", "Request"]


@dataclass(slots=True)
class LastTokens:
    """Where the engine leaves the tokens of the stream that ended last, its prompt's and those it sampled."""

    tokens: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """One stream to generate.

    Attributes:
        id: name of the stream, unique in its engine.
        prompt: token ids, at least one.
        config: its settings.
        flow: whose turn this is in the fair queue. Flows take turns; the requests of one flow are served in the order
            in which they come, but for short prompts, which overtake a few long ones. An async stream comes when its
            prompt is made, a short one sooner than a long one.
        output_format: what its output consists of besides text.
        last_tokens: where its tokens are left when it has ended; None where nobody wants them.
    """

    id: str
    prompt: tuple[int, ...]
    config: StreamConfig
    flow: Hashable = None
    output_format: OutputFormat = PLAIN
    last_tokens: LastTokens | None = None
