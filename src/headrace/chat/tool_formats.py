"""How models write tool calls: the formats, and what reads the calls out of text that comes in pieces."""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, ClassVar, cast

from headrace.chat.thinking import overlap
from headrace.values.errors import InvalidRequestError
from headrace.values.output_format import ToolFormat
from headrace.values.results import Part, ToolCallDelta

__all__ = ["HERMES", "CallReader", "check_calls", "format_of", "instructed"]

# <tool_call>
# {"name": "get_weather", "arguments": {"city": "Oslo"}}
# </tool_call>
HERMES = ToolFormat(
    trigger="<tool_call>",
    head='{"name": "',
    middle='", "arguments": ',
    tail="}",
    separator="\n</tool_call>\n<tool_call>",
    closer="\n</tool_call>",
)
# [TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Oslo"}}, {"name": ...}]
_MISTRAL = ToolFormat(
    trigger="[TOOL_CALLS]",
    lead="[",
    head='{"name": "',
    middle='", "arguments": ',
    tail="}",
    separator=", ",
    closer="]",
    id_length=9,  # its template refuses any other
)
# [TOOL_CALLS]get_weather[ARGS]{"city": "Oslo"}
_MISTRAL_ARGS = ToolFormat(
    trigger="[TOOL_CALLS]", head="", middle="[ARGS]", tail="", separator="[TOOL_CALLS]", id_length=9
)
# {"name": "get_weather", "parameters": {"city": "Oslo"}}
# It has no tag, so its trigger is how a call begins: it counts only where the answer begins, and ends inside quotes.
_LLAMA = ToolFormat(trigger='{"name": "', head="", middle='", "parameters": ', tail="}", is_leading=True)
# Tags, quoted words, and punctuation: white space between them is free.
_CHUNK = re.compile(r'<[^<>]+>|\[[A-Z_]+\]|"\w+"|[][{}:,"]|[^\s"]+')
_NAME = re.compile(r"[\w.-]*")
_SPACE = re.compile(r"\s*")
_RESULTS = ("tool", "function")
_ID_CHARACTERS = string.ascii_letters + string.digits


def format_of(template: str) -> ToolFormat | None:
    """How a model with this chat template writes calls; None where the template knows no tools, or none known here."""
    if "tools" not in template:
        return None
    if "<tool_call>" in template and '"arguments"' in template and "<tool_calls>" not in template:
        return HERMES
    if "[TOOL_CALLS]" in template:
        return _MISTRAL_ARGS if "[ARGS]" in template else _MISTRAL
    if '{"name": function' in template and '"parameters": ' in template:  # others list their tools in much the same way
        return _LLAMA
    return None


class _State(Enum):
    ANSWER = "answer"
    HEAD = "head"  # behind a trigger, up to the arguments
    ARGUMENTS = "arguments"
    TAIL = "tail"
    BETWEEN = "between"  # behind a call: another one, or the end


class CallReader:
    """Reads tool calls out of text that comes in pieces.

    What looks like a call but is none in the end, since something else follows the trigger, is text after all. A call
    is shown once its name is known, and its arguments as they come.

    Args:
        format: how calls are written.

    Attributes:
        num_complete: how many calls are complete.
    """

    def __init__(self, format: ToolFormat) -> None:
        self.num_complete = 0
        self._num_begun = 0
        self._has_arguments = False  # whether those of the call that was begun last have begun
        self._format = format
        self._state = _State.ANSWER
        self._held = ""
        self._has_answer = False
        self._is_next = False  # whether the call that begins is not the first behind its trigger
        self._strips = False  # behind a call: whether white space goes until something else comes
        self._value = _JsonEnd()

    @property
    def is_calling(self) -> bool:
        """Whether a call has been begun and not completed."""
        return self._state in (_State.HEAD, _State.ARGUMENTS)

    @property
    def is_in_calls(self) -> bool:
        """Whether what comes now is no text of the answer, as far as can be told."""
        return self._state is not _State.ANSWER

    def feed(self, text: str) -> list[Part]:
        """What this text adds to the answer and to calls."""
        parts: list[Part] = []
        text, self._held = self._held + text, ""
        while text:
            text = self._STEPS[self._state](self, text, parts)
        return parts

    def flush(self) -> list[Part]:
        """Ends the text: what was held back and is no part of a call."""
        held, self._held = self._held, ""
        return [Part("text", held)] if held and self._state is _State.ANSWER else []

    def overshoots(self, text: str) -> bool:
        """Whether this text would complete a trigger and go on with more than white space."""
        trigger = self._format.trigger
        if self._state is not _State.ANSWER or trigger[-1] not in text or self._ignores_triggers():
            return False
        _, found, rest = (self._held + text).partition(trigger)
        return bool(found) and bool(rest.strip())

    # Each of these takes some of the text, and returns the rest; where it must wait for more, it holds the rest itself.

    def _answer(self, text: str, parts: list[Part]) -> str:
        if self._strips:
            text = text.lstrip()
            if not text:
                return ""
            self._strips = False
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
                end = 0  # white space may come before it
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
        """From the trigger on; text that does not go on as a call does is text of the answer."""
        format = self._format
        begin = (format.trigger, format.head) if self._is_next else (format.trigger, format.lead, format.head)
        name, end = _match(text, _chunks(*begin), _chunks(format.middle))
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
        self._value = _JsonEnd()
        self._state = _State.ARGUMENTS

    def _read_arguments(self, text: str, parts: list[Part]) -> str:
        if not self._has_arguments:
            text = text.lstrip()
        end = self._value.find(text)
        piece = text if end is None else text[:end]
        if piece:
            self._has_arguments = True
            delta = ToolCallDelta(self._num_begun - 1, None, None, piece, is_complete=end is not None)
            parts.append(Part("tool_call", piece, delta))
        if end is None:
            return ""
        self.num_complete += 1
        self._state = _State.TAIL
        return text[end:]

    def _tail(self, text: str, parts: list[Part]) -> str:
        _, end = _match(text, _chunks(self._format.tail))
        if end is None:
            self._held = text
            return ""
        self._state = _State.BETWEEN
        return text[max(end, 0) :]

    def _between(self, text: str, parts: list[Part]) -> str:
        format = self._format
        if format.separator is not None:
            _, end = _match(text, _chunks(format.separator))
            if end is None:
                self._held = text
                return ""
            if end >= 0:
                self._state = _State.HEAD
                self._is_next = True
                return format.trigger + text[end:]
        _, end = _match(text, _chunks(format.closer))
        if end is None:
            self._held = text
            return ""
        self._state = _State.ANSWER
        self._strips = True
        return text[max(end, 0) :]

    # Made once, because a step is looked up for every token; and functions, as bound methods would be a cycle.
    _STEPS: ClassVar[dict[_State, Callable[[CallReader, str, list[Part]], str]]] = {
        _State.ANSWER: _answer,
        _State.HEAD: _head,
        _State.ARGUMENTS: _read_arguments,
        _State.TAIL: _tail,
        _State.BETWEEN: _between,
    }


class _JsonEnd:
    """Finds the end of a JSON object or array in text that comes in pieces."""

    __slots__ = ("_depth", "_escaped", "_in_string")

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def find(self, text: str) -> int | None:
        """How much of the text belongs to the value; None for all of it, and more to come."""
        for index, character in enumerate(text):
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif character == "\\":
                    self._escaped = True
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


def _chunks(*literals: str) -> tuple[str, ...]:
    """What a literal consists of, white space left out, which is free between these."""
    return tuple(_CHUNK.findall(" ".join(literals)))


def _match(text: str, *groups: tuple[str, ...]) -> tuple[str, int | None]:
    """Compare the beginning of a text with what is expected; between two groups there is a name.

    Returns:
        The name, and where the match ends: None where the text may still become one, -1 where it cannot.
    """
    name, at = "", 0
    for number, chunks in enumerate(groups):
        if number:
            space = _SPACE.match(text, at)
            if space and not text[:at].endswith('"'):
                at = space.end()
            found = _NAME.match(text, at)
            name = found[0] if found else ""
            at += len(name)
        for chunk in chunks:
            space = _SPACE.match(text, at)
            at = space.end() if space else at
            if not text.startswith(chunk, at):
                return name, None if chunk.startswith(text[at:]) else -1
            at += len(chunk)
    return name, at


_INSTRUCTION = """\
You may call one or more of these functions to answer. They are described by JSON in <tools></tools>:
<tools>
{tools}
</tools>
To call a function, write its name and its arguments as JSON in <tool_call></tool_call>, and nothing after it:
<tool_call>
{{"name": "function-name", "arguments": {{"argument": "value"}}}}
</tool_call>"""


def instructed(
    messages: list[dict[str, Any]], tools: list[dict[str, Any]], *, has_system: bool = True
) -> list[dict[str, Any]]:
    """The messages for a model whose template knows nothing of tools: all about them is said in words.

    The system message ends with an instruction and the tools' descriptions; calls of earlier turns are written as the
    instruction says; the results of one turn's tools are a user's message, each in <tool_response></tool_response>.

    Args:
        messages: checked copies.
        tools: as OpenAI describes them.
        has_system: whether the template takes a system message; otherwise the first message begins with all that.
    """
    turns: list[dict[str, Any]] = []
    for i, message in enumerate(messages):
        if message["role"] not in _RESULTS:
            turns.append(_spoken(message))
            continue
        result = f"<tool_response>\n{message['content']}\n</tool_response>"
        if i and messages[i - 1]["role"] in _RESULTS:  # many templates refuse two messages of one role in a row
            turns[-1]["content"] += f"\n{result}"
        else:
            turns.append({"role": "user", "content": result})
    if not tools:
        return turns
    instruction = _INSTRUCTION.format(tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))
    if turns[0]["role"] == "system":
        turns[0]["content"] = f"{turns[0]['content']}\n\n{instruction}"
    elif has_system:
        turns.insert(0, {"role": "system", "content": instruction})
    else:
        turns[0]["content"] = f"{instruction}\n\n{turns[0]['content']}"
    return turns


def _spoken(message: dict[str, Any]) -> dict[str, Any]:
    calls: list[dict[str, Any]] = message.get("tool_calls") or []
    written = [_written(call["function"]) for call in calls]
    return {"role": message["role"], "content": "\n".join(filter(None, (message["content"], *written)))}


def _written(call: dict[str, Any]) -> str:
    arguments = call["arguments"]
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f'<tool_call>\n{{"name": {json.dumps(call["name"])}, "arguments": {text}}}\n</tool_call>'


def check_calls(messages: Sequence[Mapping[str, Any]]) -> None:
    """Refuse calls in messages that are none.

    Raises:
        InvalidRequestError: the field names the place, as `messages[1].tool_calls[0].function.name`.
    """
    for number, message in enumerate(messages):
        place, calls = f"messages[{number}].tool_calls", cast("object", message.get("tool_calls"))
        if calls is None:
            continue
        if not isinstance(calls, list):
            raise InvalidRequestError(place, calls, "a list of calls, or None")
        for i, call in enumerate(cast("list[object]", calls)):
            _check_call(call, f"{place}[{i}]")


def _check_call(call: object, place: str) -> None:
    function = cast("dict[str, object]", call).get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise InvalidRequestError(place, cast("object", call), '{"id": ..., "type": "function", "function": {...}}')
    fields = cast("dict[str, object]", function)
    name, arguments = fields.get("name"), fields.get("arguments")
    if not isinstance(name, str):
        raise InvalidRequestError(f"{place}.function.name", name, "text")
    if not isinstance(arguments, (str, dict)):
        raise InvalidRequestError(f"{place}.function.arguments", cast("object", arguments), "JSON text, or a mapping")
