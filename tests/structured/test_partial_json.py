"""Growing JSON becomes a growing object: each value refines the last, at every split, and the last one is the whole."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.structured.partial_json import PartialJson, parse_json

CHARACTERS = st.characters(exclude_categories=["Cs"])
STRINGS = st.text(st.one_of(CHARACTERS, st.sampled_from('"\\/{}[]:, \n\x00\x7fé😀👩‍👧0-eu')), max_size=8)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**40), 10**40),
    st.floats(allow_nan=False, allow_infinity=False),
    STRINGS,
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(STRINGS, inner, max_size=4), max_leaves=12
)


@st.composite
def documents(draw: st.DrawFn) -> tuple[Any, str]:
    """A value, and one way to write it."""
    value = draw(VALUES)
    text = json.dumps(
        value,
        separators=draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\r\n", "\t:  ")])),
        indent=draw(st.sampled_from([None, 0, 1, "\t"])),
        ensure_ascii=draw(st.booleans()),
    )
    return value, draw(st.sampled_from(["", " ", "\n\t"])) + text + draw(st.sampled_from(["", "  ", "\r\n"]))


def pieces_of(draw: st.DrawFn, text: str) -> list[str]:
    """The text cut anywhere, with empty pieces too."""
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=len(text))))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@st.composite
def cut_documents(draw: st.DrawFn) -> tuple[Any, list[str]]:
    value, text = draw(documents())
    return value, pieces_of(draw, text)


def refines(new: Any, old: Any) -> bool:
    """Whether a value is what another may grow into."""
    if type(new) is not type(old):
        return False
    if isinstance(old, str):
        return new.startswith(old)
    if isinstance(old, list) and old:
        # Only the last element may still grow.
        last = len(old) - 1
        return len(new) > last and new[:last] == old[:last] and refines(new[last], old[last])
    if isinstance(old, list):
        return True
    if isinstance(old, dict):
        keys = list(old)
        return (
            list(new)[: len(keys)] == keys
            and all(new[key] == old[key] for key in keys[:-1])
            and (not keys or refines(new[keys[-1]], old[keys[-1]]))
        )
    return new == old


def run(pieces: list[str]) -> list[Any]:
    """The values that a text in pieces goes through; whatever is reported as a change is one."""
    partial = PartialJson()
    values: list[Any] = []
    for piece in pieces:
        before = (partial.has_value, json.dumps(partial.value))
        if partial.feed(piece):
            values.append(partial.value)
            assert before != (True, json.dumps(partial.value))
        else:
            assert before == (partial.has_value, json.dumps(partial.value))
    if partial.flush():
        values.append(partial.value)
    assert partial.has_value
    return values


@given(cut_documents())
def test_each_value_refines_the_last_and_the_last_is_the_whole(case: tuple[Any, list[str]]) -> None:
    value, pieces = case
    values = run(pieces)
    assert values[-1] == value
    assert type(values[-1]) is type(value)
    for old, new in pairwise(values):
        assert refines(new, old)
        assert new != old


@given(documents())
def test_character_by_character_nothing_shows_late(case: tuple[Any, str]) -> None:
    """What is shown after each character is what every continuation agrees on, as far as strings and literals go."""
    value, text = case
    shown = 0
    partial = PartialJson()
    for character in text:
        shown += partial.feed(character)
    # Only a number at the top level waits for the end.
    waits = isinstance(value, (int, float)) and not isinstance(value, bool) and text == text.rstrip()
    assert partial.flush() == waits
    assert (shown == 0) == waits
    assert partial.value == value


@given(documents(), st.data())
def test_a_text_that_is_cut_off_ends_with_a_value_that_the_whole_refines(
    case: tuple[Any, str], data: st.DataObject
) -> None:
    value, text = case
    partial = PartialJson()
    for piece in pieces_of(data.draw, text[: data.draw(st.integers(0, len(text)))]):
        partial.feed(piece)
    partial.flush(is_complete=False)
    assert not partial.has_value or refines(value, partial.value)


def steps(*pieces: str) -> list[Any]:
    """The value after each piece; ... where there is none."""
    partial = PartialJson()
    seen: list[Any] = []
    for piece in pieces:
        partial.feed(piece)
        seen.append(partial.value if partial.has_value else ...)
    return seen


@pytest.mark.parametrize(
    ("pieces", "values"),
    [
        (["[12", "3", ", ", "-", "4", ".5", "e1", "]"], [[], [], [123], [123], [123], [123], [123], [123, -45.0]]),
        (["12", "3"], [..., ...]),
        (["12", "3", " "], [..., ..., 123]),
        (["-", "0 "], [..., 0]),
        (["[t", "ru", "e"], [[], [], [True]]),
        (["t", "ru", "e"], [..., ..., True]),
        (["nul", "l"], [..., None]),
        (['{"a', '":', " fals", "e", "}"], [{}, {}, {}, {"a": False}, {"a": False}]),
        (['{"b', '":"', "x", 'y"', "}"], [{}, {"b": ""}, {"b": "x"}, {"b": "xy"}, {"b": "xy"}]),
        (['"a\\', 'nb"'], ["a", "a\nb"]),
        (['"a\\u0', "0", 'e9"'], ["a", "a", "aé"]),
        (['"a\\ud83d', "\\u", "de00", '"'], ["a", "a", "a😀", "a😀"]),
        (['"a\\ud83d', "b"], ["a", "a\ufffdb"]),
        (['"a\\ud83d', "\\n"], ["a", "a\ufffd\n"]),
        (['"a\\ud83d', "\\ud83d", "\\ude00"], ["a", "a\ufffd", "a\ufffd😀"]),
        (['"a\\ude00', "b"], ["a\ufffd", "a\ufffdb"]),
        (['"a\\\\ud83d', "b"], ["a\\ud83d", "a\\ud83db"]),
        (['"a\\"', 'b"'], ['a"', 'a"b']),
        (['"a\\', '"b"'], ["a", 'a"b']),
        (["[[1", ",2", "],[", "3"], [[[]], [[1]], [[1, 2], []], [[1, 2], []]]),
        (['{"a":1', ',"a', '":2', "}"], [{}, {"a": 1}, {"a": 1}, {"a": 2}]),  # the exception
        (["", " ", "\n"], [..., ..., ...]),
    ],
)
def test_known_steps(pieces: list[str], values: list[Any]) -> None:
    assert steps(*pieces) == values


def test_a_top_level_number_is_there_when_the_text_ends() -> None:
    partial = PartialJson()
    assert not partial.feed("12")
    assert partial.flush()
    assert partial.value == 12


def test_a_number_that_was_cut_off_does_not_show() -> None:
    for text, value in (("[1, 12", [1]), ("12", None), ('{"a": -', {})):
        partial = PartialJson()
        partial.feed(text)
        assert not partial.flush(is_complete=False)
        assert partial.value == value


@pytest.mark.parametrize(
    "text", ["", "  ", "[1", "[1]]", "1 2", '"a', "tru", "{", "[1,]", "NaN", "[-Infinity]", "x", "[1e999]"]
)
def test_a_text_that_is_not_whole_json_is_an_error_at_the_end(text: str) -> None:
    with pytest.raises(ValueError, match=r"line 1|float"):
        run([text])
    with pytest.raises(ValueError, match=r"line 1|float"):
        parse_json(text)


def test_an_error_comes_when_it_is_there() -> None:
    partial = PartialJson()
    partial.feed("[1, ")
    with pytest.raises(ValueError, match="line 1"):
        partial.feed("x")


def test_values_share_nothing() -> None:
    partial = PartialJson()
    partial.feed('{"a": [{"b": "x')
    first = partial.value
    partial.feed("y")
    first["a"][0]["b"] = "changed"
    assert partial.value == {"a": [{"b": "xy"}]}


@pytest.mark.parametrize("piece", ["1", "x", "\\u00e9", " ", '{"key":"value"},'])
def test_a_long_text_costs_what_its_length_does(piece: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: what the parser reads is at most some thousand times the text, however long it is."""
    from headrace.structured import partial_json

    read = 0
    real = partial_json._from_json

    def counting(data: bytes, **settings: Any) -> Any:
        nonlocal read
        read += len(data)
        return real(data, **settings)

    monkeypatch.setattr(partial_json, "_from_json", counting)
    start = '["' if piece in ("x", "\\u00e9") else "["
    partial = PartialJson()
    partial.feed(start)
    for _ in range(20_000):
        partial.feed(piece)
    length = len(start) + 20_000 * len(piece)
    assert read <= 1100 * length + 2_000_000  # everything each time would be half the square
    if piece == "1":
        assert partial.value == []
    else:
        partial.flush(is_complete=False)
        assert len(partial.value[0] if start == '["' else partial.value) == (0 if piece == " " else 20_000)


def test_a_text_that_is_read_late_is_a_thousandth_behind_at_most() -> None:
    partial = PartialJson()
    partial.feed('"')
    for number in range(1, 30_000):
        partial.feed("x")
        assert len(partial.value) >= number - number // 1000 - 1


def test_parse_json_is_json() -> None:
    assert parse_json(' {"a": [1, 2.5, "\\ud83d\\ude00", null, true]} ') == {"a": [1, 2.5, "😀", None, True]}
    assert parse_json('"\\ud83d \\ude00 \\\\ud83d \\uD83D\\uDE00 \\"\\ud83d"') == '\ufffd \ufffd \\ud83d 😀 "\ufffd'
    assert parse_json('["1e999", 1e100, 1e-999]') == ["1e999", 1e100, 0.0]
    assert parse_json("1" * 400) == int("1" * 400)
    for text in ("1e999", "[-1E+0400]", "1" * 400 + ".0"):
        with pytest.raises(ValueError, match="float"):
            parse_json(text)
    with pytest.raises(ValueError, match="recursion"):
        parse_json("[" * 10_000 + "]" * 10_000)


@given(st.floats(allow_nan=False, allow_infinity=False), st.text())
def test_parse_json_reads_what_python_writes(number: float, text: str) -> None:
    copy = parse_json(json.dumps([number, text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")]))
    assert copy[0] == number
    assert math.isfinite(copy[0])
    assert json.dumps(copy[1]) == json.dumps(text) or "\ufffd" in copy[1]
