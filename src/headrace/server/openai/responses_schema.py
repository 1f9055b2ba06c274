"""`ResponseObject`: the type of the answer of `/v1/responses`, for the OpenAPI document and for tests."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from headrace.server.openai.answer_schema import Answer, Logprob, Timings
from headrace.server.openai.reasoning_effort import Effort

__all__ = ["ResponseObject"]

Status = Literal["in_progress", "completed", "incomplete"]


class OutputText(Answer):
    """The text of an answer."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any] = Field(max_length=0)
    logprobs: list[Logprob] = Field(description="log probabilities of its tokens, if `include` asks for them")


class OutputMessage(Answer):
    """The answer, or a part of it before or after a tool call."""

    id: str
    type: Literal["message"]
    status: Status
    role: Literal["assistant"]
    content: list[OutputText]


class ReasoningText(Answer):
    """The text of a thought."""

    type: Literal["reasoning_text"]
    text: str


class OutputThought(Answer):
    """The model's thought before its answer."""

    id: str
    type: Literal["reasoning"]
    status: Status
    summary: list[Any] = Field(max_length=0)
    content: list[ReasoningText]


class OutputCall(Answer):
    """A tool call of the model. If its status is "incomplete", its arguments are cut off."""

    id: str
    type: Literal["function_call"]
    status: Status
    call_id: str
    name: str
    arguments: str = Field(description="JSON")


class InputTokensDetails(Answer):
    """Details of the input's tokens."""

    cached_tokens: int = Field(description="tokens that were not computed, because their KV was in the prefix cache")
    cache_write_tokens: Literal[0]


class OutputTokensDetails(Answer):
    """Details of the output's tokens."""

    reasoning_tokens: int


class ResponseUsage(Answer):
    """Exact token counts, and their cost if the server knows prices."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int
    cost: float | None = None
    cost_currency: str | None = None


class Incomplete(Answer):
    """Why the response was cut off."""

    reason: Literal["max_output_tokens"]


class Failure(Answer):
    """Why the response failed."""

    code: Literal["server_error"]
    message: str
    type: str
    param: str | None


class ShownTool(Answer):
    """A tool that the model may call."""

    type: Literal["function"]
    name: str
    description: str | None
    parameters: dict[str, Any] | None
    strict: bool


class ShownFormat(Answer):
    """The format of the text. Only a schema has a name."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | bool | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ShownText(Answer):
    """The format of the text."""

    format: ShownFormat


class ShownReasoning(Answer):
    """How much the model was asked to think."""

    effort: Effort | None
    summary: None


class ResponseObject(Answer):
    """A response, running or ended."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: Failure | None
    incomplete_details: Incomplete | None
    model: str
    output: list[OutputThought | OutputMessage | OutputCall]
    usage: ResponseUsage | None
    timings: Timings | None = None
    instructions: str | None
    max_output_tokens: int | None
    temperature: float
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    top_logprobs: int
    text: ShownText
    reasoning: ShownReasoning | None
    truncation: Literal["disabled"]
    tools: list[ShownTool]
    tool_choice: str | dict[str, Any]
    parallel_tool_calls: bool
    max_tool_calls: None
    previous_response_id: None
    background: Literal[False]
    store: Literal[False]
    service_tier: Literal["default"]
    metadata: dict[str, str]
    user: str | None
    safety_identifier: str | None
    prompt_cache_key: str | None
