"""Everything that may stand for a JSON schema becomes one, and what fits it becomes values or instances."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import math
import uuid
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Annotated, Any, ForwardRef, Literal

import jsonschema
import pytest
from cases import named
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    TypeAdapter,
    ValidationError,
    field_validator,
)
from typing_extensions import TypedDict

from headrace.structured.schema import Schema
from headrace.values.errors import InvalidRequestError


class Unit(enum.Enum):
    METRE = "m"
    INCH = "in"


class Address(BaseModel):
    street: str
    number: int = Field(ge=1, le=999)


class Person(BaseModel):
    """Somebody."""

    name: str = Field(min_length=1)
    born: datetime.date
    address: Address | None = None
    tags: list[str] = []


class Node(BaseModel):
    value: int
    children: list[Node] = []


class Aliased(BaseModel):
    model_config = ConfigDict(validate_by_name=True, validate_by_alias=False)
    class_: str = Field(alias="class")


class Chosen(BaseModel):
    value: int = Field(validation_alias=AliasChoices("first", "second"))


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    bark: str


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]


@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0


class Movie(TypedDict):
    title: str
    year: int


class Infinite(BaseModel):
    limit: float = math.inf


class Unserializable(BaseModel):
    value: Any = object()


def function(a: int) -> int:
    return a


@pytest.mark.parametrize(
    ("value", "text", "instance"),
    [
        (Person, '{"name": "Ada", "born": "1815-12-10"}', Person(name="Ada", born=datetime.date(1815, 12, 10))),
        (Node, '{"value": 1, "children": [{"value": 2}]}', Node(value=1, children=[Node(value=2)])),
        (Aliased, '{"class": "x"}', Aliased(class_="x")),
        (Chosen, '{"first": 3}', Chosen(first=3)),
        (Open, '{"a": 1, "b": 2}', Open(a=1, b=2)),
        (Pet, '{"kind": "dog", "bark": "wau"}', Dog(kind="dog", bark="wau")),
        (list[Pet], '[{"kind": "cat", "lives": 9}]', [Cat(kind="cat", lives=9)]),
        (Point, '{"x": 1}', Point(1.0)),
        (Movie, '{"title": "M", "year": 1931}', {"title": "M", "year": 1931}),
        (Unit, '"in"', Unit.INCH),
        (list[int], "[1, 2]", [1, 2]),
        (dict[str, Unit], '{"a": "m"}', {"a": Unit.METRE}),
        (tuple[int, str], '[1, "a"]', (1, "a")),
        (set[int], "[1, 1, 2]", {1, 2}),
        (frozenset[int], "[1]", frozenset([1])),
        (Literal["a", 1], '"a"', "a"),
        (int | None, "null", None),
        (Annotated[int, Field(gt=3)], "4", 4),
        (Annotated[int, {"no": "hash"}], "4", 4),
        (datetime.datetime, '"2024-01-02T03:04:05Z"', datetime.datetime(2024, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)),
        (uuid.UUID, f'"{uuid.UUID(int=5)}"', uuid.UUID(int=5)),
        (Decimal, "1.5", Decimal("1.5")),
        (RootModel[list[int]], "[1]", RootModel[list[int]]([1])),
        (Infinite, '{"limit": 3}', Infinite(limit=3)),
        (Any, '{"a": [1.5]}', {"a": [1.5]}),
        (bool, "true", True),
    ],
    ids=named,
)
def test_a_type_gives_a_schema_and_instances(value: Any, text: str, instance: object) -> None:
    for _ in range(2):  # the second time it is remembered
        schema = Schema.of("json_schema", value)
        assert schema.type is value
        jsonschema.Draft202012Validator.check_schema(schema.json)
        jsonschema.validate(Schema.of("x", True).parse(text), schema.json)
        parsed = schema.parse(text)
        assert parsed == instance
        assert type(parsed) is type(instance)


def test_the_schema_of_a_model() -> None:
    assert Schema.of("json_schema", Person).json == {
        "title": "Person",
        "description": "Somebody.",
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 1},
            "born": {"type": "string", "format": "date"},
            "address": {"anyOf": [{"$ref": "#/$defs/Address"}, {"type": "null"}], "default": None},
            "tags": {"type": "array", "items": {"type": "string"}, "default": []},
        },
        "required": ["name", "born"],
        "additionalProperties": False,
        "$defs": {
            "Address": {
                "title": "Address",
                "type": "object",
                "properties": {
                    "street": {"type": "string"},
                    "number": {"type": "integer", "minimum": 1, "maximum": 999},
                },
                "required": ["street", "number"],
                "additionalProperties": False,
            }
        },
    }


def test_keys_that_would_be_dropped_are_not_allowed_but_those_that_are_kept_are() -> None:
    assert Schema.of("s", Point).json["additionalProperties"] is False
    assert Schema.of("s", Movie).json["additionalProperties"] is False
    assert Schema.of("s", Open).json["additionalProperties"] is True
    assert Schema.of("s", dict[str, int]).json["additionalProperties"] == {"type": "integer"}
    assert "additionalProperties" not in Schema.of("s", list[int]).json


def test_a_set_may_be_written_with_repetitions_unless_it_counts() -> None:
    assert Schema.of("s", set[int]).json == {"type": "array", "items": {"type": "integer"}}
    assert Schema.of("s", Annotated[set[int], Field(min_length=2)]).json["uniqueItems"] is True


def test_types_that_are_equal_but_not_the_same_are_not_mixed_up() -> None:
    first, second = Schema.of("s", int | str), Schema.of("s", str | int)
    assert first.json["anyOf"] == second.json["anyOf"][::-1]


def test_a_type_is_described_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fresh(BaseModel):
        a: int

    made: list[object] = []
    real = TypeAdapter.json_schema

    def counting(self: TypeAdapter[Any], **settings: Any) -> dict[str, Any]:
        made.append(self)
        return real(self, **settings)

    monkeypatch.setattr(TypeAdapter, "json_schema", counting)
    first = Schema.of("s", Fresh)
    first.json["properties"]["a"] = "changed"
    assert Schema.of("s", Fresh).json["properties"]["a"] == {"type": "integer"}
    assert len(made) == 1


def test_a_mapping_is_copied() -> None:
    inner: dict[str, Any] = {"type": "integer"}
    given = {"properties": {"a": inner}, "enum": (1, None, 2.5)}
    schema = Schema.of("json_schema", given)
    inner["type"] = "changed"
    given["more"] = {}
    assert schema.json == {"properties": {"a": {"type": "integer"}}, "enum": [1, None, 2.5]}
    assert schema.type is None
    assert schema.parse('{"a": [1]}') == {"a": [1]}


def test_text_and_booleans() -> None:
    assert Schema.of("s", ' {"type": "integer"} ').json == {"type": "integer"}
    assert Schema.of("s", "true").json is True
    assert Schema.of("s", False).json is False
    assert Schema.of("s", {}).json == {}


class Word(enum.StrEnum):
    STRING = "string"


def test_values_of_derived_types_become_plain() -> None:
    json = Schema.of("s", {Word.STRING: Word.STRING}).json
    assert json == {"string": "string"}
    assert [type(key) for key in json] == [type(value) for value in json.values()] == [str]


def circle() -> dict[str, Any]:
    made: dict[str, Any] = {}
    made["a"] = made
    return made


@pytest.mark.parametrize(
    ("value", "place", "message"),
    [
        ({"properties": {"a": {"enum": {1, 2}}}}, "json_schema.properties.a.enum", "JSON can hold"),
        ({"enum": [1, b"x"]}, "json_schema.enum[1]", "JSON can hold"),
        ({"minimum": math.nan}, "json_schema.minimum", "finite"),
        ({"properties": {1: {}}}, "a key of json_schema.properties", "a string"),
        (circle(), "json_schema" + ".a" * 201, "200 levels"),
        ("", "json_schema", "is not JSON"),
        ("{", "json_schema", "is not JSON: EOF"),
        ('{"a": 1, "a": 2}', "json_schema", "is not JSON: .*duplicate"),
        ('"object"', "json_schema", "JSON schema"),
        ("[1]", "json_schema", "JSON schema"),
        (5, "json_schema", "5"),
        (object(), "json_schema", "object"),
        (None, "json_schema", "None"),
        ([int], "json_schema", "type that Pydantic can describe"),
        (Address(street="a", number=1), "json_schema", "Address"),
        (Point(1), "json_schema", "Point"),
        (function, "json_schema", "function"),
        (partial(function, 1), "json_schema", "partial"),
        (len, "json_schema", "len"),
        (Callable[[], int], "json_schema", "JsonSchema"),
        (list[ForwardRef("Nowhere")], "json_schema", "Nowhere"),
        (type("Plain", (), {}), "json_schema", "Plain"),
    ],
    ids=named,
)
def test_what_is_no_schema_is_refused_by_its_place(value: object, place: str, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message) as caught:
        Schema.of("json_schema", value)
    assert caught.value.field == place
    assert "http" not in str(caught.value)


class Even(BaseModel):
    number: int

    @field_validator("number")
    @classmethod
    def is_even(cls, number: int) -> int:
        if number < 0:
            raise LookupError("no validator's error")
        if number % 2:
            raise ValueError("not even")
        return number


def test_what_parse_raises() -> None:
    schema = Schema.of("s", Even)
    assert schema.parse('{"number": 2}') == Even(number=2)
    with pytest.raises(ValidationError, match="not even"):
        schema.parse('{"number": 1}')
    with pytest.raises(LookupError, match="no validator"):
        schema.parse('{"number": -1}')


@pytest.mark.parametrize("value", [True, float, Any, Point])
@pytest.mark.parametrize("text", ["", "{", "NaN", "-Infinity", "1e999", '{"x": 1e999}', "[" * 300 + "]" * 300, "1 2"])
def test_what_is_no_json_is_a_value_error(value: object, text: str) -> None:
    with pytest.raises(ValueError, match=r"line 1|float"):
        Schema.of("s", value).parse(text)


def test_half_a_surrogate_pair_is_a_replacement_character_with_and_without_a_type() -> None:
    assert Schema.of("s", True).parse(r'"\ud83d!"') == Schema.of("s", str).parse(r'"\ud83d!"') == "\ufffd!"


def test_a_default_that_json_cannot_hold_is_left_out_without_a_warning() -> None:
    assert Schema.of("s", Unserializable).json["properties"]["value"] == {}
