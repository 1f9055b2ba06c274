"""Messages with tool calls and their results, in the forms that chat templates want.

`check_calls` checks the calls in messages. `for_tool_template` converts messages for a template that supports tools,
and `with_instructions` for a template that does not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from headrace.values.errors import InvalidRequestError

__all__ = ["check_calls", "for_tool_template", "with_instructions"]

_RESULT_ROLES = ("tool", "function")
_INSTRUCTION = """\
You may call one or more of these functions to answer. They are described by JSON in <tools></tools>:
<tools>
{tools}
</tools>
To call a function, write its name and its arguments as JSON in <tool_call></tool_call>, and nothing after it:
<tool_call>
{{"name": "function-name", "arguments": {{"argument": "value"}}}}
</tool_call>"""


def check_calls(messages: Sequence[Mapping[str, Any]]) -> None:
    """Check the tool calls in messages.

    Raises:
        InvalidRequestError: a call cannot be used; the error's `field` names the place, as
            `messages[1].tool_calls[0].function.name`.
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


def for_tool_template(message: dict[str, Any]) -> dict[str, Any]:
    """Returns a message for a template that knows tools.

    The arguments of a call become a mapping: OpenAI has them as JSON text, which a template would quote once more. A
    missing content becomes "", since many templates fail without one.
    """
    calls: object = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    parsed = [_with_parsed_arguments(call) for call in cast("list[object]", calls)]
    return {**message, "content": message["content"] or "", "tool_calls": parsed}


def _with_parsed_arguments(call: object) -> object:
    fields, called = _as_dict(call), _as_dict(_as_dict(call).get("function"))
    arguments = called.get("arguments")
    if not isinstance(arguments, str):
        return call
    try:
        return {**fields, "function": {**called, "arguments": json.loads(arguments)}}
    except (ValueError, RecursionError):  # the call was cut off, or is not JSON
        return call


def _as_dict(value: object) -> dict[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def with_instructions(
    messages: list[dict[str, Any]], tools: list[dict[str, Any]], *, has_system: bool = True
) -> list[dict[str, Any]]:
    """Returns the messages for a template that does not know tools: everything about them becomes plain text.

    An instruction and the tools' descriptions are added to the system message. Calls of earlier turns are written as
    the instruction asks for. The results of one answer's tools become one user message, each result in
    <tool_response></tool_response>.

    Args:
        messages: copies that `checked_messages` has made.
        tools: OpenAI's descriptions of the tools.
        has_system: whether the template takes a system message; if not, the first message begins with the instruction.
    """
    turns: list[dict[str, Any]] = []
    for i, message in enumerate(messages):
        if message["role"] not in _RESULT_ROLES:
            turns.append(_with_written_calls(message))
            continue
        result = f"<tool_response>\n{message['content']}\n</tool_response>"
        if i and messages[i - 1]["role"] in _RESULT_ROLES:  # many templates refuse two messages of one role in a row
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


def _with_written_calls(message: dict[str, Any]) -> dict[str, Any]:
    calls: list[dict[str, Any]] = message.get("tool_calls") or []
    written = [_written(call["function"]) for call in calls]
    return {"role": message["role"], "content": "\n".join(filter(None, (message["content"], *written)))}


def _written(call: dict[str, Any]) -> str:
    arguments = call["arguments"]
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f'<tool_call>\n{{"name": {json.dumps(call["name"])}, "arguments": {text}}}\n</tool_call>'
