"""`Schema`: a JSON schema, or the schema of a Python type, which then turns the output into an instance of the type."""

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
    """A JSON schema, and the type that it was made from, if any.

    Attributes:
        json: the schema, made of plain dicts with string keys, lists, strings, numbers, booleans and None.
        type: the type that was given; None if a schema was given.
    """

    json: Any
    type: Any = None
    _adapter: TypeAdapter[Any] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, name: str, value: object) -> Schema:
        """Returns the schema of a mapping, JSON text, a boolean or a type. A mapping is copied.

        The schema of a type describes the values that the type validates, with aliases as keys. It allows no unknown
        keys where a model, a dataclass or a TypedDict would ignore them, since writing them would be wasted.

        Args:
            name: the setting or argument, for errors.
            value: a mapping, JSON text of an object or a boolean, a boolean, or a type that Pydantic's TypeAdapter
                takes: a model, a dataclass, a TypedDict, an Enum, `list[int]`, `Literal["a", "b"]` ...

        Raises:
            InvalidRequestError: the value is none of these, or JSON cannot hold a part of it.
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
        """Returns the schema of a type, or of a function's parameters; then `parse` calls the function.

        Args:
            name: the setting or argument, for errors.
            value: the type, or the function.
            allowed: what the value may be, for errors.

        Raises:
            InvalidRequestError: Pydantic cannot describe the value.
        """
        try:
            # The repr is a part of the cache's key, since int | str equals str | int and is another type. Functions are
            # not cached: each is seldom seen again.
            can_cache = _can_hash(value) and not inspect.isfunction(value)
            adapter, schema = _adapter_of(value, repr(value)) if can_cache else _adapter_of.__wrapped__(value, "")
        except Exception as error:  # Pydantic's errors, and whatever the type's own code raises
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise InvalidRequestError(name, value, allowed, f"{name}: {reason}; allowed: {allowed}") from error
        return cls(_copied(name, schema, 0), value, adapter)

    def parse(self, text: str) -> Any:
        """Returns the value of JSON text that fits the schema: an instance if there is a type.

        Without a type the value is not checked against the schema again.

        Raises:
            ValueError: the text is not JSON (NaN is not), has more than 200 levels, or a number larger than a float
                can be. A pydantic.ValidationError, which is a ValueError, if the type's validators refuse a value
                that the schema allows.
            Exception: whatever else the type's own code raises.
        """
        value = parse_json(text)
        if self._adapter is None:
            return value
        # By alias, whatever the models' settings say, since the schema has aliases as keys.
        return self._adapter.validate_json(mended(text), by_alias=True)


class _Generator(GenerateJsonSchema):
    """Pydantic's schemas for text to be written: without keys that the type would ignore, and without titles."""

    def render_warning_message(self, kind: Any, detail: str) -> str | None:
        """Returns no warning: a default or a choice that JSON cannot hold is never written anyway."""

    def encode_default(self, dft: Any) -> Any:
        default = super().encode_default(dft)
        try:
            json.dumps(default, allow_nan=False)
        except ValueError as error:  # infinity is a common default
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
        # The first choice is a number. The other is text, and Pydantic does not say of which form.
        return super().decimal_schema(schema)["anyOf"][0]

    def set_schema(self, schema: core_schema.SetSchema) -> dict[str, Any]:
        return _without_unique_items(super().set_schema(schema))

    def frozenset_schema(self, schema: core_schema.FrozenSetSchema) -> dict[str, Any]:
        return _without_unique_items(super().frozenset_schema(schema))


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    return (
        {**schema, "additionalProperties": schema.get("additionalProperties", False)}
        if "properties" in schema
        else schema
    )


def _without_unique_items(schema: dict[str, Any]) -> dict[str, Any]:
    """Drop `uniqueItems`, which grammars cannot enforce: a set accepts repeated items, unless it has a least size."""
    return schema if "minItems" in schema else {key: schema[key] for key in schema if key != "uniqueItems"}


def _can_hash(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


@functools.lru_cache(maxsize=256)
def _adapter_of(value: Any, _repr: str) -> tuple[TypeAdapter[Any], dict[str, Any]]:
    adapter = TypeAdapter[Any](value)
    return adapter, adapter.json_schema(by_alias=True, schema_generator=_Generator)


def _parsed(name: str, text: str) -> dict[str, Any] | bool:
    try:
        value = parse_json(text, has_unique_keys=True)
    except ValueError as error:
        message = f"{name} is text that is not JSON: {error}; allowed: {_ALLOWED}"
        raise InvalidRequestError(name, text, _ALLOWED, message) from None
    if not isinstance(value, (dict, bool)):
        raise InvalidRequestError(name, text, _ALLOWED)
    return cast("dict[str, Any] | bool", value)


def _copied(place: str, value: object, depth: int) -> Any:
    """Returns a copy of a JSON value, with values of derived types made plain; the error names the place of a value
    that JSON cannot hold."""
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
