"""What a stream yields and what it ends with: frozen values."""

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
    """What a token adds to a tool call.

    Attributes:
        index: which call of this stream, 0, 1, 2 ...
        id: the call's id, on the first delta of a call; None on the others.
        name: the tool's name, on the first delta; None on the others.
        arguments: a piece of the arguments' JSON.
        is_complete: whether that was the last piece.
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
        text: the characters; of a tool call, a piece of its arguments.
        tool_call: what it adds to which call, where it is of one.
    """

    kind: Kind
    text: str
    tool_call: ToolCallDelta | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model asks for.

    Attributes:
        id: its id, to be named by the result's message.
        name: the tool's name.
        arguments: JSON, as the model wrote it.
        is_complete: False where the stream ended inside the call, so that the arguments are cut off.
    """

    id: str
    name: str
    arguments: str
    is_complete: bool = True

    def as_openai(self) -> dict[str, Any]:
        """The call as an assistant's message has it, in OpenAI's chat API and in chat templates."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


class TopLogprob(NamedTuple):
    """One of the most likely tokens of a step.

    Attributes:
        id: the token.
        logprob: its natural log probability under the model, before any setting changed it.
        bytes: its piece of text, which may be part of a character.
    """

    id: int
    logprob: float
    bytes: bytes


@dataclass(frozen=True, slots=True)
class Token:
    """One sampled token.

    Attributes:
        text: the characters it completed; "" where they are still held back (half a character, or what may be the
            start of a stop sequence) and arrive with a later token.
        id: its id in the model's vocabulary; -1 on the extra last one of `generate_stream_with_metrics`.
        index: 0, 1, 2 ... without gaps.
        timestamp: when it was sampled, in seconds since the epoch.
        is_last: True only on the extra last Token of `generate_stream_with_metrics`, which is not a sampled one.
        kind: "text", "thinking" or "tool_call": what its text is.
        bytes: its piece of text as the vocabulary has it, whatever was held back; of a hidden thought, none.
        logprob: its log probability, where `logprobs` was asked for.
        top_logprobs: the most likely tokens of this step, most likely first, where `logprobs` was asked for.
        tool_call: what it adds to a tool call, where it is of kind "tool_call".
        rest: text of other kinds that is left when the stream ends; only ever on the last sampled token. Where a token
            in mid-stream completes text of two kinds, the second arrives with the next token.
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
        """All that it completed: nothing where everything is held back, more than one part only at a stream's end."""
        if not self.text and self.tool_call is None:
            return self.rest
        return (Part(self.kind, self.text, self.tool_call), *self.rest)


@dataclass(frozen=True, slots=True)
class Usage:
    """Exact counts of one stream, in tokens.

    Attributes:
        prompt_tokens: length of the prompt.
        cached_tokens: how many of them were not computed, because their KV was there already.
        completion_tokens: sampled tokens, the end-of-text token included.
        thinking_tokens: how many of those were a thought, from its opening to its closing tag.
        cost: price of the stream, where prices are known.
        currency: of the cost.
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
    """Times of one stream, in milliseconds, and what it guessed; None where there is nothing to measure yet.

    Attributes:
        time_to_first_token_ms: from the request to its first token.
        tokens_per_second: decode speed: tokens after the first over the time after the first, without pauses.
        latency_ms: from the request to its end, or to now.
        queue_ms: waiting for a slot.
        prefill_ms: from the slot to the first token.
        decode_ms: from the first token to the last, without pauses.
        paused_ms: paused because its reader did not read.
        inter_token_p50_ms: median time between two tokens, pauses excluded.
        inter_token_p99_ms: 99th percentile of the same.
        drafted_tokens: tokens that were guessed, to be verified along with others; see `StreamConfig.speculation`.
        accepted_tokens: how many of them came true, so that they took no step of their own.
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
    """What a stream ended with.

    Attributes:
        text: the texts of all its tokens of kind "text", joined.
        finish_reason: "stop" (the model ended it), "stop_sequence", "length" (max_tokens, or the context is full),
            "cancelled", "timeout" or "tool_calls".
        stop_sequence: which stop sequence matched.
        usage: exact counts.
        metrics: times.
        model: name of the model.
        thinking: the thought, where there is one that is kept apart.
        tool_calls: the calls that the model asks for; the last one may be cut off.
        parsed: the object, where `json_schema` asked for one and the output is complete: an instance where a type was
            given.
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
        """Completion tokens."""
        return self.usage.completion_tokens

    @property
    def tokens_per_second(self) -> float:
        """Decode speed."""
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
    """A snapshot of an engine.

    Attributes:
        queued: streams waiting for a slot.
        running: streams with a slot that are not paused.
        paused: streams waiting for their readers.
        kv_total: KV cells, in tokens.
        kv_used: cells that hold the KV of running and paused streams.
        kv_cached: cells that hold nothing but reusable prefixes.
        kv_offloaded_bytes: main memory that holds more of these, outside of the KV cache, in bytes.
        prompt_tokens: prompt tokens accepted since the start.
        cached_tokens: prompt tokens that were not computed.
        prefill_tokens: tokens computed in prefill, restarts after preemption included.
        completion_tokens: tokens sampled since the start.
        drafted_tokens: tokens guessed, to be verified along with others.
        accepted_tokens: how many of them came true.
        streams_started: streams accepted since the start.
        streams_finished: how many ended, by finish reason; "error" where one failed.
        preemptions: how often a stream had to give up its KV.
        steps: engine steps that decoded something.
        step_ms: exponential mean of the time of a step, in milliseconds.
        sampling_ms: exponential mean of the time a step takes to choose tokens, in milliseconds.
        overhead_ms: exponential mean of the time of a step outside decode and sampling, in milliseconds.
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
