"""The messages of a conversation as plain values, and the one turn whose reply is still being read."""

from __future__ import annotations

import _thread
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from headrace.api.stream import AsyncTokenStream, TokenStream
from headrace.chat.prompts import check_text
from headrace.values.accumulator import Accumulator
from headrace.values.config import StreamConfig
from headrace.values.errors import InvalidRequestError
from headrace.values.events import End, TokenEvent
from headrace.values.results import Token

__all__ = ["Message", "Turn", "checked_fields", "checked_message", "checked_text", "spoken", "turn_starts"]

Message = dict[str, Any]


class Turn:
    """A message on its way, and what the reader of its reply has been shown.

    It takes no lock, because a stream may end within a garbage collection, in the midst of anything.

    Args:
        message: what was said.
        history: the messages before it.
        known: tokens whose KV may be cached.

    Attributes:
        stream: the reply.
        num_trimmed: how many messages of the history had to go.
        prompt: the tokens that were sent.
        room: how many tokens the reply may have beside them.
        is_over: whether nothing more will be shown.
    """

    def __init__(self, message: Message, history: list[Message], known: tuple[int, ...]) -> None:
        self.message = message
        self.history = history
        self.known = known
        self.stream: weakref.ref[TokenStream | AsyncTokenStream] | None = None
        self.num_trimmed = 0
        self.prompt: tuple[int, ...] = ()
        self.room = 0
        self.is_over = False
        self._shown: list[Token] = []
        self._end: End | None = None
        self._unread: Sequence[TokenEvent] = ()
        self._ending = _thread.allocate_lock()  # whoever acquires it, without waiting, has ended it

    def fitted(self, config: StreamConfig) -> StreamConfig:
        """The settings, with a reply that fits beside the prompt."""
        return config.replace(max_tokens=min(config.max_tokens, self.room))

    def shown(self, token: Token) -> None:
        """Take in a token; where `tee` made several readers, the first of them counts."""
        if token.index == len(self._shown):
            self._shown.append(token)

    def ended(self, end: End | None, unread: Sequence[TokenEvent]) -> None:
        """Take in the end."""
        if self._ending.acquire(blocking=False):
            self._end, self._unread = end, unread
            self.is_over = True

    @property
    def visible(self) -> list[Message]:
        """The conversation as it is shown now."""
        reply = self.reply()
        return [*self.history[self.num_trimmed :], self.message, *([] if reply is None else [reply])]

    def reply(self) -> Message | None:
        """The reply as far as it was shown; None where nothing was, and more was to come."""
        end = self._end
        said = Accumulator(part for token in self._shown.copy() for part in token.parts) if end is None else end
        text, thinking, calls = said.text, said.thinking, said.tool_calls
        is_incomplete = end is None or end.finish_reason in (None, "cancelled", "timeout")
        if is_incomplete and not (text or thinking or calls):
            return None
        reply: Message = {"role": "assistant", "content": text}
        if thinking:
            reply["thinking"] = thinking
        if calls:
            reply["tool_calls"] = [call.as_openai() for call in calls]
            if end is None or not calls[-1].is_complete:  # who left in the middle did not get to run the last one
                reply["tool_calls"][-1]["incomplete"] = True
        if is_incomplete:
            reply["incomplete"] = True
        return reply

    def tokens(self) -> tuple[int, ...]:
        """The tokens of the prompt and of the reply, as they were sampled."""
        ids = [token.id for token in self._shown]
        ids += [event.id for event in self._unread if event.number >= len(ids)]
        return (*self.prompt, *ids)


def turn_starts(messages: Sequence[Message]) -> list[int]:
    """Where turns start: with each message of the user, and whatever comes first."""
    return [at for at, message in enumerate(messages) if at == 0 or message["role"] == "user"]


def spoken(message: Message) -> Message:
    """A message as chat templates are to see it: no thoughts, no marks, no calls that were cut off."""
    said = {"role": message["role"], "content": message["content"]}
    calls = [call for call in message.get("tool_calls", ()) if "incomplete" not in call]
    return {**said, "tool_calls": calls} if calls else said


def checked_text(field: str, text: object) -> str:
    """Text that says something.

    Raises:
        InvalidRequestError: it is none.
    """
    if not isinstance(text, str):
        raise InvalidRequestError(field, text, "text")
    check_text(field, text)
    return str.__str__(text)


def checked_message(place: str, value: object) -> Message:
    """A copy of a message as conversations keep it.

    Raises:
        InvalidRequestError: it is none; the field names its place, as `messages[2].content`.
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
    _check_mark(place, fields)
    calls = fields.get("tool_calls", [])
    if not isinstance(calls, list):
        raise InvalidRequestError(f"{place}.tool_calls", cast("object", calls), "a list of calls")
    for number, call in enumerate(cast("list[object]", calls)):
        _check_call(f"{place}.tool_calls[{number}]", call)
    return fields


def checked_fields(place: str, value: object, required: Iterable[str], optional: Iterable[str] = ()) -> dict[str, Any]:
    """An object of JSON that has these fields and no others.

    Raises:
        InvalidRequestError: it is none; the field names its place.
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
    _check_mark(place, call)


def _check_mark(place: str, fields: Mapping[str, object]) -> None:
    if fields.get("incomplete", True) is not True:
        raise InvalidRequestError(f"{place}.incomplete", fields["incomplete"], "true, or nothing")


def _check_string(place: str, value: object) -> None:
    """Any text, an empty one too, as long as a tokenizer can take it."""
    if not isinstance(value, str):
        raise InvalidRequestError(place, value, "text")
    if value.strip():
        check_text(place, value)
