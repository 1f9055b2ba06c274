"""One stream as the engine sees it: its tokens, its place in the KV cache, its text, its clock."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from headrace.engine.channel import Channel
from headrace.engine.constraint import Constraint
from headrace.engine.kv.radix import Row
from headrace.engine.metrics import StreamStats
from headrace.engine.output import Output
from headrace.engine.speculation.prompt_lookup import Lookup
from headrace.values.config import StreamConfig
from headrace.values.events import End, TokenEvent
from headrace.values.request import Request
from headrace.values.results import FinishReason, Part, TopLogprob

__all__ = ["Sequence", "State"]


class State(Enum):
    """Where a sequence is on its way."""

    WAITING = "waiting"  # in the queue, without a row
    RUNNING = "running"  # with a row, part of the steps
    PAUSED = "paused"  # its reader is behind; with a row, until somebody needs it
    FINISHED = "finished"


@dataclass(eq=False, slots=True)
class Sequence:
    """Belongs to the engine thread from the moment it is admitted; until then, to whoever holds the engine's lock.

    Attributes:
        tokens: the prompt and everything sampled. The last sampled token is computed by the next step.
        row: its place in the KV cache.
        order: when it was admitted, relative to others; the highest is the youngest.
        leader: a sequence admitted earlier that is computing a prefix which this one will share.
        leader_until: how much of the leader's prefix that is, in tokens.
        has_offloaded: whether KV of its prompt is offloaded that is still to be brought back.
        has_computed: whether it has computed anything itself.
        is_leaving: whether it was cancelled, so that its place in the queue's count is free already.
        output: what it has written.
        constraint: what it is kept to; None where anything goes.
        lookup: what guesses its next tokens; None where nobody has asked for that yet.
        is_complete: whether it has ended as its grammar wants it.
    """

    request: Request
    channel: Channel
    sampler: Any
    stats: StreamStats
    state: State = State.WAITING
    tokens: list[int] = field(default_factory=list[int])
    row: Row | None = None
    order: int = -1
    leader: Sequence | None = None
    leader_until: int = 0
    has_offloaded: bool = False
    has_computed: bool = False
    is_leaving: bool = False
    output: Output = field(init=False)
    constraint: Constraint | None = None
    lookup: Lookup | None = None
    is_complete: bool = False

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt)
        self.stats.prompt_tokens = len(self.tokens)
        self.output = Output(self.request.config, self.request.output_format)

    @property
    def config(self) -> StreamConfig:
        """Its settings."""
        return self.request.config

    @property
    def is_seeded(self) -> bool:
        """Whether it shall give the same tokens again: the last bits of its logits may decide a draw, or a near-tie."""
        return self.config.seed is not None

    @property
    def is_finished(self) -> bool:
        """Whether it has ended."""
        return self.state is State.FINISHED

    @property
    def num_left(self) -> int:
        """How many tokens it may still sample."""
        return self.config.max_tokens - self.stats.completion_tokens

    def num_guessable(self, max_length: int) -> int:
        """How many tokens may be guessed in a step, so that all of them and one more can be taken in.

        A seeded one guesses only where it was asked to: which guesses are tried depends on measured times, and the
        more are computed at once, the more differ the last bits of the logits.
        """
        config = self.config
        # What a constraint allows is only known behind tokens that it has accepted.
        if (
            self.constraint is not None
            or config.speculation == "off"
            or (self.is_seeded and config.speculation == "auto")
        ):
            return 0
        most = min(self.num_left, max_length + 1 - len(self.tokens))
        return int(min(most, self.channel.capacity - len(self.channel))) - 1

    @property
    def num_computed(self) -> int:
        """Tokens whose KV is there."""
        return self.row.length if self.row is not None else 0

    @property
    def num_remaining(self) -> int:
        """Tokens to compute before the next one can be sampled: 1 while decoding, more in prefill."""
        return len(self.tokens) - (self.row.length if self.row is not None else 0)

    def accept(
        self,
        token: int,
        piece: bytes,
        *,
        ends: bool,
        max_length: int,
        now: float,
        timestamp: float,
        logprob: float | None = None,
        top: tuple[TopLogprob, ...] | None = None,
    ) -> tuple[TokenEvent, FinishReason | None]:
        """Take in a sampled token: what to emit for it, and whether it was the last.

        Args:
            token: its id.
            piece: its bytes.
            ends: whether it ends a generation.
            max_length: longest sequence that can be computed, in tokens.
            now: when, on the clock of the stats.
            timestamp: when, in seconds since the epoch.
            logprob: its log probability.
            top: the most likely tokens.
        """
        output, stats = self.output, self.stats
        number = stats.completion_tokens
        self.tokens.append(token)
        stats.note_token(now)
        text, was_thinking, was_hidden = "", False, False
        if output.is_plain:
            text = output.feed_plain(piece)
        else:
            was_answer = output.is_answer
            was_thinking = not was_answer and output.kind == "thinking"
            was_hidden = not was_answer and output.is_hidden
            piece = self.request.output_format.texts.get(token, piece)
            output.feed(piece)
            if not was_answer and output.has_thought and not ends:
                stats.thinking_tokens = stats.completion_tokens
        if self.constraint is not None and not ends:
            self.constraint.accept(token)
        reason = self._finish_reason(ends, max_length)
        if output.is_plain and reason is None:
            return TokenEvent(text, token, number, timestamp, piece, logprob, top), None
        if reason is not None and reason != "stop_sequence":
            output.flush(is_in_tag=self.constraint is not None and self.constraint.is_in_tag)
            if output.stop_sequence is not None:  # a match that an earlier, now impossible one had kept waiting
                reason, self.is_complete = "stop_sequence", False
        kind, more, tool_call = output.take() or Part("thinking" if was_thinking else output.kind, "")
        text += more
        rest = () if reason is None else output.take_rest()
        if was_hidden:  # neither the bytes nor what else was likely may tell what is not to be seen
            piece, logprob, top = text.encode(), None, None
        return TokenEvent(text, token, number, timestamp, piece, logprob, top, kind, tool_call, rest), reason

    def _finish_reason(self, ends: bool, max_length: int) -> FinishReason | None:
        output, output_format = self.output, self.request.output_format
        if output.stop_sequence is not None:
            return "stop_sequence"
        if not output_format.is_parallel and output.num_calls:
            return "tool_calls"
        constraint = self.constraint
        if (constraint is not None and constraint.is_over) or (ends and not self.config.ignore_eos):
            self.is_complete = constraint is not None and constraint.is_accepting
            return "tool_calls" if output.num_calls else "stop"
        if self.stats.completion_tokens >= self.config.max_tokens or len(self.tokens) > max_length:
            return "length"
        return None

    def end(self, reason: FinishReason | None, timeout: str | None, error: BaseException | None) -> End:
        """What its reader gets as the last."""
        output = self.output
        return End(
            output.text,
            reason,
            output.stop_sequence,
            timeout,
            error,
            thinking=output.thinking,
            tool_calls=output.tool_calls,
            answer_start=output.answer_start,
            is_complete=self.is_complete,
        )

    def deadline(self) -> tuple[float, str] | None:
        """The next moment at which it times out, and by which deadline; None where it never does."""
        config, stats = self.config, self.stats
        deadlines: list[tuple[float, str]] = []
        if config.timeout_ms and stats.paused_since is None:
            deadlines.append((stats.created + stats.paused + config.timeout_ms / 1000, "total"))
        if config.queue_timeout_ms and stats.admitted is None:
            deadlines.append((stats.created + config.queue_timeout_ms / 1000, "queue"))
        if config.first_token_timeout_ms and stats.first_token is None:
            deadlines.append((stats.created + config.first_token_timeout_ms / 1000, "first_token"))
        if config.stall_timeout_ms and stats.paused_since is not None:
            deadlines.append((stats.paused_since + config.stall_timeout_ms / 1000, "stall"))
        return min(deadlines, default=None)

    def uncomputed(self, count: int) -> SequenceOf[int]:
        """The next tokens to compute."""
        start = self.num_computed
        return self.tokens[start : start + count]
