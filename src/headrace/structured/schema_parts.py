"""What can be told from a schema that `json_schema` has read: its parts, its conditions, whether it ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

__all__ = [
    "COMBINING",
    "FRACTIONS",
    "TYPES",
    "can_end",
    "conditions",
    "in_place",
    "inside",
    "num_combined",
    "parts",
    "texts",
]

TYPES = ("null", "boolean", "object", "array", "number", "string", "integer")
COMBINING = {"$ref", "allOf", "anyOf", "oneOf"}
FRACTIONS = 1024  # the smallest divisor is one of so many parts of 1


def texts(schema: dict[str, Any]) -> set[str] | None:
    """The strings to which a schema restricts a value; None where it does not, or not to strings."""
    values: list[Any] = [schema["const"]] if "const" in schema else schema.get("enum", [])
    return set(values) if values and all(isinstance(value, str) for value in values) else None


def in_place(schema: Any) -> Iterator[str]:
    """The references that stand for the whole of a value, not for a part of it."""
    if isinstance(schema, dict):
        members = cast("dict[str, Any]", schema)
        if "$ref" in members:
            yield members["$ref"]
        for keyword in ("allOf", "anyOf", "oneOf"):
            for one in members.get(keyword, ()):
                yield from in_place(one)


def parts(schema: dict[str, Any]) -> Iterator[Any]:
    """The schemas that a schema is made of."""
    for keyword, setting in schema.items():
        if keyword in ("additionalProperties", "items"):
            yield setting
        elif keyword in ("properties", "patternProperties"):
            yield from setting.values()
        elif keyword in ("allOf", "anyOf", "oneOf", "prefixItems"):
            yield from setting


def inside(schema: Any) -> Iterator[dict[str, Any]]:
    """A schema, and all that are inside it, without bools."""
    if isinstance(schema, dict):
        members = cast("dict[str, Any]", schema)
        yield members
        for part in parts(members):
            yield from inside(part)


def num_combined(schema: dict[str, Any]) -> int:
    """How many conditions, each a schema of its own, a value has to fit."""
    single = sum(keyword in schema for keyword in ("$ref", "anyOf", "oneOf"))
    return single + len(schema.get("allOf", ())) + any(keyword not in COMBINING for keyword in schema)


def conditions(schema: Any) -> tuple[set[str], set[int], bool]:
    """The regular expressions in a schema, its divisors in the smallest fraction, and whether it refers to others."""
    if not isinstance(schema, dict):
        return set(), set(), False
    members = cast("dict[str, Any]", schema)
    patterns = {members[keyword] for keyword in ("format", "pattern") if keyword in members}
    patterns.update(members.get("patternProperties", ()))
    divisors = {int(members["multipleOf"] * FRACTIONS)} if "multipleOf" in members else set[int]()
    has_reference = "$ref" in members
    for part in parts(members):
        inner = conditions(part)
        patterns |= inner[0]
        divisors |= inner[1]
        has_reference |= inner[2]
    return patterns, divisors, has_reference


def can_end(schema: Any, ending: set[str]) -> bool:
    """Whether a value of finite length can fit a schema, as far as its references and what it requires tell."""
    if isinstance(schema, bool):
        return schema
    if "$ref" in schema and schema["$ref"] not in ending:
        return False
    if not all(can_end(one, ending) for one in schema.get("allOf", ())):
        return False
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema and not any(can_end(one, ending) for one in schema[keyword]):
            return False
    types = schema.get("type", TYPES)
    if "const" in schema or "enum" in schema or set(types) - {"array", "object"}:
        return True
    members = (schema.get("properties", {}).get(name, True) for name in schema.get("required", ()))
    items = [*schema.get("prefixItems", ()), schema.get("items", True)][: schema.get("minItems", 0)]
    return ("object" in types and all(can_end(one, ending) for one in members)) or (
        "array" in types and all(can_end(one, ending) for one in items)
    )
