"""Frozen values that callers get: `Token`, `GenerationResult`, `Usage`, `Metrics`, `ToolCall`, `EngineMetrics`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

__all__ = [
    "EngineMetrics",
    "FinishReason",
    "GenerationResult",
    "Kind",
    "Metrics",
    "Part",
    "Token",
    "ToolCall",
    "ToolCallDelta",
    "TopLogprob",
    "Usage",
]

FinishReason = Literal["stop", "stop_sequence", "length", "cancelled", "timeout", "tool_calls"]

Kind = Literal["text", "thinking", "tool_call"]


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """The text that a token adds to a tool call.

    Attributes:
        index: number of the call in this stream: 0, 1, 2 ...
        id: the call's id, on the first delta of a call; None on the others.
        name: the tool's name, on the first delta of a call; None on the others.
        arguments: a piece of the arguments' JSON.
        is_complete: whether this is the last piece.
    """

    index: int
    id: str | None
    name: str | None
    arguments: str
    is_complete: bool = False


class Part(NamedTuple):
    """Text of one kind.

    Attributes:
        kind: "text", "thinking" or "tool_call".
        text: the characters; in a tool call, a piece of its arguments.
        tool_call: the addition to a tool call, if `kind` is "tool_call".
    """

    kind: Kind
    text: str
    tool_call: ToolCallDelta | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call that the model asks for.

    Attributes:
        id: the call's id, which the message with the tool's result names.
        name: the tool's name.
        arguments: JSON, as the model wrote it.
        is_complete: False if the stream ended inside the call, so that the arguments are cut off.
    """

    id: str
    name: str
    arguments: str
    is_complete: bool = True

    def as_openai(self) -> dict[str, Any]:
        """Returns the call as in an assistant's message of OpenAI's chat API, and in chat templates."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


class TopLogprob(NamedTuple):
    """One of the most likely tokens of a step.

    Attributes:
        id: the token's id.
        logprob: its natural log probability under the model, before any setting changed it.
        bytes: its text in UTF-8, which may be a part of a character.
    """

    id: int
    logprob: float
    bytes: bytes


@dataclass(frozen=True, slots=True)
class Token:
    """One sampled token.

    Attributes:
        text: the text that this token completes. Text that is held back (a part of a character, or a possible start
            of a stop sequence) arrives with a later token.
        id: the token's id in the model's vocabulary; -1 on the extra last Token of `generate_stream_with_metrics`.
        index: 0, 1, 2 ... without gaps.
        timestamp: when the token was sampled, in seconds since the epoch.
        is_last: True only on the extra last Token of `generate_stream_with_metrics`, which was not sampled.
        kind: the kind of `text`: "text", "thinking" or "tool_call".
        bytes: the token's bytes in the vocabulary, also while its text is held back; empty in a hidden thought.
        logprob: its natural log probability, if `logprobs` was asked for.
        top_logprobs: the most likely tokens of this step, most likely first, if `logprobs` was asked for.
        tool_call: the addition to a tool call, if `kind` is "tool_call".
        rest: text of other kinds that is left when the stream ends; only the last sampled token can have it. If a
            token in mid-stream completes text of two kinds, the second arrives with the next token.
    """

    text: str
    id: int
    index: int
    timestamp: float
    is_last: bool = False
    kind: Kind = "text"
    bytes: bytes = b""
    logprob: float | None = None
    top_logprobs: tuple[TopLogprob, ...] | None = None
    tool_call: ToolCallDelta | None = None
    rest: tuple[Part, ...] = ()

    def __str__(self) -> str:
        return self.text

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts that this token completes: none if all is held back, more than one only at a stream's end."""
        if not self.text and self.tool_call is None:
            return self.rest
        return (Part(self.kind, self.text, self.tool_call), *self.rest)


@dataclass(frozen=True, slots=True)
class Usage:
    """Exact token counts of one stream.

    Attributes:
        prompt_tokens: tokens of the prompt.
        cached_tokens: prompt tokens that were not computed, because their KV was cached.
        completion_tokens: sampled tokens, the end-of-text token included.
        thinking_tokens: sampled tokens of the thought, from its opening to its closing tag.
        cost: cost of the stream; None if no prices are known.
        currency: currency of the cost.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    thinking_tokens: int = 0
    cost: float | None = None
    currency: str | None = None

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Metrics:
    """Times of one stream, in milliseconds, and its guessed tokens. None means that nothing was measured yet.

    Attributes:
        time_to_first_token_ms: from the request to its first token.
        tokens_per_second: decode speed: tokens after the first over the time after the first, without pauses.
        latency_ms: from the request to its end, or to now.
        queue_ms: time in the queue, waiting for a slot.
        prefill_ms: from the slot to the first token.
        decode_ms: from the first token to the last, without pauses.
        paused_ms: time for which the stream was paused, because its reader did not read.
        inter_token_p50_ms: median of the inter-token latency, without pauses.
        inter_token_p99_ms: 99th percentile of the inter-token latency, without pauses.
        drafted_tokens: guessed tokens that were verified; see `StreamConfig.speculation`.
        accepted_tokens: guessed tokens that were right, and so took no step of their own.
    """

    time_to_first_token_ms: float | None = None
    tokens_per_second: float = 0.0
    latency_ms: float = 0.0
    queue_ms: float = 0.0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0
    paused_ms: float = 0.0
    inter_token_p50_ms: float | None = None
    inter_token_p99_ms: float | None = None
    drafted_tokens: int = 0
    accepted_tokens: int = 0


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """The result of a stream.

    Attributes:
        text: the joined texts of all tokens of kind "text".
        finish_reason: "stop" (the model ended it), "stop_sequence", "length" (max_tokens, or the context is full),
            "cancelled", "timeout" or "tool_calls".
        stop_sequence: the stop sequence that matched, if any.
        usage: exact token counts.
        metrics: times.
        model: name of the model.
        thinking: the thought, if there is one that is kept apart from the text.
        tool_calls: the calls that the model asks for; the last one may be cut off.
        parsed: the value of the output, if there is a `json_schema` and the output is complete; an instance, if the
            schema was given as a type.
    """

    text: str
    finish_reason: FinishReason
    stop_sequence: str | None = None
    usage: Usage = field(default_factory=Usage)
    metrics: Metrics = field(default_factory=Metrics)
    model: str = ""
    thinking: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    parsed: object = None

    def __str__(self) -> str:
        return self.text

    @property
    def tokens_used(self) -> int:
        """The number of completion tokens."""
        return self.usage.completion_tokens

    @property
    def tokens_per_second(self) -> float:
        """Decode speed; see `Metrics`."""
        return self.metrics.tokens_per_second

    @property
    def time_to_first_token_ms(self) -> float | None:
        """From the request to its first token, in milliseconds."""
        return self.metrics.time_to_first_token_ms

    @property
    def latency_ms(self) -> float:
        """From the request to its end, in milliseconds."""
        return self.metrics.latency_ms


@dataclass(frozen=True, slots=True)
class EngineMetrics:
    """A snapshot of an engine. Counts of tokens, streams, preemptions and steps are totals since its start.

    Attributes:
        queued: streams that wait for a slot.
        running: streams with a slot that are not paused.
        paused: streams that wait for their readers.
        kv_total: number of KV cells, each of which holds a token.
        kv_used: cells that hold the KV of running and paused streams.
        kv_cached: cells that hold only cached prefixes.
        kv_offloaded_bytes: size of the cached prefixes that are offloaded to main memory, in bytes.
        prompt_tokens: prompt tokens of the accepted streams.
        cached_tokens: prompt tokens that were not computed, because their KV was cached.
        prefill_tokens: tokens computed in prefill, also after a preemption.
        completion_tokens: sampled tokens.
        drafted_tokens: guessed tokens that were verified.
        accepted_tokens: guessed tokens that were right.
        streams_started: accepted streams.
        streams_finished: streams that ended, by finish reason; "error" for those that failed.
        preemptions: how often a stream had to give up its KV.
        steps: engine steps that decoded something.
        step_ms: exponential mean of a step's duration, in milliseconds.
        sampling_ms: exponential mean of a step's time for sampling, in milliseconds.
        overhead_ms: exponential mean of a step's time outside of decode and sampling, in milliseconds.
    """

    queued: int
    running: int
    paused: int
    kv_total: int
    kv_used: int
    kv_cached: int
    kv_offloaded_bytes: int
    prompt_tokens: int
    cached_tokens: int
    prefill_tokens: int
    completion_tokens: int
    drafted_tokens: int
    accepted_tokens: int
    streams_started: int
    streams_finished: dict[str, int]
    preemptions: int
    steps: int
    step_ms: float
    sampling_ms: float
    overhead_ms: float
