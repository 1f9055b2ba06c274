"""Chat templates: messages to the text of a prompt, in which a user's words are never taken for control tokens."""

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
    """One turn of a conversation.

    Attributes:
        role: "system", "user", "assistant", "tool", "developer" or "function".
        content: what was said.
    """

    role: str
    content: str


def checked_messages(messages: Sequence[Mapping[str, Any] | Message]) -> list[dict[str, Any]]:
    """Checks messages as `ChatTemplate.render` does, and returns what it renders: plain copies, independent of them.

    Rendering the copies gives the same prompt as rendering the messages, whatever becomes of those in between.

    Returns:
        For each message its "role", its "content" (a string, or None) and whatever else it has, as `tool_calls`, made
        of nothing but dicts, lists, strings, numbers, booleans and None, of exactly these types.

    Raises:
        InvalidRequestError: a message cannot be used; the field names its place, as `messages[2].content`.
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
            f"{place} makes an empty prompt: it has nothing but white space; allowed: {allowed}",
        )
    return turns


class ChatTemplate:
    """A model's chat template, compiled once and usable from any thread.

    Templates are those of Hugging Face transformers: Jinja with `raise_exception`, `strftime_now`, `tojson`, loop
    controls and `{% generation %}`. They run in a sandbox with bounded time and memory.

    Args:
        source: the Jinja text, from the model's metadata.
        bos_text: text of the token that begins a prompt, the template's `bos_token`.
        eos_text: text of the token that ends a turn or text, the template's `eos_token`.
        special_texts: texts of the model's control tokens, as far as a tokenizer recognizes them in a text only when
            asked to (parse_special in llama.cpp).

    Raises:
        InvalidRequestError: the template cannot be compiled; field "chat_template".
    """

    def __init__(self, source: str, *, bos_text: str, eos_text: str, special_texts: Sequence[str]) -> None:
        self._source = source
        self._specials = SpecialTexts(special_texts, source + bos_text + eos_text)
        self._tokens = {"bos_token": bos_text, "eos_token": eos_text}
        try:
            self._template = compile_template(source)
        except Exception as error:  # Jinja, Python's compiler, recursion: all of them mean a bad template
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
        """The prompt for these messages.

        Args:
            messages: mappings, or objects with `role` and `content`; the content is a string or a list of OpenAI's
                text parts, which are joined; None for an assistant's message that has `tool_calls`.
            add_generation_prompt: end with the beginning of an assistant's turn.
            continue_final_message: end with the content of the last message, an assistant's, to be continued;
                add_generation_prompt has no meaning then.
            tools: descriptions of tools, for the template.
            extra: more variables for the template: strings, numbers, booleans, None, lists and mappings of them.

        Returns:
            The segments, none empty, that make up the prompt: one, unless a user's words look like a control token.

        Raises:
            InvalidRequestError: a message cannot be used, and the field names its place, as `messages[2].content`; or
                the template refused the messages (field "messages") or failed (field "chat_template").
        """
        turns = checked_messages(messages)
        guard = Guard(self._specials)
        checked = {name: _checked(value, f"template_kwargs.{name}") for name, value in extra.items()}
        variables = guard.values(checked, guard.escaped)
        variables |= self._tokens
        variables["tools"] = guard.values(_checked_tools(tools), guard.guarded)
        variables["messages"] = turns = [
            # The role is one of a few and no user's words, and a template may well make a control token of it.
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
        except Exception as error:  # a template can fail in any way that Python code can
            raise self._failure(error) from None
        if continue_final_message:
            text = self._cut_at(guard.mark(), text)
        segments = guard.segments(text)
        if not segments:
            raise self._failure(ValueError("it wrote nothing for these messages"))
        return segments

    def _cut_at(self, mark: str, text: str) -> str:
        """The text up to the mark after the last content, stripped where the template strips contents.

        As transformers does it: the mark ends in a space, and whether that was kept tells.
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
    # A plain string: a template would write the name of a member of a `class Role(str, Enum)`, not its value.
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
    """A copy of a value that JSON can hold, with lists for tuples, and plain values for those of derived types.

    Raises:
        InvalidRequestError: something in it is of another kind, with its place.
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
            raise InvalidRequestError(f"{place}[{i}].type", kind, '"text"; this model reads nothing else')
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
