"""`ChatTemplate`: renders messages to the text of a prompt. `checked_messages`: checks messages and copies them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from jinja2 import TemplateSyntaxError

from headrace.chat.guard import Guard, Segment, SpecialTexts
from headrace.chat.sandbox import RefusedError, compile_template, render_template
from headrace.values.errors import InvalidRequestError

__all__ = ["ChatTemplate", "Message", "Segment", "checked_messages"]

_ROLES = ("assistant", "developer", "function", "system", "tool", "user")
_MAX_DEPTH = 64  # of lists and mappings inside a message


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    Attributes:
        role: "system", "user", "assistant", "tool", "developer" or "function".
        content: its text.
    """

    role: str
    content: str


def checked_messages(messages: Sequence[Mapping[str, Any] | Message]) -> list[dict[str, Any]]:
    """Check messages and return plain copies, which later changes to the messages do not affect.

    `ChatTemplate.render` renders the copies as it would render the messages.

    Returns:
        For each message a dict with its "role", its "content" (a string, or None) and its other fields, such as
        `tool_calls`. The values are plain dicts, lists, strings, numbers, booleans and None, never of derived types.

    Raises:
        InvalidRequestError: a message cannot be used; the error's `field` names its place, as `messages[2].content`.
    """
    given = cast("Sequence[object]", messages) if isinstance(messages, Sequence) else ()  # pyright: ignore
    if isinstance(messages, (str, bytes)) or not given:
        raise InvalidRequestError("messages", cast("object", messages), "a list of at least one message")
    turns = [_checked_message(message, f"messages[{i}]") for i, message in enumerate(given)]
    last = turns[-1]
    if last["role"] == "user" and not last["content"].strip():
        place = f"messages[{len(turns) - 1}].content"
        allowed = "a last message with something to answer"
        raise InvalidRequestError(
            place,
            last["content"],
            allowed,
            f"{place} makes an empty prompt: it is blank; allowed: {allowed}",
        )
    return turns


class ChatTemplate:
    """A model's chat template, compiled once and usable from any thread.

    Templates are written in the Jinja of Hugging Face transformers, with `raise_exception`, `strftime_now`, `tojson`,
    loop controls and `{% generation %}`. They run in a sandbox with bounded time and memory. A user's words in the
    prompt never become control tokens.

    Args:
        source: the Jinja text, from the model's metadata.
        bos_text: text of the token that begins a prompt, the template's `bos_token`.
        eos_text: text of the token that ends a turn or text, the template's `eos_token`.
        special_texts: texts of the control tokens that the tokenizer recognizes only with llama.cpp's `parse_special`.

    Raises:
        InvalidRequestError: the template cannot be compiled; the error's `field` is "chat_template".
    """

    def __init__(self, source: str, *, bos_text: str, eos_text: str, special_texts: Sequence[str]) -> None:
        self._source = source
        self._specials = SpecialTexts(special_texts, source + bos_text + eos_text)
        self._tokens = {"bos_token": bos_text, "eos_token": eos_text}
        try:
            self._template = compile_template(source)
        except Exception as error:  # of Jinja, of Python's compiler, or a RecursionError: the template is bad
            raise self._failure(error) from None

    @property
    def source(self) -> str:
        """The Jinja text."""
        return self._source

    def render(
        self,
        messages: Sequence[Mapping[str, Any] | Message],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **extra: Any,
    ) -> list[Segment]:
        """Render the prompt for these messages.

        Args:
            messages: mappings, or objects with `role` and `content`. The content is a string or a list of OpenAI's
                text parts, which are joined; it may be None in an assistant's message with `tool_calls`.
            add_generation_prompt: end with the beginning of an assistant's turn.
            continue_final_message: end with the content of the last message, an assistant's, which the model
                continues; `add_generation_prompt` is ignored then.
            tools: descriptions of tools, for the template.
            extra: more variables for the template: strings, numbers, booleans, None, lists and mappings of them.

        Returns:
            The segments of the prompt, none empty. There is one, unless a user's words look like a control token.

        Raises:
            InvalidRequestError: a message cannot be used (the error's `field` names its place, as
                `messages[2].content`), the template refuses the messages (`field` is "messages"), or the template
                fails (`field` is "chat_template").
        """
        turns = checked_messages(messages)
        guard = Guard(self._specials)
        checked = {name: _checked(value, f"template_kwargs.{name}") for name, value in extra.items()}
        variables = guard.values(checked, guard.escaped)
        variables |= self._tokens
        variables["tools"] = guard.values(_checked_tools(tools), guard.guarded)
        variables["messages"] = turns = [
            # The role is one of a few words and not the user's, and a template may make a control token of it.
            {"role": turn.pop("role"), **guard.values(turn, guard.guarded)}
            for turn in turns
        ]
        variables["add_generation_prompt"] = add_generation_prompt and not continue_final_message
        if continue_final_message:
            if turns[-1]["role"] != "assistant" or turns[-1]["content"] is None:
                raise InvalidRequestError(
                    f"messages[{len(turns) - 1}]",
                    messages[-1],
                    "a message of the assistant with content, as the last one, where continue_final_message is set",
                )
            turns[-1]["content"] += guard.mark() + " "
        try:
            text = render_template(self._template, variables)
        except RefusedError as error:
            raise InvalidRequestError(
                "messages",
                messages,
                "what the model's chat template accepts",
                f"the model's chat template refuses these messages: {error.message}",
            ) from None
        except Exception as error:  # a template can raise whatever Python code can
            raise self._failure(error) from None
        if continue_final_message:
            text = self._cut_at(guard.mark(), text)
        segments = guard.segments(text)
        if not segments:
            raise self._failure(ValueError("it wrote nothing for these messages"))
        return segments

    def _cut_at(self, mark: str, text: str) -> str:
        """Returns the text up to the mark behind the last content, stripped if the template strips contents.

        As in transformers, a space follows the mark: the template has stripped the content if the space is gone.
        """
        content, found, rest = text.rpartition(mark)
        if not found:
            raise self._failure(ValueError("it does not write the last message, which was to be continued"))
        return content if rest.startswith(" ") else content.rstrip()

    def _failure(self, error: Exception) -> InvalidRequestError:
        reason = getattr(error, "message", None) or str(error) or type(error).__name__
        if isinstance(error, TemplateSyntaxError):
            reason = f"line {error.lineno}: {reason}"
        return InvalidRequestError(
            "chat_template",
            self._source,
            "a Jinja template that renders these messages",
            f"the chat template failed: {reason}; choose another template, or give the prompt as plain text",
        )


def _checked_text(text: str, place: str) -> str:
    # A plain string, since a template would write the name of a `class Role(str, Enum)` member instead of its value.
    text = str.__str__(text)
    if "\0" in text:
        raise InvalidRequestError(place, text, "text without NUL characters")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            place,
            text,
            "text that UTF-8 can hold",
            f"{place} has the lone surrogate {text[error.start]!a} at index {error.start}; "
            "allowed: text that UTF-8 can hold",
        ) from None
    return text


def _checked(value: object, place: str, depth: int = 0) -> Any:
    """Returns a copy of a JSON value. Tuples become lists, and values of derived types become plain ones.

    Raises:
        InvalidRequestError: JSON cannot hold a part of it; the error's `field` names the place.
    """
    if isinstance(value, str):
        return _checked_text(value, place)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if depth >= _MAX_DEPTH:
        raise InvalidRequestError(place, type(value).__name__, f"at most {_MAX_DEPTH} levels of lists and mappings")
    if isinstance(value, Mapping):
        copy: dict[str, Any] = {}
        for key, item in cast("Mapping[object, object]", value).items():
            if not isinstance(key, str):
                raise InvalidRequestError(f"a key of {place}", key, "a string")
            name = _checked_text(key, f"a key of {place}")
            copy[name] = _checked(item, f"{place}.{name}", depth + 1)
        return copy
    if isinstance(value, (list, tuple)):
        items = cast("Sequence[object]", value)
        return [_checked(item, f"{place}[{i}]", depth + 1) for i, item in enumerate(items)]
    raise InvalidRequestError(place, value, "a string, a number, a boolean, None, or a list or mapping of such")


def _checked_message(message: object, place: str) -> dict[str, Any]:
    if isinstance(message, Mapping):
        fields = dict(cast("Mapping[object, object]", message))
    elif hasattr(message, "role") and hasattr(message, "content"):
        spoken = cast("Message", message)
        fields: dict[object, object] = {"role": spoken.role, "content": spoken.content}
    else:
        raise InvalidRequestError(place, message, "a mapping, or an object, with role and content")
    role, content = fields.pop("role", None), fields.pop("content", None)
    if isinstance(role, str):
        role = str.__str__(role)
    if not isinstance(role, str) or role not in _ROLES:
        raise InvalidRequestError(f"{place}.role", role, f"one of {', '.join(_ROLES)}")
    extra = _checked(fields, place)
    if content is not None or role != "assistant" or not extra.get("tool_calls"):
        content = _checked_text(_joined(content, f"{place}.content"), f"{place}.content")
    return {"role": role, "content": content, **extra}


def _joined(content: object, place: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, (list, tuple)):
        raise InvalidRequestError(place, content, "a string, or a list of text parts")
    texts: list[str] = []
    for i, part in enumerate(cast("Sequence[object]", content)):
        fields: Mapping[object, object] = cast("Any", part) if isinstance(part, Mapping) else {}
        kind, text = fields.get("type"), fields.get("text")
        if isinstance(kind, str) and kind != "text":
            raise InvalidRequestError(f"{place}[{i}].type", kind, '"text"; the model reads text only')
        if kind != "text" or not isinstance(text, str):
            raise InvalidRequestError(f"{place}[{i}]", cast("object", part), '{"type": "text", "text": a string}')
        texts.append(text)
    return "".join(texts)


def _checked_tools(tools: object) -> Any:
    if tools is None:
        return None
    if not isinstance(tools, (list, tuple)) or not all(
        isinstance(tool, Mapping) for tool in cast("Sequence[object]", tools)
    ):
        raise InvalidRequestError("tools", cast("object", tools), "a list of mappings, each describing a tool")
    return _checked(cast("object", tools), "tools")
