"""The answers of the OpenAI-compatible endpoints as types: for the OpenAPI document, and for tests that hold us to it.

The endpoints write their JSON themselves, since a model per token would cost more than the token.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "ChatChunk",
    "ChatCompletion",
    "Model",
    "ModelList",
    "TextChunk",
    "TextCompletion",
    "answer_of",
]

TextReason = Literal["stop", "length"]
ChatReason = Literal["stop", "length", "tool_calls"]


class Answer(BaseModel):
    """What we write; nothing else is in it."""

    model_config = ConfigDict(strict=True, extra="forbid")


class PromptTokensDetails(Answer):
    """More about the prompt's tokens."""

    cached_tokens: int = Field(description="tokens that were not computed, because their KV was there already")


class CompletionTokensDetails(Answer):
    """More about the answer's tokens."""

    reasoning_tokens: int = Field(description="tokens of thoughts, their tags included")


class Usage(Answer):
    """Exact counts, in tokens: each prompt once, however many choices it had."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails
    cost: float = Field(default=0, description="price of these tokens, where prices are known")
    cost_currency: str = Field(default="", description="of the cost")


class Timings(Answer):
    """Times of a choice: milliseconds, and tokens per second."""

    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_token_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_token_ms: float
    predicted_per_second: float
    queue_ms: float
    time_to_first_token_ms: float


class PromptProgress(Answer):
    """How far a prompt was read."""

    total: int
    cache: int
    processed: int
    time_ms: int


class TopLogprob(Answer):
    """One of the most likely tokens."""

    token: str
    logprob: float
    bytes: list[int]


class Logprob(TopLogprob):
    """The token that was chosen."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Answer):
    """Log probabilities of the tokens whose text has been sent."""

    content: list[Logprob]
    refusal: None


class CalledFunction(Answer):
    """What shall be called, and with what."""

    name: str
    arguments: str = Field(description="JSON that fits the function's parameters; cut off where `length` is the reason")


class CalledTool(Answer):
    """A call that the model asks for."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class ChatMessage(Answer):
    """What the model answered."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    annotations: list[Any] = Field(max_length=0)
    reasoning_content: str = Field(default="", description="its thought, where there is one")
    tool_calls: list[CalledTool] = Field(default=[], min_length=1)


class ChatChoice(Answer):
    """One answer."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: ChatReason


class ChatCompletion(Answer):
    """The answer to a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    timings: Timings


class FunctionDelta(Answer):
    """What is new about a call's function; the name comes once, in the first."""

    name: str = ""
    arguments: str


class CallDelta(Answer):
    """What is new about a call; its id and type come once, in the first."""

    index: int
    id: str = ""
    type: Literal["function"] = "function"
    function: FunctionDelta


class ChatDelta(Answer):
    """What is new; the role comes once, in the first."""

    role: Literal["assistant"] = "assistant"
    content: str = ""
    reasoning_content: str = ""
    tool_calls: list[CallDelta] = Field(default=[], max_length=1, description="empty with a token_index alone")


class ChatChunkChoice(Answer):
    """A piece of one answer."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: ChatReason | None
    token_index: int | None = Field(default=None, description="with the last chunk of a token, where asked for")


class ChatChunk(Answer):
    """An event of a streamed chat."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
    timings: Timings | None = None
    prompt_progress: PromptProgress | None = None


class TextLogprobs(Answer):
    """Log probabilities of the tokens whose text has been sent, and where they stand in it."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(Answer):
    """One continuation."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: TextReason


class TextChunkChoice(TextChoice):
    """A piece of one continuation."""

    finish_reason: TextReason | None  # pyright: ignore[reportIncompatibleVariableOverride]
    token_index: int | None = Field(default=None, description="of the token, where asked for")


class TextCompletion(Answer):
    """The continuation of a text."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage
    timings: Timings


class TextChunk(Answer):
    """An event of a streamed completion."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChunkChoice]
    usage: Usage | None = None
    timings: Timings | None = None
    prompt_progress: PromptProgress | None = None


class Model(Answer):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    context_length: int = Field(description="tokens that a prompt and its answer may have together")


class ModelList(Answer):
    """All of them."""

    object: Literal["list"]
    data: list[Model]


def answer_of(whole: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """What the OpenAPI document says of an endpoint that answers whole or, with `stream`, in events."""
    events = {"text/event-stream": {"schema": {"type": "string"}}}
    return {200: {"model": whole, "content": events, "description": "Whole, or with `stream` as server-sent events."}}
