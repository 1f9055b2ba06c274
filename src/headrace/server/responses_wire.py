"""The body of a request to `/v1/responses`, as pydantic types."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from headrace.server.wire import Ignored, Only, Sampling, Wire

__all__ = ["INCLUDE_LOGPROBS", "InputMessage", "InputPart", "ResponseRequest"]

INCLUDE_LOGPROBS = "message.output_text.logprobs"


def _kind(value: Any) -> str | None:
    return "=text" if isinstance(value, str) else "=list" if isinstance(value, list) else None


_TEXT_OR_LIST = Discriminator(
    _kind, custom_error_type="text_or_list", custom_error_message="input should be a string or a list"
)


class InputPart(Wire):
    """A piece of a message: what a user wrote, or what a response said."""

    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: Ignored = None
    logprobs: Ignored = None
    parsed: Ignored = None  # openai-node adds it to the outputs that it hands out
    prompt_cache_breakpoint: Ignored = None


class InputMessage(Wire):
    """A turn of the conversation; the items of former responses' output are such, too."""

    type: Literal["message"] | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: Annotated[
        Annotated[str, Tag("=text")]
        | Annotated[list[InputPart], Tag("=list"), Field(min_length=1, max_length=1024, fail_fast=True)],
        _TEXT_OR_LIST,
    ]
    id: str | None = Field(default=None, max_length=512)
    status: Literal["in_progress", "completed", "incomplete"] | None = None
    phase: Literal["commentary", "final_answer"] | None = None

    @property
    def text(self) -> str:
        """All that was said."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class _Text(Wire):
    """What the text shall be like."""

    format: Annotated[Any, Only({"type": "text"})] = None
    verbosity: Annotated[Any, Only("medium")] = None


class _Reasoning(Wire):
    """How to think."""

    effort: Annotated[Any, Only()] = None
    summary: Annotated[Any, Only()] = None
    generate_summary: Annotated[Any, Only()] = None
    context: Annotated[Any, Only()] = None
    mode: Annotated[Any, Only()] = None


class _StreamOptions(Wire):
    """How the stream is written. Its last event always has the usage."""

    include_usage: Annotated[Any, Only(True)] = None
    include_obfuscation: Ignored = None


class ResponseRequest(Sampling):
    """The body of a request for a response."""

    input: Annotated[
        Annotated[str, Tag("=text")]
        | Annotated[list[InputMessage], Tag("=list"), Field(min_length=1, max_length=10_000, fail_fast=True)],
        _TEXT_OR_LIST,
    ]
    instructions: str | None = None
    max_output_tokens: int | None = None
    # The second asks for more about items that are never made here.
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = Field(
        default=None, max_length=64
    )
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    stream_options: _StreamOptions | None = None
    text: _Text | None = None
    reasoning: _Reasoning | None = None
    # Shown in the response, and so of the types that it has there.
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None = Field(
        default=None, max_length=16
    )
    user: str | None = Field(default=None, max_length=512)
    safety_identifier: str | None = Field(default=None, max_length=512)
    prompt_cache_key: str | None = Field(default=None, max_length=512)
    max_tool_calls: int | None = Field(default=None, ge=1)
    parallel_tool_calls: bool | None = None
    tools: Annotated[Any, Only([])] = None
    tool_choice: Annotated[Any, Only("auto", "none")] = None
    truncation: Annotated[Any, Only("disabled")] = None
    background: Annotated[Any, Only(False)] = None
    previous_response_id: Annotated[Any, Only()] = None
    conversation: Annotated[Any, Only()] = None
    prompt: Annotated[Any, Only()] = None
    context_management: Annotated[Any, Only([])] = None
    moderation: Annotated[Any, Only()] = None
    prompt_cache_options: Ignored = None
