"""What `json_schema=` may be, and what its outputs become: a JSON schema, or a type with its instances."""

from __future__ import annotations

import functools
import inspect
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticSerializationError, core_schema

from headrace.structured.partial_json import mended, parse_json
from headrace.values.errors import InvalidRequestError

__all__ = ["Schema"]

_ALLOWED = (
    "a JSON schema (a mapping, its JSON text, or a boolean), or a type that Pydantic can describe: "
    "a model, a dataclass, list[int] ..."
)
_MAX_DEPTH = 200  # of lists and mappings in a schema, as in JSON text


@dataclass(frozen=True, slots=True, eq=False)
class Schema:
    """A JSON schema, with the type that it describes, where there is one.

    Attributes:
        json: the schema, made of nothing but dicts with string keys, lists, strings, numbers, booleans and None.
        type: the type given; None where it was a schema.
    """

    json: Any
    type: Any = None
    _adapter: TypeAdapter[Any] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, name: str, value: object) -> Schema:
        """The schema that a caller means; a mapping is copied, and may change afterwards.

        The schema of a type is that of what the type takes in, by alias. Where a model, a dataclass or a TypedDict
        would ignore keys that it does not know, its schema allows none: they would be written for nothing.

        Args:
            name: the setting or argument, for the error.
            value: a mapping, JSON text of an object or a boolean, a boolean, or a type that Pydantic's TypeAdapter
                takes: a model, a dataclass, a TypedDict, an Enum, `list[int]`, `Literal["a", "b"]` ...

        Raises:
            InvalidRequestError: it is none of these, or holds what JSON cannot hold.
        """
        if isinstance(value, str):
            value = _parsed(name, value)
        if isinstance(value, (bool, Mapping)):
            return cls(_copied(name, cast("object", value), 0))
        if value is None or inspect.isroutine(value) or isinstance(value, functools.partial):
            raise InvalidRequestError(name, cast("object", value), _ALLOWED)
        return cls.of_type(name, value)

    @classmethod
    def of_type(cls, name: str, value: Any, allowed: str = _ALLOWED) -> Schema:
        """The same of a type, or of a function, where it is that of its parameters, and `parse` calls it.

        Args:
            name: the setting or argument, for the error.
            value: the type, or the function.
            allowed: what would have been right, for the error.

        Raises:
            InvalidRequestError: nothing that Pydantic can describe.
        """
        try:
            # Types may be equal without being the same, as int | str and str | int. Functions are seldom seen again.
            is_kept = _can_hash(value) and not inspect.isfunction(value)
            adapter, schema = _made(value, repr(value)) if is_kept else _made.__wrapped__(value, "")
        except Exception as error:  # Pydantic's own, and whatever the code of a type raises
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise InvalidRequestError(name, value, allowed, f"{name}: {reason}; allowed: {allowed}") from error
        return cls(_copied(name, schema, 0), value, adapter)

    def parse(self, text: str) -> Any:
        """The value of a JSON text that fits the schema: an instance, where there is a type.

        Where there is none, the value is not checked again.

        Raises:
            ValueError: no JSON, as NaN is none; more than 200 levels; a number that is larger than a float can be; or,
                as pydantic.ValidationError, what the type's validators refuse although the schema allows it.
            Exception: whatever else the type's own code raises.
        """
        value = parse_json(text)
        if self._adapter is None:
            return value
        # By alias, whatever the models say, because so is the schema.
        return self._adapter.validate_json(mended(text), by_alias=True)


class _Generator(GenerateJsonSchema):
    """Schemas to write by: nothing that is only read and then dropped, and no titles that repeat the names."""

    def render_warning_message(self, kind: Any, detail: str) -> str | None:
        """Nothing: a default, or a choice, that JSON cannot hold cannot be written either."""

    def encode_default(self, dft: Any) -> Any:
        default = super().encode_default(dft)
        try:
            json.dumps(default, allow_nan=False)
        except ValueError as error:  # infinity, as a default often is
            raise PydanticSerializationError(str(error)) from None
        return default

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def model_schema(self, schema: core_schema.ModelSchema) -> dict[str, Any]:
        return _closed(super().model_schema(schema))

    def dataclass_schema(self, schema: core_schema.DataclassSchema) -> dict[str, Any]:
        return _closed(super().dataclass_schema(schema))

    def typed_dict_schema(self, schema: core_schema.TypedDictSchema) -> dict[str, Any]:
        return _closed(super().typed_dict_schema(schema))

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> dict[str, Any]:
        # Pydantic takes text as well, but not just any text.
        return super().decimal_schema(schema)["anyOf"][0]

    def set_schema(self, schema: core_schema.SetSchema) -> dict[str, Any]:
        return _with_repetitions(super().set_schema(schema))

    def frozenset_schema(self, schema: core_schema.FrozenSetSchema) -> dict[str, Any]:
        return _with_repetitions(super().frozenset_schema(schema))


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    return (
        {**schema, "additionalProperties": schema.get("additionalProperties", False)}
        if "properties" in schema
        else schema
    )


def _with_repetitions(schema: dict[str, Any]) -> dict[str, Any]:
    """A set takes what comes twice as well, unless it counts; and grammars cannot tell."""
    return schema if "minItems" in schema else {key: schema[key] for key in schema if key != "uniqueItems"}


def _can_hash(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


@functools.lru_cache(maxsize=256)
def _made(value: Any, _shown: str) -> tuple[TypeAdapter[Any], dict[str, Any]]:
    adapter = TypeAdapter[Any](value)
    return adapter, adapter.json_schema(by_alias=True, schema_generator=_Generator)


def _parsed(name: str, text: str) -> dict[str, Any] | bool:
    try:
        value = parse_json(text, has_unique_keys=True)
    except ValueError as error:
        message = f"{name} is text that is no JSON: {error}; allowed: {_ALLOWED}"
        raise InvalidRequestError(name, text, _ALLOWED, message) from None
    if not isinstance(value, (dict, bool)):
        raise InvalidRequestError(name, text, _ALLOWED)
    return cast("dict[str, Any] | bool", value)


def _copied(place: str, value: object, depth: int) -> Any:
    """A copy of what JSON can hold, of exactly JSON's types; the error names the place of what it cannot."""
    if isinstance(value, str):
        return str.__str__(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float) and math.isfinite(value):
        return float.__float__(value)
    if depth > _MAX_DEPTH:
        raise InvalidRequestError(place, type(value).__name__, f"at most {_MAX_DEPTH} levels of lists and mappings")
    if isinstance(value, Mapping):
        copy: dict[str, Any] = {}
        for key, item in cast("Mapping[object, object]", value).items():
            if not isinstance(key, str):
                raise InvalidRequestError(f"a key of {place}", key, "a string")
            copy[str.__str__(key)] = _copied(f"{place}.{key}", item, depth + 1)
        return copy
    if isinstance(value, (list, tuple)):
        items = cast("Sequence[object]", value)
        return [_copied(f"{place}[{i}]", item, depth + 1) for i, item in enumerate(items)]
    raise InvalidRequestError(place, value, "what JSON can hold: text, finite numbers, booleans, None, lists, mappings")
