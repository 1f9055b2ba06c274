"""Checks of numbers and token ids."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pytest

from headrace import (
    InvalidRequestError,
)
from headrace.values.checks import as_float, as_int, as_token_ids
from values.odd_values import Broken, Whole

# Numbers.


def test_as_int() -> None:
    for value in (3, np.int64(3), np.uint8(3), Whole(3)):
        number = as_int("n", value, 0, 3)
        assert number == 3
        assert type(number) is int
    assert as_int("n", 10**400, 0) == 10**400
    for value in (True, np.True_, 3.0, np.float64(3), "3", b"3", None, np.array([3, 4]), np.array(True), Broken(), 3j):
        with pytest.raises(InvalidRequestError, match=r"^n is .*; allowed: a whole number, at least 0$"):
            as_int("n", value, 0)
    for value in (-1, 4, 10**400):
        with pytest.raises(InvalidRequestError, match="a whole number, 0 to 3"):
            as_int("n", value, 0, 3)


def test_as_float() -> None:
    for value in (0.5, np.float32(0.5), np.float64(0.5), Decimal("0.5")):
        number = as_float("x", value, 0, 1)
        assert number == 0.5
        assert type(number) is float
    assert as_float("x", np.int8(1), 0, 1) == 1
    for value in (True, np.True_, "1", b"1", None, [1], np.array([1.0]), np.array(True), np.complex64(1), 1j, Broken()):
        with pytest.raises(InvalidRequestError, match=r"^x is .*; allowed: a finite number, 0 to 1$"):
            as_float("x", value, 0, 1)
    for value in (10**400, -(10**400), math.nan, math.inf, Decimal("sNaN"), Decimal("1e999"), np.float64("inf")):
        with pytest.raises(InvalidRequestError, match="a finite number, at least 0"):
            as_float("x", value, 0, math.inf)
    with pytest.raises(InvalidRequestError, match=r"a finite number above 0, at most 2$"):
        as_float("x", 0, 0, 2, above=True)


def test_as_token_ids() -> None:
    ids_given = (
        [1, 2],
        (1, 2),
        range(1, 3),
        iter([1, 2]),
        np.array([1, 2]),
        np.array([1, 2], np.uint8),
        [np.int32(1), Whole(2)],
    )
    for value in ids_given:
        made = as_token_ids("ids", value)
        assert made == [1, 2]
        assert {type(id_) for id_ in made} == {int}
    assert as_token_ids("ids", []) == []
    for value in ("12", b"12", bytearray(b"12"), {1: 2}, {1, 2}, None, 7, np.array(1), Broken()):
        with pytest.raises(InvalidRequestError, match=r"^ids is .*; allowed: token ids"):
            as_token_ids("ids", value)
    for bad in (True, np.True_, 1.0, "1", None, -1, [1], np.array([1, 2]), Broken()):
        with pytest.raises(InvalidRequestError, match=r"^ids has .* at index 1; allowed: token ids"):
            as_token_ids("ids", [5, bad])
    for array in (np.array([[1, 2]]), np.array([True]), np.array([1.0]), np.array(["1"])):
        with pytest.raises(InvalidRequestError, match=r"^ids has .* at index 0"):
            as_token_ids("ids", array)
