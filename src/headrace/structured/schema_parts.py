"""Functions that walk a schema which `schema_reader` has read: its parts, its conditions, whether it ends."""

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
FRACTIONS = 1024  # a divisor is a multiple of 1 / FRACTIONS


def texts(schema: dict[str, Any]) -> set[str] | None:
    """Returns the strings that `const` or `enum` allow; None without these keywords or with other values."""
    values: list[Any] = [schema["const"]] if "const" in schema else schema.get("enum", [])
    return set(values) if values and all(isinstance(value, str) for value in values) else None


def in_place(schema: Any) -> Iterator[str]:
    """Yields the references that apply to the whole value, not to a part of it."""
    if isinstance(schema, dict):
        members = cast("dict[str, Any]", schema)
        if "$ref" in members:
            yield members["$ref"]
        for keyword in ("allOf", "anyOf", "oneOf"):
            for part in members.get(keyword, ()):
                yield from in_place(part)


def parts(schema: dict[str, Any]) -> Iterator[Any]:
    """Yields the schemas directly inside a schema."""
    for keyword, setting in schema.items():
        if keyword in ("additionalProperties", "items"):
            yield setting
        elif keyword in ("properties", "patternProperties"):
            yield from setting.values()
        elif keyword in ("allOf", "anyOf", "oneOf", "prefixItems"):
            yield from setting


def inside(schema: Any) -> Iterator[dict[str, Any]]:
    """Yields a schema and all schemas inside it, at any depth, except those that are bools."""
    if isinstance(schema, dict):
        members = cast("dict[str, Any]", schema)
        yield members
        for part in parts(members):
            yield from inside(part)


def num_combined(schema: dict[str, Any]) -> int:
    """Returns how many schemas a value has to fit: those of references and combinations, and the other keywords."""
    single = sum(keyword in schema for keyword in ("$ref", "anyOf", "oneOf"))
    return single + len(schema.get("allOf", ())) + any(keyword not in COMBINING for keyword in schema)


def conditions(schema: Any) -> tuple[set[str], set[int], bool]:
    """Returns the regular expressions in a schema, its divisors times `FRACTIONS`, and whether it has references."""
    if not isinstance(schema, dict):
        return set(), set(), False
    members = cast("dict[str, Any]", schema)
    patterns = {members[keyword] for keyword in ("format", "pattern") if keyword in members}
    patterns.update(members.get("patternProperties", ()))
    divisors = {int(members["multipleOf"] * FRACTIONS)} if "multipleOf" in members else set[int]()
    has_reference = "$ref" in members
    for part in parts(members):
        inner_patterns, inner_divisors, inner_has_reference = conditions(part)
        patterns |= inner_patterns
        divisors |= inner_divisors
        has_reference |= inner_has_reference
    return patterns, divisors, has_reference


def can_end(schema: Any, ending: set[str]) -> bool:
    """Whether a finite value can fit a schema, judged by its references and its required parts only.

    Args:
        schema: the schema.
        ending: references to definitions that are known to have such a value.
    """
    if isinstance(schema, bool):
        return schema
    if "$ref" in schema and schema["$ref"] not in ending:
        return False
    if not all(can_end(part, ending) for part in schema.get("allOf", ())):
        return False
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema and not any(can_end(part, ending) for part in schema[keyword]):
            return False
    types = schema.get("type", TYPES)
    if "const" in schema or "enum" in schema or set(types) - {"array", "object"}:
        return True
    members = (schema.get("properties", {}).get(name, True) for name in schema.get("required", ()))
    items = [*schema.get("prefixItems", ()), schema.get("items", True)][: schema.get("minItems", 0)]
    return ("object" in types and all(can_end(part, ending) for part in members)) or (
        "array" in types and all(can_end(part, ending) for part in items)
    )
