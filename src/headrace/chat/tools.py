"""`tools_of`: turns the argument `tools=` into `Tool`s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from headrace.chat.function_tools import tool_of_class, tool_of_function
from headrace.chat.openai_tools import name_place, tool_of_mapping
from headrace.chat.tool import ALLOWED_TOOLS, Tool
from headrace.values.errors import InvalidRequestError

__all__ = ["tool_of", "tools_of"]

_MAX_TOOLS = 128  # as OpenAI; each adds to the prompt and to the grammar of calls


def tools_of(value: object) -> tuple[Tool, ...]:
    """Returns the tools in a list, which may be empty; None stands for no tools.

    Raises:
        InvalidRequestError: the value is no list, two tools have one name, or `tool_of` refuses one; the error's
            `field` names the place.
    """
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)):
        raise InvalidRequestError("tools", value, f"a list, each of it {ALLOWED_TOOLS}")
    if len(cast("Sequence[object]", value)) > _MAX_TOOLS:
        raise InvalidRequestError("tools", len(cast("Sequence[object]", value)), f"at most {_MAX_TOOLS} of them")
    tools: dict[str, Tool] = {}
    for i, item in enumerate(cast("Sequence[object]", value)):
        tool = tool_of(item, f"tools[{i}]")
        if tool.name in tools:
            raise InvalidRequestError(name_place(item, f"tools[{i}]"), tool.name, "a name that no other tool has")
        tools[tool.name] = tool
    return tuple(tools.values())


def tool_of(value: object, place: str) -> Tool:
    """Returns the tool that a function, class or mapping describes.

    A function (sync or async, a method, a callable object, a functools.partial, whose bound keywords the model does
    not see) is described by its name, its docstring and its signature. Parameters get descriptions from
    `Annotated[..., Field(description="...")]`, or else from the docstring's "Args:". A class that Pydantic can
    describe as an object, such as a model or a dataclass, is described by its name, its docstring and its fields.

    Args:
        value: a function, a class, OpenAI's mapping in the form of the chat API or of the Responses API, or a Tool.
        place: where the value was found, for errors, as `tools[2]`.

    Raises:
        InvalidRequestError: the value is none of these, or a part of it cannot be used; the error's `field` names the
            place.
    """
    if isinstance(value, Tool):
        return value
    if isinstance(value, Mapping):
        return tool_of_mapping(cast("Mapping[Any, object]", value), place)
    if isinstance(value, type):
        return tool_of_class(cast("type[Any]", value), place)
    if callable(value):
        return tool_of_function(value, place)
    raise InvalidRequestError(place, value, ALLOWED_TOOLS)
