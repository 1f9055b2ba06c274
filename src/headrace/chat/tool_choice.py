"""`ToolChoice`: whether the model has to call a tool. `tool_choice_of` reads it from the argument `tool_choice=`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from headrace.chat.openai_tools import chosen_name
from headrace.chat.tool import Tool
from headrace.values.errors import InvalidRequestError

__all__ = ["ToolChoice", "tool_choice_of"]

_MODES = ("auto", "none", "required")


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether the model has to call a tool.

    Attributes:
        mode: "auto": the model decides; "none": it calls nothing; "required": it has to call a tool.
        name: the tool that it has to call, if `mode` is "required"; None for any tool.
    """

    mode: Literal["auto", "none", "required"] = "auto"
    name: str | None = None


def tool_choice_of(value: object, tools: Sequence[Tool]) -> ToolChoice:
    """Returns the choice that a caller has made.

    Args:
        value: "auto", "none" or "required"; a tool's name; the function or class itself; or OpenAI's mapping in the
            form of the chat API or of the Responses API. None stands for "auto". A tool whose name is one of the
            three words can be chosen in any way but by that string.
        tools: the tools that may be chosen.

    Raises:
        InvalidRequestError: the value names no tool, or is "required" where there are no tools.
    """
    names, given = [tool.name for tool in tools], value
    allowed = f"{', '.join(map(json.dumps, _MODES))}, or one of the tools{': ' * bool(names)}{', '.join(names)}"
    if value is None:
        return ToolChoice()
    if isinstance(value, str):
        word = str.__str__(value)
        if word == "required" and not tools:
            raise InvalidRequestError("tool_choice", word, '"auto" or "none", as there are no tools')
        if word == "auto" or word == "none" or word == "required":
            return ToolChoice(word)
        name, place = word, "tool_choice"
    elif isinstance(value, Mapping):
        name, place = chosen_name(cast("Mapping[Any, object]", value))
    else:
        name, place = next((tool.name for tool in tools if _is_made_of(tool, value)), None), "tool_choice"
    if name not in names:
        raise InvalidRequestError(place, given if name is None else name, allowed)
    return ToolChoice("required", name)


def _is_made_of(tool: Tool, value: object) -> bool:
    # Each access to a method makes a new object, so methods are compared by ==.
    return (
        tool is value
        or (value is not None and tool.function is value)
        or (inspect.ismethod(value) and tool.function == value)
    )
