"""`Messages`: the messages of a chat request. `template_messages` turns them into messages for a chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from headrace.server.http.errors import ApiError
from headrace.server.openai.wire import Ignored, Unsupported, Wire

__all__ = ["CalledTool", "ChatMessage", "Messages", "template_messages", "template_role"]


class TextPart(Wire):
    """Text in a message."""

    type: Literal["text"]
    text: str


class RefusalPart(Wire):
    """An assistant's refusal in a message."""

    type: Literal["refusal"]
    refusal: str


def _kind_of_content(value: Any) -> str:
    return "=parts" if isinstance(value, list) else "=text"


def _kind_of_part(value: Any) -> str:
    return "=refusal" if isinstance(value, dict) and "refusal" in value else "=text"


Part = Annotated[
    Annotated[TextPart, Tag("=text")] | Annotated[RefusalPart, Tag("=refusal")],
    Discriminator(_kind_of_part),
]
Content = Annotated[
    Annotated[str, Tag("=text")]
    | Annotated[
        # instructor sends an empty list beside tool calls, so it is accepted there. The schema shows the minimum.
        list[Part], Tag("=parts"), Field(max_length=1024, fail_fast=True, json_schema_extra={"minItems": 1})
    ],
    Discriminator(_kind_of_content),
]


class CalledFunction(Wire):
    """The function that was called, and its arguments."""

    name: str = Field(max_length=512)
    arguments: str
    parsed_arguments: Ignored = None  # OpenAI's libraries add it to the calls that they return


class CalledTool(Wire):
    """A tool call of the assistant."""

    id: str = Field(max_length=512)
    type: Literal["function"]
    function: CalledFunction
    index: Ignored = None  # a field of stream deltas


class ChatMessage(Wire):
    """A message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Content | None = None
    name: str | None = Field(default=None, max_length=256)
    refusal: str | None = None
    annotations: Annotated[Any, Unsupported([])] = None
    audio: Annotated[Any, Unsupported()] = None
    tool_calls: list[CalledTool] | None = Field(default=None, max_length=1024)
    tool_call_id: str | None = Field(default=None, max_length=512)
    function_call: Annotated[Any, Unsupported()] = None
    reasoning_content: str | None = None
    parsed: Ignored = None  # OpenAI's libraries add it to the messages that they return


Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=10_000, fail_fast=True)]
# Fields that only messages of one role may have.
_ROLE_OF_FIELD = {
    "tool_calls": "assistant",
    "refusal": "assistant",
    "reasoning_content": "assistant",
    "tool_call_id": "tool",
}


def template_role(role: str) -> str:
    """Returns a role as chat templates know it. "developer" is OpenAI's newer word for "system"."""
    return "system" if role == "developer" else role


def template_messages(messages: Sequence[ChatMessage], place: str = "messages") -> list[dict[str, Any]]:
    """Returns messages as chat templates read them.

    Args:
        messages: the messages of a request.
        place: the name of the request's parameter.

    Raises:
        ApiError: 400, a message has a field that its role does not allow, or lacks a field that its role needs.
    """
    return [_template_message(message, f"{place}[{i}]") for i, message in enumerate(messages)]


def _template_message(message: ChatMessage, place: str) -> dict[str, Any]:
    for name, role in _ROLE_OF_FIELD.items():
        if getattr(message, name) and message.role != role:
            text = (
                f"{place}.{name}: only messages of the role {role} may have it; the role of this one is {message.role}"
            )
            raise ApiError(400, text, param=f"{place}.{name}", code="invalid_value")
    content = _content_of(message, place)
    result: dict[str, Any] = {"role": template_role(message.role), "content": content}
    if message.name is not None:
        result["name"] = message.name
    if message.reasoning_content:
        result["reasoning_content"] = message.reasoning_content
    if message.tool_calls:
        result["tool_calls"] = [_call_of(call) for call in message.tool_calls]
    if message.role == "tool":
        if message.tool_call_id is None:
            raise _missing(f"{place}.tool_call_id")
        result["tool_call_id"] = message.tool_call_id
    if message.role == "function" and message.name is None:
        raise _missing(f"{place}.name")
    return result


def _content_of(message: ChatMessage, place: str) -> str | None:
    if message.content is None or message.content == []:
        if message.tool_calls:
            return None
        if not message.refusal:
            raise _missing(f"{place}.content")
        return message.refusal
    if message.refusal:
        text = f"{place}.refusal is given beside content; allowed: one of the two"
        raise ApiError(400, text, param=f"{place}.refusal", code="invalid_value")
    if isinstance(message.content, str):
        return message.content
    return "".join(part.text if isinstance(part, TextPart) else part.refusal for part in message.content)


def _call_of(call: CalledTool) -> dict[str, Any]:
    function = {"name": call.function.name, "arguments": call.function.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _missing(place: str) -> ApiError:
    return ApiError(400, f"{place}: it is missing", param=place, code="missing_required_parameter")
