"""What `tools=` and `tool_choice=` may be: functions, models and OpenAI's dicts, as tools that can be called."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import json
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, cast

from pydantic import Field, ValidationError
from pydantic_core import to_json

from headrace.structured.schema import Schema
from headrace.values.errors import InvalidRequestError

__all__ = ["Tool", "ToolChoice", "result_text", "tool_choice_of", "tools_of"]

_ALLOWED = 'a function, a Pydantic model, or a mapping {"type": "function", "function": {"name": ..., ...}}'
_NAME = re.compile("[A-Za-z0-9_-]{1,64}")
_NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
_ARGS_SECTION = re.compile(r"(?:Args|Arguments|Parameters):\s*")
_ARGS_ENTRY = re.compile(r"(\w+)\s*(?:\([^()]*\))?:\s*(.*)")
_MOST_TOOLS = 128  # as OpenAI; each is a part of the prompt, and of a grammar
_MODES = ("auto", "none", "required")


@dataclass(frozen=True, slots=True, eq=False)
class Tool:
    """Something that a model may call.

    Attributes:
        name: 1 to 64 letters, digits, "_" and "-".
        description: what it is for.
        parameters: JSON schema of its arguments, an object.
        function: what runs it; None where it was given as a mapping, so that only the caller can.
    """

    name: str
    description: str | None
    parameters: dict[str, Any]
    function: Callable[..., Any] | None = None
    _schema: Schema | None = field(default=None, repr=False)
    _positional: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, value: object, place: str) -> Tool:
        """The tool that a caller means.

        A function (sync or async, a method, a callable object, a functools.partial, whose bound keywords the model
        does not see) is described by its name, its docstring and its signature. Parameters get descriptions from
        `Annotated[..., Field(description="...")]`, or else from the docstring's "Args:". A class that Pydantic can
        describe as an object, such as a model or a dataclass, is described by its name, its docstring and its fields.

        Args:
            value: a function, such a class, OpenAI's mapping in the form of either of its APIs, or a Tool.
            place: where it was found, for errors, as `tools[2]`.

        Raises:
            InvalidRequestError: it is none of these, or something about it cannot be used; the field names the place.
        """
        if isinstance(value, Tool):
            return value
        if isinstance(value, Mapping):
            return _of_mapping(cast("Mapping[Any, object]", value), place)
        if isinstance(value, type):
            return _of_class(cast("type[Any]", value), place)
        if callable(value):
            return _of_function(value, place)
        raise InvalidRequestError(place, value, _ALLOWED)

    @property
    def is_async(self) -> bool:
        """Whether running it is known to give an awaitable, at once."""
        function: Any = self.function
        if function is None or isinstance(function, type):
            return False
        return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)

    def as_openai(self) -> dict[str, Any]:
        """The tool as OpenAI's chat API has it, and with it chat templates; a copy."""
        described = {} if self.description is None else {"description": self.description}
        parameters = copy.deepcopy(self.parameters)
        return {"type": "function", "function": {"name": self.name, **described, "parameters": parameters}}

    def run(self, arguments: str) -> Any:
        """Call it: what the function returns, an awaitable from an async one; of a class, the instance.

        Args:
            arguments: JSON, which is checked against the signature, and turned into what that asks for.

        Raises:
            InvalidRequestError: arguments that do not fit, or a tool that cannot be run here, as `function` is None.
            Exception: whatever the function raises.
        """
        if self.function is None or self._schema is None:
            raise InvalidRequestError("tools", self.name, "a tool that was given as a function, so that it can be run")
        values = self._read(self._schema, arguments)
        if isinstance(self.function, type):
            return values
        positional = [values.pop(name) for name in self._positional]
        return self.function(*positional, **values)

    def _read(self, schema: Schema, arguments: str) -> Any:
        try:
            return schema.parse(arguments)
        except ValidationError as error:
            errors = error.errors(include_url=False, include_context=False, include_input=False)
            reasons = [_reason(one["type"], one["msg"], one["loc"]) for one in errors]
        except ValueError as error:
            reasons = [str(error)]
        message = f"the arguments of {self.name} do not fit: {'; '.join(reasons)}"
        raise InvalidRequestError("arguments", arguments, "JSON that fits the tool's parameters", message)


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether the model has to call a tool.

    Attributes:
        mode: "auto" leaves it to the model, "none" has it call nothing, "required" has it call something.
        name: the one tool that it has to call, where `mode` is "required" and there is such a one.
    """

    mode: Literal["auto", "none", "required"] = "auto"
    name: str | None = None


def tools_of(value: object) -> tuple[Tool, ...]:
    """The tools that a caller means: a list, which may be empty, or None for none.

    Raises:
        InvalidRequestError: no list, two tools of one name, or see `Tool.of`; the field names the place.
    """
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)):
        raise InvalidRequestError("tools", value, f"a list, each of it {_ALLOWED}")
    if len(cast("Sequence[object]", value)) > _MOST_TOOLS:
        raise InvalidRequestError("tools", len(cast("Sequence[object]", value)), f"at most {_MOST_TOOLS} of them")
    tools: dict[str, Tool] = {}
    for i, item in enumerate(cast("Sequence[object]", value)):
        tool = Tool.of(item, f"tools[{i}]")
        if tool.name in tools:
            raise InvalidRequestError(_name_place(item, f"tools[{i}]"), tool.name, "a name that no other tool has")
        tools[tool.name] = tool
    return tuple(tools.values())


def tool_choice_of(value: object, tools: Sequence[Tool]) -> ToolChoice:
    """What a caller means by `tool_choice`.

    Args:
        value: "auto", "none", "required" (these words are never names; a tool that is called so can be named in any
            other way), a tool's name, the function or class itself, or OpenAI's mapping in the form of either of its
            APIs; None for "auto".
        tools: the tools there are.

    Raises:
        InvalidRequestError: it names no tool, or is "required" where there are none.
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
        name, place = _named_by(cast("Mapping[Any, object]", value))
    else:
        name, place = next((tool.name for tool in tools if _is_of(tool, value)), None), "tool_choice"
    if name not in names:
        raise InvalidRequestError(place, given if name is None else name, allowed)
    return ToolChoice("required", name)


def result_text(value: object) -> str:
    """What a tool's result is to the model: text as it is, anything else as JSON, an exception as {"error": "..."}.

    Raises:
        ValueError: JSON cannot hold it.
    """
    if isinstance(value, BaseException):
        text = json.dumps({"error": _error_text(value)}, ensure_ascii=False)
    elif isinstance(value, str):
        text = str.__str__(value)
    else:
        return to_json(value, inf_nan_mode="strings").decode()
    # Lone surrogates, as in file names, are no characters, and no prompt can hold them; nor NUL, as in any binary file.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "\ufffd")


def _reason(kind: str, message: str, place: Sequence[object]) -> str:
    # A model knows nothing of Python's kinds of arguments.
    message = {"missing_keyword_only_argument": "Missing", "unexpected_keyword_argument": "Unknown"}.get(kind, message)
    return f"{'.'.join(map(str, place)) or 'arguments'}: {message}"


def _error_text(error: BaseException) -> str:
    text = ""
    with contextlib.suppress(Exception):  # an exception may have any __str__
        text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _checked_name(name: object, place: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidRequestError(place, name, 'a name of 1 to 64 ASCII letters, digits, "_" and "-"')
    return str.__str__(name)


def _name_place(value: object, place: str) -> str:
    """What an error calls the name of a tool that is given in this way."""
    if not isinstance(value, Mapping):
        return place
    return f"{place}.function.name" if "function" in value else f"{place}.name"


# OpenAI's mappings.


def _of_mapping(value: Mapping[Any, object], place: str) -> Tool:
    if value.get("type") != "function":
        raise InvalidRequestError(f"{place}.type", value.get("type"), '"function"')
    fields, where = _inner(value, place, ("name", "description", "parameters", "strict"))
    name = _checked_name(fields.get("name"), f"{where}.name")
    description = fields.get("description")
    if description is not None and not isinstance(description, str):
        raise InvalidRequestError(f"{where}.description", description, "text")
    strict = fields.get("strict")
    if strict is not None and not isinstance(strict, bool):
        raise InvalidRequestError(f"{where}.strict", strict, "True or False; arguments always fit the parameters")
    return Tool(name, description, _parameters(fields.get("parameters"), f"{where}.parameters"))


def _inner(value: Mapping[Any, object], place: str, keys: tuple[str, ...]) -> tuple[Mapping[Any, object], str]:
    """What a mapping says of a function, and where: the chat API has it one level below, the Responses API has not."""
    if "name" in value and "function" not in value:
        _check_keys(value, place, ("type", *keys))
        return value, place
    _check_keys(value, place, ("type", "function"))
    place, inner = f"{place}.function", value.get("function")
    if not isinstance(inner, Mapping):
        raise InvalidRequestError(place, inner, f"a mapping with {', '.join(keys)}")
    fields = cast("Mapping[Any, object]", inner)
    _check_keys(fields, place, keys)
    return fields, place


def _check_keys(value: Mapping[Any, object], place: str, allowed: tuple[str, ...]) -> None:
    for key in value:
        if key not in allowed:
            raise InvalidRequestError(f"{place}.{key}", value[key], f"nothing: there are only {', '.join(allowed)}")


def _parameters(value: object, place: str) -> dict[str, Any]:
    if value is None:
        return copy.deepcopy(dict(_NO_PARAMETERS))
    if not isinstance(value, Mapping):
        raise InvalidRequestError(place, value, "the JSON schema of an object, as a mapping")
    schema = Schema.of(place, cast("object", value)).json
    kind = schema.get("type", "object")
    if kind != "object":
        raise InvalidRequestError(f"{place}.type", kind, '"object"')
    # Arguments are an object whether the schema says so or not.
    return {"type": "object", **schema}


def _named_by(value: Mapping[Any, object]) -> tuple[str | None, str]:
    """The name in a mapping that chooses a tool, and its place."""
    if value.get("type") != "function":
        allowed = '"function"; what is no tool is given as a word: "auto", "none" or "required"'
        raise InvalidRequestError("tool_choice.type", value.get("type"), allowed)
    fields, place = _inner(value, "tool_choice", ("name",))
    name = fields.get("name")
    return (str.__str__(name) if isinstance(name, str) else None), f"{place}.name"


def _is_of(tool: Tool, value: object) -> bool:
    # A method is another object each time it is asked for.
    return (
        tool is value
        or (value is not None and tool.function is value)
        or (inspect.ismethod(value) and tool.function == value)
    )


# Classes and functions.


def _of_class(value: type[Any], place: str) -> Tool:
    schema = Schema.of_type(place, value, _ALLOWED)
    parameters = _inlined(schema.json)
    if parameters.get("type") != "object":
        raise InvalidRequestError(place, value, f"{_ALLOWED}; of classes, those that JSON writes as objects")
    parameters.pop("title", None)
    description = parameters.pop("description", None)
    return Tool(_checked_name(value.__name__, place), description, parameters, value, schema)


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a class that refers to itself, which Pydantic writes as a reference, with its properties on top."""
    name = schema.get("$ref", "").removeprefix("#/$defs/")
    return {**schema["$defs"][name], "$defs": schema["$defs"]} if name else dict(schema)


def _of_function(function: Any, place: str) -> Tool:
    target: Any = function.func if _is_partial(function) else function
    called: Any = inspect.unwrap(target)
    text = inspect.getdoc(target)
    if not inspect.isroutine(called) and not isinstance(called, type):
        called = type(called).__call__  # a callable object: what it does is said by its class
        text = inspect.cleandoc(called.__doc__ or type(target).__doc__ or "")
    name = _checked_name(getattr(target, "__name__", type(target).__name__), place)
    parameters = _open_parameters(function, place)
    description, entries = _sections(text or "", inspect.signature(called).parameters)
    hints = _hints(called, parameters, place)
    for parameter in parameters.keys() & entries.keys():
        hints[parameter] = _with_description(hints.get(parameter, Any), entries[parameter])

    def collect(**arguments: Any) -> dict[str, Any]:
        return arguments

    # Pydantic checks the arguments of a function, and calls it. This one has the same signature, but only hands them
    # back, so that an error of the arguments is told from one of the function.
    cast("Any", collect).__signature__ = inspect.Signature(
        [
            one.replace(kind=one.KEYWORD_ONLY, annotation=hints.get(parameter, one.annotation))
            for parameter, one in parameters.items()
        ]
    )
    collect.__annotations__ = hints
    schema = Schema.of_type(place, collect, _ALLOWED)
    positional = tuple(parameter for parameter, one in parameters.items() if one.kind is one.POSITIONAL_ONLY)
    return Tool(name, description or None, schema.json, function, schema, positional)


def _is_partial(function: object) -> bool:
    return isinstance(function, functools.partial)


def _open_parameters(function: Any, place: str) -> dict[str, inspect.Parameter]:
    """The parameters that a call has to give: not those which a functools.partial has bound already."""
    try:
        signature = inspect.signature(function)
    except (NameError, TypeError, ValueError) as error:
        raise InvalidRequestError(place, function, _ALLOWED, f"{place}: {error}; allowed: {_ALLOWED}") from None
    bound: Mapping[str, object] = function.keywords if _is_partial(function) else {}
    parameters = {name: one for name, one in signature.parameters.items() if name not in bound}
    for one in parameters.values():
        if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
            raise InvalidRequestError(place, str(one), "a function whose parameters all have names, without * and **")
    return parameters


def _hints(called: Any, described: Mapping[str, inspect.Parameter], place: str) -> dict[str, Any]:
    """The parameters' annotations, those that are strings evaluated, as with `from __future__ import annotations`."""

    def holder() -> None: ...

    # Without the others: what a function returns may well have a name that only a type checker knows.
    holder.__annotations__ = {
        name: one.annotation for name, one in described.items() if one.annotation is not inspect.Parameter.empty
    }
    try:
        return typing.get_type_hints(holder, getattr(called, "__globals__", {}), include_extras=True)
    except Exception as error:  # an annotation is an expression, and may raise anything
        message = f"{place}: an annotation cannot be read: {error}; allowed: annotations of names known in the module"
        raise InvalidRequestError(place, called, "annotations of names known in the module", message) from error


def _with_description(hint: Any, text: str) -> Any:
    """The hint with a description, unless it has one: what comes later counts more."""
    base, *metadata = typing.get_args(hint) if typing.get_origin(hint) is Annotated else (hint,)
    return Annotated[(base, Field(description=text), *metadata)]


def _sections(text: str, names: Mapping[str, object]) -> tuple[str, dict[str, str]]:
    """A docstring without its "Args:", and the entries of those; where they are not of these names, all is text."""
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if _ARGS_SECTION.fullmatch(line)), len(lines))
    end = next((i for i in range(start + 1, len(lines)) if lines[i].strip() and not lines[i][0].isspace()), len(lines))
    entries: dict[str, str] = {}
    indent = min((_indent(line) for line in lines[start + 1 : end] if line.strip()), default=0)
    name = ""
    for line in lines[start + 1 : end]:
        entry = _ARGS_ENTRY.fullmatch(line.strip()) if _indent(line) == indent else None
        if entry:
            name = entry[1]
            entries[name] = entry[2]
        elif line.strip() and name:
            entries[name] = f"{entries[name]} {line.strip()}".strip()
        elif line.strip():
            return text, {}
    if not entries or not entries.keys() <= names.keys():
        return text, {}
    return "\n".join([*lines[:start], *lines[end:]]).strip(), {name: entry for name, entry in entries.items() if entry}


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
