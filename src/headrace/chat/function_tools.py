"""Tools made of Python functions and classes: their names, docstrings and signatures describe them."""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections.abc import Mapping
from typing import Annotated, Any, cast

from pydantic import Field

from headrace.chat.openai_tools import checked_name
from headrace.chat.tool import ALLOWED_TOOLS, Tool
from headrace.structured.schema import Schema
from headrace.values.errors import InvalidRequestError

__all__ = ["tool_of_class", "tool_of_function"]

_ARGS_SECTION = re.compile(r"(?:Args|Arguments|Parameters):\s*")
_ARGS_ENTRY = re.compile(r"(\w+)\s*(?:\([^()]*\))?:\s*(.*)")


def tool_of_class(value: type[Any], place: str) -> Tool:
    """Returns the tool whose arguments are the fields of a class; see `tools.tool_of`."""
    schema = Schema.of_type(place, value, ALLOWED_TOOLS)
    parameters = _with_top_properties(schema.json)
    if parameters.get("type") != "object":
        raise InvalidRequestError(place, value, f"{ALLOWED_TOOLS}; a class only if its instances are JSON objects")
    parameters.pop("title", None)
    description = parameters.pop("description", None)
    return Tool(checked_name(value.__name__, place), description, parameters, value, schema)


def _with_top_properties(schema: dict[str, Any]) -> dict[str, Any]:
    """Returns a class's schema with its properties on top; Pydantic puts a reference there if a class is recursive."""
    name = schema.get("$ref", "").removeprefix("#/$defs/")
    return {**schema["$defs"][name], "$defs": schema["$defs"]} if name else dict(schema)


def tool_of_function(function: Any, place: str) -> Tool:
    """Returns the tool that calls a function; see `tools.tool_of`."""
    target: Any = function.func if _is_partial(function) else function
    called: Any = inspect.unwrap(target)
    text = inspect.getdoc(target)
    if not inspect.isroutine(called) and not isinstance(called, type):
        called = type(called).__call__  # a callable object is described by its class
        text = inspect.cleandoc(called.__doc__ or type(target).__doc__ or "")
    name = checked_name(getattr(target, "__name__", type(target).__name__), place)
    parameters = _unbound_parameters(function, place)
    description, entries = _split_docstring(text or "", inspect.signature(called).parameters)
    hints = _hints(called, parameters, place)
    for parameter_name in parameters.keys() & entries.keys():
        hints[parameter_name] = _with_description(hints.get(parameter_name, Any), entries[parameter_name])

    def collect(**arguments: Any) -> dict[str, Any]:
        return arguments

    # Pydantic checks arguments and calls the function in one go. `collect` has the same signature and only returns
    # the arguments, so that an error of the arguments can be told from an error of the function.
    cast("Any", collect).__signature__ = inspect.Signature(
        [
            parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=hints.get(name, parameter.annotation))
            for name, parameter in parameters.items()
        ]
    )
    collect.__annotations__ = hints
    schema = Schema.of_type(place, collect, ALLOWED_TOOLS)
    positional = tuple(name for name, parameter in parameters.items() if parameter.kind is parameter.POSITIONAL_ONLY)
    return Tool(name, description or None, schema.json, function, schema, positional)


def _is_partial(function: object) -> bool:
    return isinstance(function, functools.partial)


def _unbound_parameters(function: Any, place: str) -> dict[str, inspect.Parameter]:
    """Returns the parameters of a function, without those that a functools.partial has bound."""
    try:
        signature = inspect.signature(function)
    except (NameError, TypeError, ValueError) as error:
        raise InvalidRequestError(
            place, function, ALLOWED_TOOLS, f"{place}: {error}; allowed: {ALLOWED_TOOLS}"
        ) from None
    bound: Mapping[str, object] = function.keywords if _is_partial(function) else {}
    parameters = {name: parameter for name, parameter in signature.parameters.items() if name not in bound}
    for parameter in parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            allowed = "a function whose parameters all have names, without * and **"
            raise InvalidRequestError(place, str(parameter), allowed)
    return parameters


def _hints(called: Any, parameters: Mapping[str, inspect.Parameter], place: str) -> dict[str, Any]:
    """Returns the annotations of parameters; those that are strings, as by a `__future__` import, are evaluated."""

    def holder() -> None: ...

    # Other annotations are left alone: that of the return value may be a name that only a type checker knows.
    holder.__annotations__ = {
        name: parameter.annotation
        for name, parameter in parameters.items()
        if parameter.annotation is not inspect.Parameter.empty
    }
    try:
        return typing.get_type_hints(holder, getattr(called, "__globals__", {}), include_extras=True)
    except Exception as error:  # an annotation is an expression, and may raise anything
        message = f"{place}: an annotation cannot be read: {error}; allowed: annotations of names known in the module"
        raise InvalidRequestError(place, called, "annotations of names known in the module", message) from error


def _with_description(hint: Any, text: str) -> Any:
    """Returns the hint with a description in front, so that a description of its own, which comes later, wins."""
    base, *metadata = typing.get_args(hint) if typing.get_origin(hint) is Annotated else (hint,)
    return Annotated[(base, Field(description=text), *metadata)]


def _split_docstring(text: str, names: Mapping[str, object]) -> tuple[str, dict[str, str]]:
    """Returns a docstring without its "Args:" section, and the entries of that section by name.

    If an entry names no parameter in `names`, or there is no such section, the docstring is returned whole.
    """
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
