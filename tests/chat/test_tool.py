"""The results of tools as the model reads them."""

from __future__ import annotations

import datetime

import pytest
from cases import named

from chat.sample_tools import (
    Pair,
    Place,
    Unit,
)
from headrace.chat.tool import result_text


class NoText(Exception):
    def __str__(self) -> str:
        raise LookupError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is", "as it is"),
        ("", ""),
        ("a\ud800b", "a\ufffdb"),
        (None, "null"),
        (5, "5"),
        (float("inf"), '"Infinity"'),
        ({"a": [1, "é", Unit.CELSIUS]}, '{"a":[1,"é","c"]}'),
        (Place(latitude=1, longitude=2), '{"latitude":1.0,"longitude":2.0}'),
        (Pair(1, 2), '{"left":1,"right":2}'),
        (datetime.date(2024, 1, 2), '"2024-01-02"'),
        ((number for number in (1, 2)), "[1,2]"),
        (ValueError("no é"), '{"error": "ValueError: no é"}'),
        (KeyError("x"), '{"error": "KeyError: \'x\'"}'),
        (ValueError(), '{"error": "ValueError"}'),
        (NoText(), '{"error": "NoText"}'),
    ],
    ids=named,
)
def test_results_as_text(value: object, text: str) -> None:
    assert result_text(value) == text


def test_a_result_that_json_cannot_hold_is_an_error() -> None:
    circle: list[object] = []
    circle.append(circle)
    for value in (object(), circle, b"\xff"):
        with pytest.raises(ValueError, match=r"serialize|Circular|utf-8"):
            result_text(value)
