"""Functions on a schema that `schema_reader` has read: its subschemas and conditions, and whether values can end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

__all__ = [
    "FRACTIONS",
    "TYPES",
    "allowed_texts",
    "circular_references",
    "conditions",
    "finite_references",
    "has_finite_value",
    "num_combined",
    "schemas_inside",
    "subschemas",
]

TYPES = ("null", "boolean", "object", "array", "number", "string", "integer")
_COMBINING = {"$ref", "allOf", "anyOf", "oneOf"}
FRACTIONS = 1024  # a divisor is a multiple of 1 / FRACTIONS


def allowed_texts(schema: dict[str, Any]) -> set[str] | None:
    """Returns the strings that `const` or `enum` allow; None without these keywords or with other values."""
    values: list[Any] = [schema["const"]] if "const" in schema else schema.get("enum", [])
    return set(values) if values and all(isinstance(value, str) for value in values) else None


def _references_of_value(schema: Any) -> Iterator[str]:
    """Yields the references that apply to the whole value, not to a part of it."""
    if isinstance(schema, dict):
        members = cast("dict[str, Any]", schema)
        if "$ref" in members:
            yield members["$ref"]
        for keyword in ("allOf", "anyOf", "oneOf"):
            for part in members.get(keyword, ()):
                yield from _references_of_value(part)


def subschemas(schema: dict[str, Any]) -> Iterator[Any]:
    """Yields the schemas directly inside a schema."""
    for keyword, setting in schema.items():
        if keyword in ("additionalProperties", "items"):
            yield setting
        elif keyword in ("properties", "patternProperties"):
            yield from setting.values()
        elif keyword in ("allOf", "anyOf", "oneOf", "prefixItems"):
            yield from setting


def schemas_inside(schema: Any) -> Iterator[dict[str, Any]]:
    """Yields a schema and all schemas inside it, at any depth, except those that are bools."""
    if isinstance(schema, dict):
        members = cast("dict[str, Any]", schema)
        yield members
        for part in subschemas(members):
            yield from schemas_inside(part)


def num_combined(schema: dict[str, Any]) -> int:
    """Returns how many schemas a value has to fit: those of references and combinations, and the other keywords."""
    single = sum(keyword in schema for keyword in ("$ref", "anyOf", "oneOf"))
    return single + len(schema.get("allOf", ())) + any(keyword not in _COMBINING for keyword in schema)


def conditions(schema: Any) -> tuple[set[str], set[int], bool]:
    """Returns the regular expressions in a schema, its divisors times `FRACTIONS`, and whether it has references."""
    if not isinstance(schema, dict):
        return set(), set(), False
    members = cast("dict[str, Any]", schema)
    patterns = {members[keyword] for keyword in ("format", "pattern") if keyword in members}
    patterns.update(members.get("patternProperties", ()))
    divisors = {int(members["multipleOf"] * FRACTIONS)} if "multipleOf" in members else set[int]()
    has_reference = "$ref" in members
    for part in subschemas(members):
        inner_patterns, inner_divisors, inner_has_reference = conditions(part)
        patterns |= inner_patterns
        divisors |= inner_divisors
        has_reference |= inner_has_reference
    return patterns, divisors, has_reference


def circular_references(definitions: Mapping[str, Any]) -> set[str]:
    """Returns the references, "#/$defs/name", to definitions that consist of nothing but themselves."""
    inner = {f"#/$defs/{name}": set(_references_of_value(schema)) for name, schema in definitions.items()}
    while leaves := [ref for ref, refs in inner.items() if not refs & inner.keys()]:
        for ref in leaves:
            del inner[ref]
    return set(inner)


def finite_references(definitions: Mapping[str, Any]) -> set[str]:
    """Returns the references to definitions that some finite value fits; see `has_finite_value`."""
    finite: set[str] = set()
    while more := {
        ref
        for name, schema in definitions.items()
        if (ref := f"#/$defs/{name}") not in finite and has_finite_value(schema, finite)
    }:
        finite |= more
    return finite


def has_finite_value(schema: Any, finite: set[str]) -> bool:
    """Whether a finite value can fit a schema, judged by its references and its required parts only.

    Args:
        schema: the schema.
        finite: references to definitions that are known to have such a value.
    """
    if isinstance(schema, bool):
        return schema
    if "$ref" in schema and schema["$ref"] not in finite:
        return False
    if not all(has_finite_value(part, finite) for part in schema.get("allOf", ())):
        return False
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema and not any(has_finite_value(part, finite) for part in schema[keyword]):
            return False
    types = schema.get("type", TYPES)
    if "const" in schema or "enum" in schema or set(types) - {"array", "object"}:
        return True
    members = (schema.get("properties", {}).get(name, True) for name in schema.get("required", ()))
    items = [*schema.get("prefixItems", ()), schema.get("items", True)][: schema.get("minItems", 0)]
    return ("object" in types and all(has_finite_value(part, finite) for part in members)) or (
        "array" in types and all(has_finite_value(part, finite) for part in items)
    )
