"""`simplify_choices`: replaces `oneOf` by `anyOf` where no value can fit two of its schemas."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any, cast

from headrace.structured.schema_parts import allowed_texts, subschemas

__all__ = ["simplify_choices"]

_MAX_CHOICES = 64  # each pair of them is compared
_MAX_DEPTH = 3  # levels inside two choices that are searched for a difference


def simplify_choices(schema: Any, definitions: Mapping[str, Any]) -> None:
    """Replace, in place, each `oneOf` whose schemas exclude one another by `anyOf`.

    llguidance does the same by itself, but not through references, and Pydantic writes discriminated unions with
    references.

    Args:
        schema: a schema that `checked_schema` has read.
        definitions: the schemas that its references, "#/$defs/name", point to, by name.
    """
    if not isinstance(schema, dict):
        return
    members = cast("dict[str, Any]", schema)
    for part in subschemas(members):
        simplify_choices(part, definitions)
    choices = members.get("oneOf", ())
    if "anyOf" in members or not 0 < len(choices) <= _MAX_CHOICES:
        return
    if all(_exclude(one, other, definitions) for one, other in combinations(choices, 2)):
        members["anyOf"] = members.pop("oneOf")


def _exclude(one: Any, other: Any, definitions: Mapping[str, Any], depth: int = 0) -> bool:
    """Whether it is certain that no value fits both schemas."""
    one, other = _dereferenced(one, definitions), _dereferenced(other, definitions)
    if depth == _MAX_DEPTH or not isinstance(one, dict) or not isinstance(other, dict):
        return False
    first, second = cast("dict[str, Any]", one), cast("dict[str, Any]", other)
    first_texts, second_texts = allowed_texts(first), allowed_texts(second)
    if first_texts is not None and second_texts is not None:
        return not first_texts & second_texts
    if first.get("type") != ["object"] or second.get("type") != ["object"]:
        return False
    required = set(first.get("required", ())) & set(second.get("required", ()))
    pairs = [(first.get("properties", {}).get(name), second.get("properties", {}).get(name)) for name in required]
    return any(_exclude(*pair, definitions, depth + 1) for pair in pairs)


def _dereferenced(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """Follow references, as long as a schema consists of nothing but a `$ref`."""
    while isinstance(schema, dict) and list(members := cast("dict[str, Any]", schema)) == ["$ref"]:
        schema = definitions[members["$ref"].removeprefix("#/$defs/")]
    return cast("Any", schema)
