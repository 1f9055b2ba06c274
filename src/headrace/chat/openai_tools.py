"""OpenAI's mappings that describe a tool or choose one, of the chat API and of the Responses API."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any, cast

from headrace.chat.tool import Tool
from headrace.structured.schema import Schema
from headrace.values.errors import InvalidRequestError

__all__ = ["checked_name", "chosen_name", "name_place", "tool_of_mapping"]

_NAME = re.compile("[A-Za-z0-9_-]{1,64}")
_NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


def tool_of_mapping(value: Mapping[Any, object], place: str) -> Tool:
    """Returns the tool that a mapping describes; see `tools.tool_of`."""
    if value.get("type") != "function":
        raise InvalidRequestError(f"{place}.type", value.get("type"), '"function"')
    fields, where = _function_fields(value, place, ("name", "description", "parameters", "strict"))
    name = checked_name(fields.get("name"), f"{where}.name")
    description = fields.get("description")
    if description is not None and not isinstance(description, str):
        raise InvalidRequestError(f"{where}.description", description, "text")
    strict = fields.get("strict")
    if strict is not None and not isinstance(strict, bool):
        raise InvalidRequestError(f"{where}.strict", strict, "True or False; arguments always fit the parameters")
    return Tool(name, description, _parameters(fields.get("parameters"), f"{where}.parameters"))


def chosen_name(value: Mapping[Any, object]) -> tuple[str | None, str]:
    """Returns the tool's name in a mapping given as `tool_choice`, or None, and the place of the name."""
    if value.get("type") != "function":
        allowed = '"function"; "auto", "none" and "required" are given as a string instead of a mapping'
        raise InvalidRequestError("tool_choice.type", value.get("type"), allowed)
    fields, place = _function_fields(value, "tool_choice", ("name",))
    name = fields.get("name")
    return (str.__str__(name) if isinstance(name, str) else None), f"{place}.name"


def checked_name(name: object, place: str) -> str:
    """Returns a tool's name, or raises InvalidRequestError with `place` as its field."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidRequestError(place, name, 'a name of 1 to 64 ASCII letters, digits, "_" and "-"')
    return str.__str__(name)


def name_place(value: object, place: str) -> str:
    """Returns the place of a tool's name, for errors; `value` is the tool as it was given."""
    if not isinstance(value, Mapping):
        return place
    return f"{place}.function.name" if "function" in value else f"{place}.name"


def _function_fields(
    value: Mapping[Any, object], place: str, keys: tuple[str, ...]
) -> tuple[Mapping[Any, object], str]:
    """Returns the fields that describe the function, and their place.

    The chat API has them in an inner mapping, "function"; the Responses API has them at the top.
    """
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
    # Arguments are always an object, also where the schema does not say so.
    return {"type": "object", **schema}
