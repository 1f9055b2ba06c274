"""`CallReader`: reads tool calls out of an answer, whose text arrives piece by piece."""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Callable
from enum import Enum
from typing import ClassVar

from headrace.chat.thinking import overlap
from headrace.values.output_format import ToolFormat
from headrace.values.results import Part, ToolCallDelta

__all__ = ["CallReader"]

# The tokens of a literal, between which white space is free: tags, quoted words, and punctuation.
_LITERAL_TOKEN = re.compile(r'<[^<>]+>|\[[A-Z_]+\]|"\w+"|[][{}:,"]|[^\s"]+')
_NAME = re.compile(r"[\w.-]*")
_SPACE = re.compile(r"\s*")
_ID_CHARACTERS = string.ascii_letters + string.digits


class _State(Enum):
    ANSWER = "answer"
    HEAD = "head"  # behind a trigger, up to the arguments
    ARGUMENTS = "arguments"
    TAIL = "tail"
    BETWEEN = "between"  # behind a call: another call may follow, or the end


class CallReader:
    """Reads tool calls out of text that arrives piece by piece.

    A call is emitted once its name is known, and its arguments as they arrive. If no call follows a trigger, the
    trigger is text of the answer.

    Args:
        format: how the model writes calls.

    Attributes:
        num_complete: how many calls are complete.
    """

    def __init__(self, format: ToolFormat) -> None:
        self.num_complete = 0
        self._num_begun = 0
        self._has_arguments = False  # whether the arguments of the last call have begun
        self._format = format
        self._state = _State.ANSWER
        self._held = ""
        self._has_answer = False
        self._is_next = False  # whether the call that begins is not the first behind its trigger
        self._is_stripping = False  # behind a call: white space is dropped until other text arrives
        self._arguments_end = _JsonEnd()

    @property
    def is_calling(self) -> bool:
        """Whether a call has begun and is not complete."""
        return self._state in (_State.HEAD, _State.ARGUMENTS)

    @property
    def is_in_calls(self) -> bool:
        """Whether the text that comes next belongs to calls, as far as can be told."""
        return self._state is not _State.ANSWER

    def feed(self, text: str) -> list[Part]:
        """Returns what this text adds to the answer and to calls."""
        parts: list[Part] = []
        text, self._held = self._held + text, ""
        while text:
            text = self._STEPS[self._state](self, text, parts)
        return parts

    def flush(self) -> list[Part]:
        """End the text. Returns the text that was held back, unless it belongs to a call."""
        held, self._held = self._held, ""
        return [Part("text", held)] if held and self._state is _State.ANSWER else []

    def overshoots(self, text: str) -> bool:
        """Whether this text would complete a trigger and go on with more than white space."""
        trigger = self._format.trigger
        if self._state is not _State.ANSWER or trigger[-1] not in text or self._ignores_triggers():
            return False
        _, found, rest = (self._held + text).partition(trigger)
        return bool(found) and bool(rest.strip())

    # The steps: each handles a part of the text and returns the rest. To wait for more text, a step puts the rest into
    # `_held` and returns "".

    def _answer(self, text: str, parts: list[Part]) -> str:
        if self._is_stripping:
            text = text.lstrip()
            if not text:
                return ""
            self._is_stripping = False
        trigger = self._format.trigger
        if self._ignores_triggers():
            parts.append(Part("text", text))
            return ""
        at = text.find(trigger)
        if self._format.is_leading and text[:at].strip():
            at = -1
        if at < 0:
            end = len(text) - overlap(text, trigger)
            if self._format.is_leading and not text[:end].strip():
                end = 0  # the trigger may still follow this white space
            self._held = text[end:]
        else:
            end = at
            self._state = _State.HEAD
            self._is_next = False
        if end:
            parts.append(Part("text", text[:end]))
            self._has_answer = True
        return text[end:] if at >= 0 else ""

    def _ignores_triggers(self) -> bool:
        return self._format.is_leading and (self._has_answer or self._num_begun > 0)

    def _head(self, text: str, parts: list[Part]) -> str:
        """Read the trigger and the name. If no call follows the trigger, the trigger is text of the answer."""
        format = self._format
        begin = (format.trigger, format.head) if self._is_next else (format.trigger, format.lead, format.head)
        name, end = _match(text, _literal_tokens(*begin), _literal_tokens(format.middle))
        if end is None:
            self._held = text
            return ""
        if end < 0 or not name:
            self._state = _State.ANSWER
            self._has_answer = True
            if not self._is_next or format.trigger in (format.separator or ""):
                parts.append(Part("text", format.trigger))
            return text[len(format.trigger) :]
        self._begin(name, parts)
        return text[end:]

    def _begin(self, name: str, parts: list[Part]) -> None:
        length = self._format.id_length
        random = "".join(secrets.choice(_ID_CHARACTERS) for _ in range(length)) if length else secrets.token_hex(12)
        id = random if length else f"call_{random}"
        parts.append(Part("tool_call", "", ToolCallDelta(self._num_begun, id, name, "")))
        self._num_begun += 1
        self._has_arguments = False
        self._arguments_end = _JsonEnd()
        self._state = _State.ARGUMENTS

    def _read_arguments(self, text: str, parts: list[Part]) -> str:
        if not self._has_arguments:
            text = text.lstrip()
        end = self._arguments_end.find(text)
        arguments = text if end is None else text[:end]
        if arguments:
            self._has_arguments = True
            delta = ToolCallDelta(self._num_begun - 1, None, None, arguments, is_complete=end is not None)
            parts.append(Part("tool_call", arguments, delta))
        if end is None:
            return ""
        self.num_complete += 1
        self._state = _State.TAIL
        return text[end:]

    def _tail(self, text: str, parts: list[Part]) -> str:
        _, end = _match(text, _literal_tokens(self._format.tail))
        if end is None:
            self._held = text
            return ""
        self._state = _State.BETWEEN
        return text[max(end, 0) :]

    def _between(self, text: str, parts: list[Part]) -> str:
        format = self._format
        if format.separator is not None:
            _, end = _match(text, _literal_tokens(format.separator))
            if end is None:
                self._held = text
                return ""
            if end >= 0:
                self._state = _State.HEAD
                self._is_next = True
                return format.trigger + text[end:]
        _, end = _match(text, _literal_tokens(format.closer))
        if end is None:
            self._held = text
            return ""
        self._state = _State.ANSWER
        self._is_stripping = True
        return text[max(end, 0) :]

    # Made once, since a step is looked up for every token. Functions, since bound methods would be a reference cycle.
    _STEPS: ClassVar[dict[_State, Callable[[CallReader, str, list[Part]], str]]] = {
        _State.ANSWER: _answer,
        _State.HEAD: _head,
        _State.ARGUMENTS: _read_arguments,
        _State.TAIL: _tail,
        _State.BETWEEN: _between,
    }


class _JsonEnd:
    """Finds the end of a JSON object or array in text that arrives piece by piece."""

    __slots__ = ("_depth", "_in_string", "_is_escaped")

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._is_escaped = False

    def find(self, text: str) -> int | None:
        """Returns how many characters of the text belong to the value; None if all do and the value goes on."""
        for index, character in enumerate(text):
            if self._in_string:
                if self._is_escaped:
                    self._is_escaped = False
                elif character == "\\":
                    self._is_escaped = True
                elif character == '"':
                    self._in_string = False
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    return index + 1
        return None


def _literal_tokens(*literals: str) -> tuple[str, ...]:
    """Returns the tokens of literals; white space between them is free."""
    return tuple(_LITERAL_TOKEN.findall(" ".join(literals)))


def _match(text: str, *groups: tuple[str, ...]) -> tuple[str, int | None]:
    """Match the beginning of a text with groups of literal tokens; between two groups stands a name.

    Returns:
        The name, and where the match ends: None if more text could complete the match, -1 if the text does not match.
    """
    name, at = "", 0
    for number, tokens in enumerate(groups):
        if number:
            space = _SPACE.match(text, at)
            if space and not text[:at].endswith('"'):
                at = space.end()
            found = _NAME.match(text, at)
            name = found[0] if found else ""
            at += len(name)
        for token in tokens:
            space = _SPACE.match(text, at)
            at = space.end() if space else at
            if not text.startswith(token, at):
                return name, None if token.startswith(text[at:]) else -1
            at += len(token)
    return name, at
