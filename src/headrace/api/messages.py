"""The messages of a conversation as plain dicts: checked, and written as a prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from headrace.chat.prompts import check_text
from headrace.values.errors import InvalidRequestError

__all__ = [
    "Message",
    "checked_fields",
    "checked_message",
    "checked_text",
    "plain_prompt",
    "prompt_messages",
    "turn_starts",
]

Message = dict[str, Any]

_SPEAKERS = {"system": "System", "user": "User", "assistant": "Assistant"}


def turn_starts(messages: Sequence[Message]) -> list[int]:
    """Return the indices at which turns start: the first message, and each message of the user."""
    return [at for at, message in enumerate(messages) if at == 0 or message["role"] == "user"]


def prompt_messages(messages: Sequence[Message], system_prompt: str | None) -> list[Message]:
    """Return the messages as the chat template gets them, behind the system prompt if there is one."""
    said = [_without_marks(message) for message in messages]
    return said if system_prompt is None else [{"role": "system", "content": system_prompt}, *said]


def plain_prompt(messages: Sequence[Message]) -> str:
    """Write messages as a prompt without any model's chat template."""
    lines = [f"{_SPEAKERS[message['role']]}: {message['content']}" for message in messages]
    return "\n\n".join([*lines, "Assistant:"])


def checked_text(field: str, text: object) -> str:
    """Return the text as a plain str.

    Raises:
        InvalidRequestError: it is no text, or blank.
    """
    if not isinstance(text, str):
        raise InvalidRequestError(field, text, "text")
    check_text(field, text)
    return str.__str__(text)


def checked_message(place: str, value: object) -> Message:
    """Return a copy of a message after checking its fields.

    Raises:
        InvalidRequestError: it is no message of a conversation; the field names the place, as `messages[2].content`.
    """
    fields = checked_fields(place, value, ("role", "content"), ("thinking", "tool_calls", "incomplete"))
    role, content = fields["role"], fields["content"]
    if role == "user":
        checked_text(f"{place}.content", content)
        _refuse_others(place, fields, ("role", "content"))
    elif role != "assistant":
        raise InvalidRequestError(f"{place}.role", role, '"user" or "assistant"')
    _check_string(f"{place}.content", content)
    if "thinking" in fields:
        _check_string(f"{place}.thinking", fields["thinking"])
    _check_incomplete(place, fields)
    calls = fields.get("tool_calls", [])
    if not isinstance(calls, list):
        raise InvalidRequestError(f"{place}.tool_calls", cast("object", calls), "a list of tool calls")
    for number, call in enumerate(cast("list[object]", calls)):
        _check_call(f"{place}.tool_calls[{number}]", call)
    return fields


def checked_fields(place: str, value: object, required: Iterable[str], optional: Iterable[str] = ()) -> dict[str, Any]:
    """Return a copy of a JSON object that has these fields and no others.

    Raises:
        InvalidRequestError: it is no object, or lacks a field, or has another; the field names the place.
    """
    if not isinstance(value, dict):
        raise InvalidRequestError(place, value, "an object")
    fields = cast("dict[str, Any]", value)
    names = (*required, *optional)
    _refuse_others(place, fields, names)
    for name in required:
        if name not in fields:
            raise InvalidRequestError(
                place, fields, f"an object with {', '.join(required)}", f"{place} has no {name!r}"
            )
    return dict(fields)


def _without_marks(message: Message) -> Message:
    """The message without its thinking, its "incomplete" mark, and tool calls that were cut off."""
    said = {"role": message["role"], "content": message["content"]}
    calls = [call for call in message.get("tool_calls", ()) if "incomplete" not in call]
    return {**said, "tool_calls": calls} if calls else said


def _refuse_others(place: str, fields: Mapping[str, object], names: Sequence[str]) -> None:
    for name in fields:
        if name not in names:
            raise InvalidRequestError(f"{place}.{name}", fields[name], f"nothing; {place} has {', '.join(names)}")


def _check_call(place: str, value: object) -> None:
    call = checked_fields(place, value, ("id", "type", "function"), ("incomplete",))
    function = checked_fields(f"{place}.function", call["function"], ("name", "arguments"))
    _check_string(f"{place}.id", call["id"])
    if call["type"] != "function":
        raise InvalidRequestError(f"{place}.type", call["type"], '"function"')
    for name in ("name", "arguments"):
        _check_string(f"{place}.function.{name}", function[name])
    _check_incomplete(place, call)


def _check_incomplete(place: str, fields: Mapping[str, object]) -> None:
    if fields.get("incomplete", True) is not True:
        raise InvalidRequestError(f"{place}.incomplete", fields["incomplete"], "true, or no such field")


def _check_string(place: str, value: object) -> None:
    """Check for text that a tokenizer can take; it may be empty."""
    if not isinstance(value, str):
        raise InvalidRequestError(place, value, "text")
    if value.strip():
        check_text(place, value)
