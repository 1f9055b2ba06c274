"""Types of the answers of chat, completions and models, for the OpenAPI document and for tests.

The endpoints do not use them: they write JSON themselves, since a pydantic model would cost more time than a token.
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
    "answer_description",
]

TextReason = Literal["stop", "length"]
ChatReason = Literal["stop", "length", "tool_calls"]


class Answer(BaseModel):
    """Base of all answers: strict, and without unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid")


class PromptTokensDetails(Answer):
    """Details of the prompt's tokens."""

    cached_tokens: int = Field(description="tokens that were not computed, because their KV was in the prefix cache")


class CompletionTokensDetails(Answer):
    """Details of the answer's tokens."""

    reasoning_tokens: int = Field(description="thinking tokens, tags included")


class Usage(Answer):
    """Exact token counts. A prompt counts once, however many choices it had."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails
    cost: float = Field(default=0, description="price of these tokens, where prices are known")
    cost_currency: str = Field(default="", description="currency of the cost")


class Timings(Answer):
    """Times of a choice, in milliseconds, and its speeds, in tokens per second."""

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
    """How many tokens of a prompt were prefilled."""

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
    """The sampled token."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Answer):
    """Log probabilities of the tokens whose text has been sent."""

    content: list[Logprob]
    refusal: None


class CalledFunction(Answer):
    """The function that is called, and its arguments."""

    name: str
    arguments: str = Field(description="JSON that fits the function's parameters; cut off if finish_reason is `length`")


class CalledTool(Answer):
    """A tool call of the model."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class ChatMessage(Answer):
    """The model's answer."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    annotations: list[Any] = Field(max_length=0)
    reasoning_content: str = Field(default="", description="the thought before the answer, if any")
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
    """The new part of a call's function. The name comes once, in the first delta."""

    name: str = ""
    arguments: str


class CallDelta(Answer):
    """The new part of a tool call. Its id and type come once, in the first delta."""

    index: int
    id: str = ""
    type: Literal["function"] = "function"
    function: FunctionDelta


class ChatDelta(Answer):
    """The new part of an answer. The role comes once, in the first delta."""

    role: Literal["assistant"] = "assistant"
    content: str = ""
    reasoning_content: str = ""
    tool_calls: list[CallDelta] = Field(default=[], max_length=1, description="empty beside a token_index alone")


class ChatChunkChoice(Answer):
    """A part of one answer."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: ChatReason | None
    token_index: int | None = Field(
        default=None, description="index of the token, in its last chunk, if return_token_index is set"
    )


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
    """Log probabilities of the tokens whose text has been sent, and the tokens' places in the text."""

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
    """A part of one continuation."""

    finish_reason: TextReason | None  # pyright: ignore[reportIncompatibleVariableOverride]
    token_index: int | None = Field(default=None, description="the token's index, with return_token_index")


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
    """A served model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    context_length: int = Field(description="tokens that a prompt and its answer may have together")


class ModelList(Answer):
    """All served models."""

    object: Literal["list"]
    data: list[Model]


def answer_description(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """Returns the OpenAPI description of an endpoint that answers with a JSON object or, with `stream`, with events."""
    events = {"text/event-stream": {"schema": {"type": "string"}}}
    return {
        200: {"model": model, "content": events, "description": "A JSON object; with `stream`, server-sent events."}
    }
