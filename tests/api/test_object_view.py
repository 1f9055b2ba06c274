"""`stream.objects()`."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from harness import Gate, scripted, texts, within
from pydantic import BaseModel

from api.viewing import ANY_TEXT, TAGS, both, every_cut, scripted_pieces
from headrace import (
    InvalidRequestError,
)

# objects()


class Person(BaseModel):
    name: str
    age: int
    tags: list[str] = []


PERSON = '{"name":"Åda 🙂","age":36,"tags":["x","yz"]}'


def is_refined(before: Any, after: Any) -> bool:
    if isinstance(before, dict):
        return isinstance(after, dict) and all(key in after and is_refined(before[key], after[key]) for key in before)
    if isinstance(before, list):
        return isinstance(after, list) and len(before) <= len(after) and all(map(is_refined, before, after))
    if isinstance(before, str):
        return isinstance(after, str) and after.startswith(before)
    return before == after


def test_objects_grow_until_the_instance() -> None:
    with scripted(PERSON) as made:
        objects = both(made, "objects", json_schema=Person)
    assert objects[-1] == Person(name="Åda 🙂", age=36, tags=["x", "yz"])
    growing = [*objects[:-1], objects[-1].model_dump()]
    assert growing[0] == {}
    assert {"name": "Å"} in growing
    assert all(is_refined(one, two) for one, two in itertools.pairwise(growing))
    assert all(one != two for one, two in itertools.pairwise(objects))


def test_objects_at_every_cut() -> None:
    whole = {"nä🙂": "Å\n", "b": [1, True]}
    for pieces in every_cut('{"nä🙂":"Å\\n","b":[1,true]}'):
        with scripted_pieces(pieces) as made:
            stream = made.model.generate_stream("p", json_schema=dict[str, Any])
            objects = within(list, stream.objects())
            assert objects[-1] == stream.result().parsed == whole
            assert all(is_refined(one, two) for one, two in itertools.pairwise(objects))
            assert all(one != two for one, two in itertools.pairwise(objects))


@pytest.mark.parametrize("end", range(len(PERSON.encode())))
def test_objects_that_are_cut_off_end_with_what_there_is(end: int) -> None:
    with scripted(PERSON) as made:
        if end == 0:
            return
        stream = made.model.generate_stream("p", json_schema=Person, max_tokens=end)
        objects = within(list, stream.objects())
        result = within(stream.result)
        assert (result.finish_reason, result.parsed) == ("length", None)
        assert all(isinstance(value, dict) for value in objects)
        whole = Person.model_validate_json(PERSON).model_dump()
        assert all(is_refined(one, two) for one, two in itertools.pairwise([*objects, whole]))


def test_objects_that_are_cancelled() -> None:
    gate = Gate()
    with scripted(PERSON, before_step=gate) as made:
        stream = made.model.generate_stream("p", json_schema=Person)
        view = stream.objects()
        gate.step(12)
        gate.wait()
        assert [within(next, view) for _ in range(3)] == [{}, {"name": ""}, {"name": "Å"}]
        stream.cancel()
        gate.open()
        assert all(isinstance(value, dict) for value in within(list, view))
        assert stream.finish_reason == "cancelled"


@pytest.mark.parametrize(
    ("schema", "text", "objects"),
    [
        ({"type": "null"}, "null", [None]),
        ({"type": "integer"}, "12", [12]),
        ({"type": "boolean"}, "false", [False]),
        (list[int], "[1,2]", [[], [1], [1, 2]]),
        (ANY_TEXT, '"ab"', ["", "a", "ab"]),
        (ANY_TEXT, '""', [""]),
        (True, '{"a":[]}', [{}, {"a": []}]),
    ],
)
def test_a_plain_value_is_not_given_twice(schema: Any, text: str, objects: list[Any]) -> None:
    with scripted(text) as made:
        assert both(made, "objects", json_schema=schema) == objects


def test_a_thought_is_no_part_of_the_object() -> None:
    with scripted('<t>{"no":1}</t>{"name":"A","age":1}') as made:
        stream = made.model.generate_stream("p", json_schema=Person, thinking_tags=TAGS)
        objects = within(list, stream.objects())
        assert objects[-1] == Person(name="A", age=1)
        assert all("no" not in value for value in objects[:-1])


def test_objects_of_what_has_none() -> None:
    with scripted("abc") as made:
        stream = made.model.generate_stream("p")
        with pytest.raises(InvalidRequestError) as caught:
            stream.objects()
        assert caught.value.field == "json_schema"
        assert texts(stream) == "abc", "the stream is as it was"
        raw = made.model.generate_stream("p", json_schema=Person, thinking="raw", thinking_tags=TAGS)
        with pytest.raises(InvalidRequestError) as caught:
            raw.objects()
        assert (caught.value.field, caught.value.value) == ("thinking", "raw")
