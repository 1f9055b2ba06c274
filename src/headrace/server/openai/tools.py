"""What requests say of tools, of the answer's form and of thoughts: as pydantic types, and as a caller's settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, cast

from pydantic import AfterValidator, Discriminator, Field, Tag
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from headrace.chat.thinking import tags_of
from headrace.server.http.errors import ApiError
from headrace.server.openai.wire import MAX_VALUES, JsonSchema, Sampling, Wire, check_size
from headrace.values.errors import shortened

__all__ = [
    "AllowedTools",
    "Effort",
    "FlatFormat",
    "FlatTool",
    "FlatToolChoice",
    "FlatTools",
    "Format",
    "Overrides",
    "TemplateVariables",
    "Tool",
    "ToolChoice",
    "Tools",
    "effort_overrides",
    "form_overrides",
    "tool_overrides",
]

# As OpenAI has it.
_MAX_TOOLS = 128
# What a chat template has from headrace itself.
_TAKEN = ("add_generation_prompt", "bos_token", "continue_final_message", "eos_token", "messages", "self", "tools")


class Overrides(NamedTuple):
    """What a part of a request means.

    Attributes:
        settings: for `Caller.chat_job` and `Caller.job`.
        names: what the wire calls what errors of these settings name; the longest beginning of a name counts.
    """

    settings: dict[str, Any]
    names: dict[str, str]


# Tools.


class Function(Wire):
    """Something that the model may call. Arguments always fit the parameters, whatever `strict` says."""

    name: str = Field(max_length=64)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class OfFunction(Wire):
    """What is of this kind. Where it is of another, that is the first that is said."""

    type: Literal["function"]


class Tool(OfFunction):
    """A tool, as chats have it."""

    function: Function


class FlatTool(Function, OfFunction):
    """A tool, as responses have it."""


def _check_tools(tools: Sequence[Tool | FlatTool]) -> Sequence[Tool | FlatTool]:
    check_size([_function(tool).parameters for tool in tools], MAX_VALUES, "the parameters of all tools")
    return tools


Tools = Annotated[list[Tool], Field(max_length=_MAX_TOOLS, fail_fast=True), AfterValidator(_check_tools)]
FlatTools = Annotated[list[FlatTool], Field(max_length=_MAX_TOOLS, fail_fast=True), AfterValidator(_check_tools)]


class Name(Wire):
    """The name of a tool."""

    name: str = Field(max_length=512)


class NamedTool(OfFunction):
    """The one tool that has to be called."""

    function: Name


class FlatNamedTool(Name, OfFunction):
    """The same, as responses have it."""


class Allowance(Wire):
    """Some of the tools."""

    mode: Literal["auto", "required"]
    tools: list[NamedTool] = Field(min_length=1, max_length=_MAX_TOOLS)


class AllowedTools(Wire):
    """The tools that may be called, or one of which has to be."""

    type: Literal["allowed_tools"]
    allowed_tools: Allowance


class FlatAllowedTools(Wire):
    """The same, as responses have it."""

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
    """The tools that may be called, and whether one has to be.

    Only those reach the caller. The prompt never shows a tool that may not be called.

    Raises:
        ApiError: two tools of one name; a choice of a tool that there is not.
    """
    places: dict[str, int] = {}
    for at, tool in enumerate(tools or ()):
        name = _function(tool).name
        if name in places:
            place = f"{_place(tool, at)}.name"
            message = f"{place} is {shortened(name)}, which another tool has; allowed: a name of its own"
            raise ApiError(400, message, param=place, code="invalid_value")
        places[name] = at
    mode, chosen = _chosen(choice, places)
    offered = [(at, tool) for at, tool in enumerate(tools or ()) if chosen is None or _function(tool).name in chosen]
    if not offered or mode == "none":
        return Overrides({}, {})
    settings: dict[str, Any] = {"tools": [_described(tool) for _, tool in offered], "tool_choice": mode}
    if is_parallel is not None:
        settings["parallel_tool_calls"] = is_parallel
    return Overrides(settings, {f"tools[{i}].function": _place(tool, at) for i, (at, tool) in enumerate(offered)})


def _function(tool: Tool | FlatTool) -> Function:
    return tool.function if isinstance(tool, Tool) else tool


def _place(tool: Tool | FlatTool, at: int) -> str:
    return f"tools[{at}].function" if isinstance(tool, Tool) else f"tools[{at}]"


def _described(tool: Tool | FlatTool) -> dict[str, Any]:
    function = _function(tool)
    description = {} if function.description is None else {"description": function.description}
    parameters = {} if function.parameters is None else {"parameters": function.parameters}
    return {"type": "function", "function": {"name": function.name, **description, **parameters}}


def _chosen(choice: _AnyChoice | None, names: Mapping[str, int]) -> tuple[Any, set[str] | None]:
    """The caller's word for a choice, and the tools that it leaves; None for all."""
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
    for at, tool in enumerate(inner.tools):
        name, where = _named(tool, f"{place}.tools[{at}]")
        _check_known(name, where, names)
        allowed.add(name)
    return inner.mode, allowed


def _named(tool: NamedTool | FlatNamedTool, place: str) -> tuple[str, str]:
    if isinstance(tool, NamedTool):
        return tool.function.name, f"{place}.function.name"
    return tool.name, f"{place}.name"


def _check_known(name: str, place: str, names: Mapping[str, int]) -> None:
    if name not in names:
        raise _unknown(place, name, [json.dumps(one) for one in names] or ["no name, as there are no tools"])


def _unknown(place: str, given: str, allowed: Sequence[str]) -> ApiError:
    message = f"{place} is {shortened(given)}; allowed: {_listed(allowed)}"
    return ApiError(400, message, param=place, code="invalid_value")


def _listed(values: Sequence[str]) -> str:
    """Values for a message, as many as one wants to read."""
    shown = ", ".join(values[:8])
    return shown if len(values) <= 8 else f"{shown} and {len(values) - 8} more"


# The form of the answer.


class TextFormat(Wire):
    """Text of any form."""

    type: Literal["text"]


class ObjectFormat(Wire):
    """A JSON object."""

    type: Literal["json_object"]


class NamedSchema(Wire):
    """A JSON schema, which the answer always fits, whatever `strict` says. The model is not shown any of this."""

    name: str = Field(max_length=64, pattern="^[a-zA-Z0-9_-]+$")
    description: str | None = None
    schema_: JsonSchema = Field(alias="schema")
    strict: bool | None = None


class SchemaFormat(Wire):
    """JSON that fits a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


class FlatSchemaFormat(NamedSchema):
    """The same, as responses have it."""

    type: Literal["json_schema"]


def _kind_of_format(value: Any) -> str:
    kind = cast("dict[str, object]", value).get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return f"={kind}" if kind in ("text", "json_object", "json_schema") else "=other"


class UnknownFormat(Wire):
    """What is none of the others."""

    type: Literal["text", "json_object", "json_schema"]


_Plain = Annotated[TextFormat, Tag("=text")] | Annotated[ObjectFormat, Tag("=json_object")]
_Other = Annotated[SkipJsonSchema[UnknownFormat], Tag("=other")]  # it is there to be refused
Format = Annotated[
    _Plain | Annotated[SchemaFormat, Tag("=json_schema")] | _Other,
    Discriminator(_kind_of_format),
]
FlatFormat = Annotated[
    _Plain | Annotated[FlatSchemaFormat, Tag("=json_schema")] | _Other,
    Discriminator(_kind_of_format),
]
_AnyFormat = TextFormat | ObjectFormat | SchemaFormat | FlatSchemaFormat | UnknownFormat


def form_overrides(body: Sampling, format: _AnyFormat | None, place: str) -> Overrides:
    """What the answer has to be like.

    Args:
        body: the request, whose extras say it as well.
        format: OpenAI's way to say it.
        place: the parameter that this is.

    Raises:
        ApiError: it is said in two ways.
    """
    extras = {name: value for name in ("json_schema", "regex", "grammar") if (value := getattr(body, name)) is not None}
    settings, names = dict(extras), dict[str, str]()
    if isinstance(format, ObjectFormat):
        settings, names = {"json_schema": {"type": "object"}}, {"json_schema": place}
    elif isinstance(format, SchemaFormat):
        settings, names = {"json_schema": format.json_schema.schema_}, {"json_schema": f"{place}.json_schema.schema"}
    elif isinstance(format, FlatSchemaFormat):
        settings, names = {"json_schema": format.schema_}, {"json_schema": f"{place}.schema"}
    given = [*([place] if names else ()), *extras]
    if len(given) > 1:
        message = f"{given[1]} is given beside {given[0]}; allowed: one of {place}, json_schema, regex, grammar"
        raise ApiError(400, message, param=given[1], code="invalid_value")
    return Overrides(settings, names)


# Thoughts.

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]


def _check_variables(variables: dict[str, Any]) -> dict[str, Any]:
    check_size(variables, MAX_VALUES, "the variables")
    for name in variables:
        if name in _TAKEN:
            message = "the name {name} is taken; allowed: any but {taken}"
            raise PydanticCustomError("taken", message, {"name": name, "taken": ", ".join(_TAKEN)})
    return variables


TemplateVariables = Annotated[dict[str, Any], AfterValidator(_check_variables)]


def effort_overrides(
    effort: Effort | None, place: str, body: Sampling, template: str | None, variables: Mapping[str, Any] | None = None
) -> Overrides:
    """How much to think, and the variables of the chat template.

    "none" closes a thought before its first word. What the other words mean only a chat template can know; where it
    does not look for them, they would do nothing.

    Args:
        effort: how much.
        place: the parameter that says so.
        body: the request.
        template: the model's chat template.
        variables: `chat_template_kwargs`.

    Raises:
        ApiError: the template knows no efforts; or it is said in two ways.
    """
    given = dict(variables or {})
    settings: dict[str, Any] = {}
    if effort is not None:
        other = "chat_template_kwargs" if "reasoning_effort" in given else "thinking_budget"
        if "reasoning_effort" in given or (effort == "none" and body.thinking_budget not in (None, 0)):
            message = f"{place} is {json.dumps(effort)}, but {other} says something else; allowed: one of the two"
            raise ApiError(400, message, param=place, code="invalid_value")
        if effort == "none":
            if body.thinking_tags is not None or tags_of(template or "") is not None:  # else there is nothing to close
                settings["thinking_budget"] = 0
        elif "reasoning_effort" not in (template or ""):
            message = (
                f"{place} is {json.dumps(effort)}, which means nothing to this model's chat template; "
                'allowed: "none"; or limit the thought with thinking_budget'
            )
            raise ApiError(400, message, param=place, code="unsupported_parameter")
        else:
            given["reasoning_effort"] = effort
    if given:
        settings["template_kwargs"] = given
    return Overrides(settings, {"template_kwargs": "chat_template_kwargs"})
