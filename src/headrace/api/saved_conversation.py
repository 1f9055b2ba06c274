"""`SavedConversation`: a conversation as JSON, without a model and without KV."""

from __future__ import annotations

import json
from typing import Any, NamedTuple, cast

from headrace.api.messages import Message, checked_fields, checked_message
from headrace.values.checks import as_int
from headrace.values.errors import InvalidRequestError

__all__ = ["SavedConversation"]

_VERSION = 1
_ALLOWED = "JSON, as to_json() writes it"


class SavedConversation(NamedTuple):
    """The parts of a conversation that its JSON holds.

    Attributes:
        max_messages: see `ConversationManager`.
        max_context_tokens: see `ConversationManager`.
        system_prompt: see `ConversationManager`.
        trimmed_messages: how many messages were trimmed.
        messages: all messages, oldest first.
    """

    max_messages: int
    max_context_tokens: int
    system_prompt: str | None
    trimmed_messages: int
    messages: list[Message]

    def to_json(self) -> str:
        """Return the conversation as JSON."""
        return json.dumps({"version": _VERSION, **self._asdict()}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> SavedConversation:
        """Read and check the JSON; `ConversationManager` checks the budget and the system prompt.

        Raises:
            InvalidRequestError: it is no such JSON; the field names the place, as `messages[2].content`.
        """
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidRequestError("text", text, _ALLOWED)
        try:
            value: object = json.loads(text)
        except (ValueError, RecursionError) as error:
            message = f"text is not valid JSON: {error}; allowed: {_ALLOWED}"
            raise InvalidRequestError("text", text, _ALLOWED, message) from None
        fields: dict[str, Any] = checked_fields("text", value, ("version", *cls._fields))
        as_int("version", fields.pop("version"), _VERSION, _VERSION)
        if not isinstance(fields["messages"], list):
            raise InvalidRequestError("messages", fields["messages"], "a list of messages")
        fields["trimmed_messages"] = as_int("trimmed_messages", fields["trimmed_messages"], 0)
        messages = enumerate(cast("list[object]", fields["messages"]))
        fields["messages"] = [checked_message(f"messages[{number}]", message) for number, message in messages]
        return cls(**fields)
