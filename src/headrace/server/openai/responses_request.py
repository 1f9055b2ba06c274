"""`ResponseRequest`: the body of a request to `/v1/responses`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from headrace.server.openai.reasoning_effort import Effort
from headrace.server.openai.response_format import FlatFormat
from headrace.server.openai.responses_input import Input
from headrace.server.openai.sampling import Sampling
from headrace.server.openai.template_kwargs import TemplateKwargs
from headrace.server.openai.tools import FlatToolChoice, FlatTools
from headrace.server.openai.wire import Ignored, Unsupported, Wire

__all__ = ["INCLUDE_LOGPROBS", "ResponseRequest"]

INCLUDE_LOGPROBS = "message.output_text.logprobs"


class _Text(Wire):
    """The format of the answer."""

    format: FlatFormat | None = None
    verbosity: Annotated[Any, Unsupported("medium")] = None


class _Reasoning(Wire):
    """How much to think."""

    effort: Effort | None = None
    summary: Annotated[Any, Unsupported()] = None
    generate_summary: Annotated[Any, Unsupported()] = None
    context: Annotated[Any, Unsupported()] = None
    mode: Annotated[Any, Unsupported()] = None


class _StreamOptions(Wire):
    """How the stream is written. The last event always has the usage."""

    include_usage: Annotated[Any, Unsupported(True)] = None
    include_obfuscation: Ignored = None


class ResponseRequest(Sampling):
    """The body of a request for a response."""

    input: Input
    instructions: str | None = None
    max_output_tokens: int | None = None
    # The second asks for encrypted thoughts. It is accepted, because thoughts are always sent as text.
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = Field(
        default=None, max_length=64
    )
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    stream_options: _StreamOptions | None = None
    text: _Text | None = None
    reasoning: _Reasoning | None = None
    # These parameters are repeated in the response, so they have the types of the response.
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None = Field(
        default=None, max_length=16
    )
    user: str | None = Field(default=None, max_length=512)
    safety_identifier: str | None = Field(default=None, max_length=512)
    prompt_cache_key: str | None = Field(default=None, max_length=512)
    tools: FlatTools | None = None
    tool_choice: FlatToolChoice | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: TemplateKwargs | None = None
    max_tool_calls: Annotated[Any, Unsupported()] = None  # limits tools that the server itself runs: none
    truncation: Annotated[Any, Unsupported("disabled")] = None
    background: Annotated[Any, Unsupported(False)] = None
    previous_response_id: Annotated[Any, Unsupported()] = None
    conversation: Annotated[Any, Unsupported()] = None
    prompt: Annotated[Any, Unsupported()] = None
    context_management: Annotated[Any, Unsupported([])] = None
    moderation: Annotated[Any, Unsupported()] = None
    prompt_cache_options: Ignored = None
