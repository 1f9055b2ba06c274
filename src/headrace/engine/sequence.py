"""`Sequence`: one stream in the engine: its tokens, its row in the KV cache, its output and its deadlines."""

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
    """The state of a sequence."""

    WAITING = "waiting"  # in the queue, without a row
    RUNNING = "running"  # holds a row and takes part in steps
    PAUSED = "paused"  # its reader is behind; holds a row until another sequence needs it
    FINISHED = "finished"


@dataclass(eq=False, slots=True)
class Sequence:
    """One stream from its submission to its end.

    Only the engine thread uses it once it is admitted; before that, the thread that holds the lock of `Live`.

    Attributes:
        tokens: the prompt and all sampled tokens. The next step computes the last sampled token.
        row: the row in the KV cache; None while it has none.
        order: number of its admission; the highest is the youngest.
        leader: an older sequence that is computing a prefix which this sequence will share; None if there is none.
        leader_until: length of that prefix, in tokens.
        has_offloaded: whether offloaded KV of its prompt still has to be brought back.
        has_computed: whether it has computed any token itself.
        is_leaving: whether it was cancelled, so that it no longer counts as queued or running.
        output: parses its tokens into text, thought and tool calls.
        constraint: restricts its tokens; None for no restriction.
        lookup: guesses its next tokens from its text; None until guesses are needed.
        is_complete: whether the answer ended where its grammar allows the end.
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
        """The settings of the request."""
        return self.request.config

    @property
    def is_seeded(self) -> bool:
        """Whether it has a seed, so that its tokens should be repeatable: even the last bits of logits can matter."""
        return self.config.seed is not None

    @property
    def is_finished(self) -> bool:
        """Whether the sequence has ended."""
        return self.state is State.FINISHED

    @property
    def num_left(self) -> int:
        """How many tokens may still be sampled, by `max_tokens`."""
        return self.config.max_tokens - self.stats.completion_tokens

    def num_guessable(self, max_length: int) -> int:
        """Returns the most drafts for the next step: all of them and one more token must be acceptable.

        A seeded sequence has drafts only with speculation="on": the number of drafts depends on measured times, and
        rows that are computed together differ in the last bits of their logits.
        """
        config = self.config
        # A constraint can restrict a token only after it has accepted all tokens before it.
        if (
            self.constraint is not None
            or config.speculation == "off"
            or (self.is_seeded and config.speculation == "auto")
        ):
            return 0
        limit = min(self.num_left, max_length + 1 - len(self.tokens))
        return int(min(limit, self.channel.capacity - len(self.channel))) - 1

    @property
    def num_computed(self) -> int:
        """Tokens whose KV is in the cache."""
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
        """Add a sampled token to the output, and find out whether it ends the stream.

        Args:
            token: its id.
            piece: its bytes.
            ends: whether the token ends a generation.
            max_length: the most tokens of a sequence.
            now: the time, on the clock of the stats.
            timestamp: the time, in seconds since the epoch.
            logprob: the token's log probability.
            top: the most likely tokens.

        Returns:
            The event to emit, and the finish reason if the token was the last one.
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
            piece = self.request.output_format.control_texts.get(token, piece)
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
            if output.stop_sequence is not None:  # it matched in text that had been held back
                reason, self.is_complete = "stop_sequence", False
        kind, more, tool_call = output.take() or Part("thinking" if was_thinking else output.kind, "")
        text += more
        rest = () if reason is None else output.take_rest()
        if was_hidden:  # the bytes and the top tokens would reveal the hidden thought
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
        """Returns the End for the reader."""
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
        """Returns the time of the next deadline and its name; None if there is no deadline."""
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
        """Returns the next `count` tokens to compute."""
        start = self.num_computed
        return self.tokens[start : start + count]
