"""What JSON schemas allow once they are compiled, and which keywords are refused, by name and place."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.structured.schema_reader import checked_schema
from headrace.values.errors import InvalidRequestError
from structured.suite.walk import accepts, grammars

GRAMMARS = grammars()


def test_dates_are_those_of_the_calendar() -> None:
    grammar = GRAMMARS.json_schema({"type": "string", "format": "date", "pattern": "^2"})
    assert accepts(grammar, '"2024-02-29"')
    assert accepts(grammar, '"2000-02-29"')
    assert not accepts(grammar, '"2100-02-29"')
    assert not accepts(grammar, '"2023-02-29"')
    assert not accepts(grammar, '"1999-01-01"')


def test_references_are_followed_wherever_they_lead() -> None:
    schema = {
        "properties": {"a/b": {"$ref": "#/$defs/x~1y"}, "c": {"$ref": "#/properties/a~1b"}, "d": {"$ref": "#"}},
        "required": ["a/b"],
        "additionalProperties": False,
        "type": "object",
        "$defs": {"x/y": {"enum": [1, 2]}},
    }
    grammar = GRAMMARS.json_schema(schema)
    assert accepts(grammar, '{"a/b":1,"c":2,"d":{"a/b":2}}')
    assert not accepts(grammar, '{"a/b":1,"c":3}')
    assert not accepts(grammar, '{"a/b":1,"d":{}}')


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"uniqueItems": True}, "uniqueItems is not supported (at #)"),
        ({"properties": {"a": {"not": {}}}}, "not is not supported (at #/properties/a)"),
        ({"maxLenght": 3}, "maxLenght is not supported"),
        ({"x-guidance": {"lenient": True}}, "x-guidance is not supported"),
        ({"type": "strin"}, "there is no such type (at #/type): 'strin'"),
        ({"minLength": -1}, "out of range (at #/minLength)"),
        ({"minLength": "1"}, "of the wrong type (at #/minLength)"),
        ({"minLength": True}, "of the wrong type (at #/minLength)"),
        ({"maximum": 2**60}, "(at #/maximum)"),
        ({"maximum": float("nan")}, "(at #/maximum)"),
        ({"multipleOf": 0.01}, "validators do not agree on its multiples (at #/multipleOf)"),
        ({"multipleOf": 0}, "(at #/multipleOf)"),
        ({"format": "fax"}, "the format is not supported (at #/format): 'fax'"),
        ({"pattern": "(?=a)"}, "a group that looks around"),
        ({"pattern": "a("}, "unclosed group (at character 1)"),
        ({"patternProperties": {"[": True}}, "(at #/patternProperties)"),
        ({"enum": []}, "it is empty (at #/enum)"),
        ({"enum": ["a\0b"]}, "a character that is never written (at #/enum)"),
        ({"const": "\ud800"}, "a character that is never written (at #/const)"),
        ({"required": ["a", 1]}, "of the wrong type (at #/required)"),
        ({"items": [{}]}, "of the wrong type (at #/items)"),
        ({"minProperties": 2}, "it asks for more than one key besides the required ones (at #/minProperties)"),
        ({"$ref": "https://example.com/schema"}, "no pointer into the schema (at #/$ref)"),
        ({"$ref": "#/$defs/none"}, "nothing at the place it points to (at #/$ref)"),
        ({"$ref": "#"}, "$ref leads back to itself"),
        ({"anyOf": [{"type": "null"}, {"$ref": "#"}]}, "$ref leads back to itself"),
        ({"$schema": "http://json-schema.org/draft-04/schema#"}, "the draft is not known (at #/$schema)"),
        ({"properties": {"a": {"$id": "b"}}}, "$id is not supported (at #/properties/a)"),
        ({"oneOf": [{"minimum": 1}, {"maximum": 3}]}, "oneOf: more than one of its schemas could fit"),
        ({"properties": {"a": {"$ref": "#"}}, "required": ["a"], "type": "object"}, "nothing fits it"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "minimum (3) is greater than maximum (2)"),
        ({"a": object()}, "it holds something that JSON does not have"),
        (False, "nothing fits it"),
        (3, "of the wrong type"),
    ],
)
def test_a_schema_is_refused_by_name(schema: object, named: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        GRAMMARS.json_schema(schema, "tools[0].parameters")
    assert caught.value.field == "tools[0].parameters"
    assert str(caught.value).startswith("tools[0].parameters ")
    assert named in str(caught.value)
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


def test_a_discriminated_union_is_behind_references() -> None:
    kinds = {
        name: {
            "type": "object",
            "properties": {"kind": {"const": name}, name: {"type": "integer"}},
            "required": ["kind", name],
            "additionalProperties": False,
        }
        for name in ("a", "b")
    }
    union = {"$defs": kinds, "oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}]}
    assert "anyOf" in checked_schema(union, "json_schema")
    open_kind = {"$defs": kinds | {"b": {**kinds["b"], "required": ["b"]}}, "oneOf": union["oneOf"]}
    assert "oneOf" in checked_schema(open_kind, "json_schema"), (
        "a value without a kind would fit both, but for its keys"
    )


A = {"a": {"type": "integer"}}
OPEN = {"type": "object", "properties": A}


@pytest.mark.parametrize(
    ("schema", "is_closed"),
    [
        (OPEN, True),
        (OPEN | {"required": ["a"]}, True),
        (OPEN | {"additionalProperties": True}, False),
        (OPEN | {"required": ["b"]}, False),
        (OPEN | {"minProperties": 2, "required": ["a"]}, False),
        ({"type": "object"}, False),
        ({"anyOf": [OPEN, {"type": "null"}]}, True),
        ({"allOf": [OPEN, {"properties": {"b": {"type": "integer"}}}]}, False),
        ({"$ref": "#/$defs/x", "$defs": {"x": OPEN}}, True),
        ({"$ref": "#/$defs/x", "properties": {"b": {"type": "integer"}}, "$defs": {"x": OPEN}}, False),
    ],
)
def test_an_object_with_named_keys_has_no_others_unless_it_says_so(schema: dict[str, Any], is_closed: bool) -> None:
    made = grammars().json_schema(schema)
    assert accepts(made, '{"a": 1}') or "b" in schema.get("required", ()) or schema.get("minProperties")
    both = accepts(made, '{"a": 1, "b": 2}') or accepts(made, '{"b": 2, "a": 1}')
    assert both is not is_closed
