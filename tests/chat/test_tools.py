"""Functions, classes and OpenAI's mappings become tools, or are refused by their place."""

from __future__ import annotations

import asyncio
import datetime
import functools
import json
from collections.abc import Awaitable
from typing import Any, cast

import jsonschema
import pytest
from cases import named

from chat.sample_tools import (
    DICT,
    FLAT,
    AsyncCallable,
    Counter,
    Pair,
    Place,
    Tree,
    Unit,
    aliased,
    cached,
    forecast,
    later,
    logged,
    positional,
    shadowing,
)
from headrace.chat.tools import tool_of, tools_of
from headrace.values.errors import InvalidRequestError


def test_a_function_is_described_by_its_signature_and_docstring() -> None:
    tool = tool_of(forecast, "tools[0]")
    description = "Tell the weather.\n\nIt is always right.\n\nReturns:\n    What the weather will be."
    parameters = {
        "type": "object",
        "properties": {
            "place": {"$ref": "#/$defs/Place", "description": "Where, to the degree."},
            "day": {"type": "string", "format": "date", "description": "When."},
            "unit": {"$ref": "#/$defs/Unit", "default": "c"},
            "note": {"type": "string", "maxLength": 5, "default": "", "description": "Its own words."},
            "anything": {"default": None},
        },
        "required": ["place", "day"],
        "additionalProperties": False,
        "$defs": {
            "Place": {
                "title": "Place",
                "description": "Somewhere on earth.",
                "type": "object",
                "properties": {
                    "latitude": {"type": "number", "minimum": -90, "maximum": 90},
                    "longitude": {"type": "number"},
                },
                "required": ["latitude", "longitude"],
                "additionalProperties": False,
            },
            "Unit": {"title": "Unit", "type": "string", "enum": ["c", "f"]},
        },
    }
    assert tool.as_openai() == {
        "type": "function",
        "function": {"name": "forecast", "description": description, "parameters": parameters},
    }
    tool.as_openai()["function"]["parameters"].clear()
    assert tool.parameters == parameters


def test_arguments_become_what_the_signature_asks_for() -> None:
    arguments = '{"unit": "f", "day": "2024-02-29", "place": {"latitude": 1, "longitude": 2}, "anything": [1]}'
    wanted = (Place(latitude=1, longitude=2), datetime.date(2024, 2, 29), Unit.FAHRENHEIT, "", [1])
    assert tool_of(forecast, "t").run(arguments) == wanted


@pytest.mark.parametrize(
    ("function", "name", "description", "properties", "arguments", "result"),
    [
        (
            positional,
            "positional",
            None,
            "first second third fourth",
            '{"fourth": true, "first": 1}',
            (1, "b", 0.5, True),
        ),
        (
            shadowing,
            "shadowing",
            "Names that a model could not have as fields.",
            "schema json model_config copy self _hidden",
            '{"schema": 1, "json": 2, "model_config": 3, "copy": 4, "self": 5}',
            (1, 2, 3, 4, 5, 6),
        ),
        (aliased, "aliased", None, "from to", '{"from": "here"}', "here 3"),
        (Counter(), "Counter", "Counts up.", "by", '{"by": 3}', 3),
        (Counter().up, "up", "Count up.", "by", '{"by": 4}', 4),
        (Counter.made, "made", None, "name", '{"name": "s"}', "Counters"),
        (Counter.plain, "plain", None, "name", '{"name": "s"}', "s"),
        (cached, "cached", "Remembers.", "number", '{"number": 5}', 5),
        (logged(aliased), "aliased", None, "from to", '{"from": "a", "to": 1}', "a 1"),
        (
            functools.partial(positional, 5, third=1.5),
            "positional",
            None,
            "second fourth",
            '{"fourth": false}',
            (5, "b", 1.5, False),
        ),
        (functools.partial(Counter().up, by=7), "up", "Count up.", "", "{}", 7),
        (
            Place,
            "Place",
            "Somewhere on earth.",
            "latitude longitude",
            '{"latitude": 1, "longitude": 2}',
            Place(latitude=1, longitude=2),
        ),
        (
            Tree,
            "Tree",
            "A tree.",
            "leaf branches",
            '{"leaf": "a", "branches": [{"leaf": "b"}]}',
            Tree(leaf="a", branches=[Tree(leaf="b")]),
        ),
        (Pair, "Pair", None, "left right", '{"left": 1}', Pair(1, 2)),
    ],
    ids=named,
)
def test_what_may_be_a_tool(
    function: Any, name: str, description: str | None, properties: str, arguments: str, result: object
) -> None:
    tool = tool_of(function, "tools[0]")
    assert (tool.name, tool.description, tool.function) == (name, description, function)
    assert list(tool.parameters["properties"]) == properties.split()
    assert tool.parameters["type"] == "object"
    assert "title" not in tool.parameters
    jsonschema.validate(json.loads(arguments), tool.parameters)
    assert tool.run(arguments) == result
    assert tool_of(tool, "tools[0]") is tool


def test_a_partials_bound_arguments_are_not_the_models_to_change() -> None:
    tool = tool_of(functools.partial(forecast, unit=Unit.FAHRENHEIT), "t")
    place = '"day": "2024-01-01", "place": {"latitude": 1, "longitude": 2}'
    assert tool.run(f"{{{place}}}")[2] is Unit.FAHRENHEIT
    with pytest.raises(InvalidRequestError, match="unit: Unknown"):
        tool.run(f'{{{place}, "unit": "c"}}')
    assert tool.parameters["properties"]["day"]["description"] == "When."


@pytest.mark.parametrize("function", [later, functools.partial(later), AsyncCallable(), logged(later)])
def test_an_async_function_gives_an_awaitable(function: Any) -> None:
    tool = tool_of(function, "t")
    assert tool.is_async == (function in (later,) or isinstance(function, (AsyncCallable, functools.partial)))

    async def run() -> object:
        (name,) = tool.parameters["properties"]
        return await cast("Awaitable[object]", tool.run(f'{{"{name}": 5}}'))

    assert asyncio.run(run()) in (5, 6)
    assert not tool_of(forecast, "t").is_async
    assert not tool_of(Place, "t").is_async


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "line 1"),
        ('{"place": ', "line 1"),
        ("[]", "place: Missing; day: Missing"),
        ('{"day": "2024-01-01"}', "place: Missing$"),
        ('{"day": "soon", "place": {"latitude": 100, "longitude": 2}}', "place.latitude: .* 90; day: .*date"),
        ('{"day": "2024-01-01", "place": {"latitude": 1, "longitude": 1}, "more": 1}', "more: Unknown"),
    ],
)
def test_arguments_that_do_not_fit_are_told(arguments: str, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message) as caught:
        tool_of(forecast, "t").run(arguments)
    assert (caught.value.field, caught.value.value) == ("arguments", arguments)
    assert str(caught.value).startswith("the arguments of forecast do not fit: ")


def test_an_error_of_the_function_is_its_own() -> None:
    def fails(a: int) -> None:
        Place.model_validate({})

    with pytest.raises(ValueError, match="validation errors for Place"):
        tool_of(fails, "t").run('{"a": 1}')


def test_docstrings_without_use() -> None:
    def other(a: int) -> None:
        """Does it.

        Args:
            b: who is that?
        """

    def loose(a: int) -> None:
        """Does it.

        Args:
          no colon here
        """

    def typed(a: int, b: list[str]) -> None:
        """Args:
            a (int, optional): one: two
            b:
                On its own line.
        Raises:
            Nothing.
        """

    assert tool_of(other, "t").description == "Does it.\n\nArgs:\n    b: who is that?"
    assert tool_of(loose, "t").description == "Does it.\n\nArgs:\n  no colon here"
    tool = tool_of(typed, "t")
    assert tool.description == "Raises:\n    Nothing."
    assert {name: one["description"] for name, one in tool.parameters["properties"].items()} == {
        "a": "one: two",
        "b": "On its own line.",
    }


def test_openais_dicts() -> None:
    given, flat, bare = tools_of([DICT, FLAT, {"type": "function", "function": {"name": "bare", "parameters": None}}])
    function = {key: value for key, value in DICT["function"].items() if key != "strict"}  # pyright: ignore
    assert given.as_openai() == {"type": "function", "function": function}
    assert given.function is None
    assert flat.parameters == {"type": "object", "properties": {"a": {}}}
    assert flat.as_openai() == {"type": "function", "function": {"name": "flat", "parameters": flat.parameters}}
    assert bare.parameters == {"type": "object", "properties": {}, "additionalProperties": False}
    with pytest.raises(InvalidRequestError, match="given as a function"):
        given.run('{"a": 1}')


class Sloppy:
    pass


def untyped(*names: str) -> None: ...


def unknown(a: int) -> None: ...


unknown.__annotations__["a"] = "Nowhere"


def unserializable(a: Sloppy) -> None: ...


def dict_of(**fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f"} | fields}


@pytest.mark.parametrize(
    ("value", "place", "message"),
    [
        (5, "tools[2]", "5; allowed: a function, a Pydantic model"),
        (None, "tools[2]", "None"),
        ("forecast", "tools[2]", "forecast"),
        (lambda a: a, "tools[2]", "<lambda>.* 64"),
        (untyped, "tools[2]", r"\*names.*without \* and \*\*"),
        (unknown, "tools[2]", "annotation .*Nowhere"),
        (unserializable, "tools[2]", "Sloppy"),
        (max, "tools[2]", "max"),
        (Sloppy, "tools[2]", "Sloppy"),
        (int, "tools[2]", "objects"),
        (Unit, "tools[2]", "objects"),
        ({}, "tools[2].type", '"function"'),
        ({"type": "web_search"}, "tools[2].type", '"function"'),
        ({"type": "function"}, "tools[2].function", "mapping with name"),
        ({"type": "function", "function": "f"}, "tools[2].function", "mapping with name"),
        ({"type": "function", "function": {}}, "tools[2].function.name", "64"),
        (dict_of(name="a b"), "tools[2].function.name", "a b"),
        (dict_of(name="é"), "tools[2].function.name", "ASCII"),
        (dict_of(name="a" * 65), "tools[2].function.name", "64"),
        (dict_of(name="a\n"), "tools[2].function.name", "64"),
        (dict_of(description=5), "tools[2].function.description", "text"),
        (dict_of(strict="yes"), "tools[2].function.strict", "True or False"),
        (dict_of(more=1), "tools[2].function.more", "name, description, parameters, strict"),
        (dict_of() | {"name": "f"}, "tools[2].name", "type, function"),
        (dict_of(parameters=[]), "tools[2].function.parameters", "mapping"),
        (dict_of(parameters="{}"), "tools[2].function.parameters", "mapping"),
        (dict_of(parameters=Place), "tools[2].function.parameters", "mapping"),
        (dict_of(parameters={"type": "array"}), "tools[2].function.parameters.type", '"object"'),
        (dict_of(parameters={"enum": {1}}), "tools[2].function.parameters.enum", "JSON can hold"),
        ({"type": "function", "name": ""}, "tools[2].name", "64"),
        ({"type": "function", "name": "f", "more": 1}, "tools[2].more", "type, name"),
        (dict_of(name="given"), "tools[2].function.name", "no other tool"),
        ({"type": "function", "name": "given"}, "tools[2].name", "no other tool"),
        (forecast, "tools[2]", "no other tool"),
    ],
    ids=named,
)
def test_what_is_no_tool_is_refused_by_its_place(value: object, place: str, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message) as caught:
        tools_of([DICT, forecast, value])
    assert caught.value.field == place


@pytest.mark.parametrize("value", ["f", {}, DICT, {forecast}, forecast, 5])
def test_tools_are_a_list(value: object) -> None:
    with pytest.raises(InvalidRequestError, match="a list") as caught:
        tools_of(value)
    assert caught.value.field == "tools"


def test_no_tools() -> None:
    assert tools_of(None) == tools_of([]) == tools_of(()) == ()
