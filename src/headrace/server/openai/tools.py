"""`Tools` and `ToolChoice`: the tools of a request. `tool_overrides` turns them into settings.

The `Flat` types are those of `/v1/responses`, which has the fields of a function beside its `type`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, Discriminator, Field, Tag

from headrace.server.http.errors import ApiError
from headrace.server.openai.json_schema import MAX_VALUES, check_size
from headrace.server.openai.overrides import Overrides
from headrace.server.openai.wire import Wire
from headrace.values.errors import shortened

__all__ = ["FlatTool", "FlatToolChoice", "FlatTools", "Tool", "ToolChoice", "Tools", "tool_overrides"]

_MAX_TOOLS = 128  # OpenAI's limit


class Function(Wire):
    """A function that the model may call. Its arguments always fit `parameters`, whatever `strict` says."""

    name: str = Field(max_length=64)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class OfFunction(Wire):
    """Base of types whose `type` is "function". `type` is their first field, so that its error comes first."""

    type: Literal["function"]


class Tool(OfFunction):
    """A tool, in the format of /v1/chat/completions."""

    function: Function


class FlatTool(Function, OfFunction):
    """A tool, in the format of /v1/responses."""


def _check_tools(tools: Sequence[Tool | FlatTool]) -> Sequence[Tool | FlatTool]:
    check_size([_function(tool).parameters for tool in tools], MAX_VALUES, "the parameters of all tools")
    return tools


Tools = Annotated[list[Tool], Field(max_length=_MAX_TOOLS, fail_fast=True), AfterValidator(_check_tools)]
FlatTools = Annotated[list[FlatTool], Field(max_length=_MAX_TOOLS, fail_fast=True), AfterValidator(_check_tools)]


class Name(Wire):
    """The name of a tool."""

    name: str = Field(max_length=512)


class NamedTool(OfFunction):
    """The one tool that must be called, in the format of /v1/chat/completions."""

    function: Name


class FlatNamedTool(Name, OfFunction):
    """The one tool that must be called, in the format of /v1/responses."""


class Allowance(Wire):
    """The tools that may be called, and whether one must be."""

    mode: Literal["auto", "required"]
    tools: list[NamedTool] = Field(min_length=1, max_length=_MAX_TOOLS)


class AllowedTools(Wire):
    """The tools that may be called, in the format of /v1/chat/completions."""

    type: Literal["allowed_tools"]
    allowed_tools: Allowance


class FlatAllowedTools(Wire):
    """The tools that may be called, in the format of /v1/responses."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[FlatNamedTool] = Field(min_length=1, max_length=_MAX_TOOLS)


def _kind_of_choice(value: Any) -> str:
    if not isinstance(value, dict):
        return "=word"
    return "=allowed" if cast("dict[str, object]", value).get("type") == "allowed_tools" else "=named"


Word = Annotated[Literal["none", "auto", "required"], Tag("=word")]
ToolChoice = Annotated[
    Word | Annotated[NamedTool, Tag("=named")] | Annotated[AllowedTools, Tag("=allowed")],
    Discriminator(_kind_of_choice),
]
FlatToolChoice = Annotated[
    Word | Annotated[FlatNamedTool, Tag("=named")] | Annotated[FlatAllowedTools, Tag("=allowed")],
    Discriminator(_kind_of_choice),
]
_AnyChoice = str | NamedTool | FlatNamedTool | AllowedTools | FlatAllowedTools


def tool_overrides(
    tools: Sequence[Tool | FlatTool] | None, choice: _AnyChoice | None, is_parallel: bool | None
) -> Overrides:
    """Returns the settings for the tools that may be called, and whether one must be.

    Tools that may not be called are left out, so the prompt never shows them.

    Raises:
        ApiError: two tools have the same name, or the choice names an unknown tool.
    """
    indexes: dict[str, int] = {}
    for index, tool in enumerate(tools or ()):
        name = _function(tool).name
        if name in indexes:
            place = f"{_place(tool, index)}.name"
            message = f"{place} is {shortened(name)}, which another tool has; allowed: a different name for each tool"
            raise ApiError(400, message, param=place, code="invalid_value")
        indexes[name] = index
    mode, allowed = _allowed_tools(choice, indexes)
    offered = [
        (index, tool) for index, tool in enumerate(tools or ()) if allowed is None or _function(tool).name in allowed
    ]
    if not offered or mode == "none":
        return Overrides({}, {})
    settings: dict[str, Any] = {"tools": [_described(tool) for _, tool in offered], "tool_choice": mode}
    if is_parallel is not None:
        settings["parallel_tool_calls"] = is_parallel
    return Overrides(settings, {f"tools[{i}].function": _place(tool, index) for i, (index, tool) in enumerate(offered)})


def _function(tool: Tool | FlatTool) -> Function:
    return tool.function if isinstance(tool, Tool) else tool


def _place(tool: Tool | FlatTool, index: int) -> str:
    return f"tools[{index}].function" if isinstance(tool, Tool) else f"tools[{index}]"


def _described(tool: Tool | FlatTool) -> dict[str, Any]:
    function = _function(tool)
    description = {} if function.description is None else {"description": function.description}
    parameters = {} if function.parameters is None else {"parameters": function.parameters}
    return {"type": "function", "function": {"name": function.name, **description, **parameters}}


def _allowed_tools(choice: _AnyChoice | None, names: Mapping[str, int]) -> tuple[Any, set[str] | None]:
    """Returns `tool_choice` for the caller, and the names of the tools that may be called; None for all."""
    if choice is None or isinstance(choice, str):
        if choice == "required" and not names:
            raise _unknown("tool_choice", choice, ['"auto"', '"none"'])
        return choice or "auto", None
    if isinstance(choice, NamedTool | FlatNamedTool):
        name, place = _named(choice, "tool_choice")
        _check_known(name, place, names)
        return {"type": "function", "function": {"name": name}}, {name}
    inner, place = choice, "tool_choice"
    if isinstance(inner, AllowedTools):
        inner, place = inner.allowed_tools, "tool_choice.allowed_tools"
    allowed: set[str] = set()
    for index, tool in enumerate(inner.tools):
        name, where = _named(tool, f"{place}.tools[{index}]")
        _check_known(name, where, names)
        allowed.add(name)
    return inner.mode, allowed


def _named(tool: NamedTool | FlatNamedTool, place: str) -> tuple[str, str]:
    if isinstance(tool, NamedTool):
        return tool.function.name, f"{place}.function.name"
    return tool.name, f"{place}.name"


def _check_known(name: str, place: str, names: Mapping[str, int]) -> None:
    if name not in names:
        raise _unknown(place, name, [json.dumps(known) for known in names] or ["no name, as there are no tools"])


def _unknown(place: str, given: str, allowed: Sequence[str]) -> ApiError:
    message = f"{place} is {shortened(given)}; allowed: {_listed(allowed)}"
    return ApiError(400, message, param=place, code="invalid_value")


def _listed(values: Sequence[str]) -> str:
    """Returns the first eight values for a message, and how many more there are."""
    shown = ", ".join(values[:8])
    return shown if len(values) <= 8 else f"{shown} and {len(values) - 8} more"
