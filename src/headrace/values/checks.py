"""`as_int`, `as_float` and `as_token_ids`: make arguments plain numbers, or raise InvalidRequestError."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Set
from decimal import Decimal
from numbers import Real
from typing import Any, cast

from headrace.values.errors import InvalidRequestError, shortened

__all__ = ["as_float", "as_int", "as_token_ids"]

_UNORDERED_OR_TEXT = (str, bytes, bytearray, Mapping, Set)


def as_int(field: str, value: object, low: int, high: int | None = None) -> int:
    """Returns the value as an int. It may be anything with `__index__`, such as numpy's integers, but no bool or float.

    Args:
        field: name of the setting or argument, for the error.
        value: the value that was given.
        low: the smallest allowed value.
        high: the largest allowed value; None for no limit.

    Raises:
        InvalidRequestError: the value is no whole number, or out of range.
    """
    number = _index(value)
    if number is None or number < low or (high is not None and number > high):
        raise InvalidRequestError(field, value, f"a whole number, {_range(low, high)}")
    return number


def as_float(field: str, value: object, low: float, high: float, *, above: bool = False) -> float:
    """Returns the value as a finite float. It may be any real number, such as a numpy scalar or a Decimal, but no bool.

    Args:
        field: name of the setting or argument, for the error.
        value: the value that was given.
        low: the smallest allowed value.
        high: the largest allowed value; infinity for no limit.
        above: whether `low` itself is not allowed.

    Raises:
        InvalidRequestError: the value is no number, not finite, or out of range.
    """
    number = _real(value)
    if not math.isfinite(number) or not low <= number <= high or (above and number == low):
        limits = f"a finite number above {low}" if above else f"a finite number, {_range(low, high)}"
        if above and high != math.inf:
            limits += f", at most {high}"
        raise InvalidRequestError(field, value, limits)
    return number


def as_token_ids(field: str, value: object) -> list[int]:
    """Returns token ids as a list of ints, from any ordered iterable of whole numbers: a list, a range, a numpy array.

    The list may be empty, and the model need not have these tokens.

    Raises:
        InvalidRequestError: the value is no such iterable, or an item of it is no whole number of at least 0.
    """
    allowed = "token ids: a list of whole numbers, at least 0"
    if isinstance(value, _UNORDERED_OR_TEXT):
        raise InvalidRequestError(field, cast("object", value), allowed)
    try:
        items = iter(cast("Iterable[object]", value))
    except Exception:  # not iterable; a numpy array without dimensions has `__iter__`, which raises
        raise InvalidRequestError(field, value, allowed) from None
    ids: list[int] = []
    for i, item in enumerate(items):
        number = _index(item)
        if number is None or number < 0:
            message = f"{field} has {shortened(item)} at index {i}; allowed: {allowed}"
            raise InvalidRequestError(field, item, allowed, message)
        ids.append(number)
    return ids


def _index(value: object) -> int | None:
    if type(value) is int:
        return value
    if _is_bool(value):
        return None
    try:
        return operator.index(cast("Any", value))
    except Exception:  # foreign code may raise anything
        return None


def _real(value: object) -> float:
    """Returns the value as a float; NaN if it is no number, or larger than a float can be."""
    # The type is checked, since numpy's arrays and complex numbers have a `__float__`, too, which loses a part of them.
    if _is_bool(value) or not isinstance(value, (Real, Decimal)):
        return math.nan
    try:
        return float(value)
    except Exception:  # OverflowError, or anything that a foreign class raises
        return math.nan


def _is_bool(value: object) -> bool:
    # The name is compared, so that numpy need not be imported. Before version 2, its bool is called bool_.
    return type(value).__name__ in ("bool", "bool_")


def _range(low: float, high: float | None) -> str:
    return f"at least {low}" if high is None or high == math.inf else f"{low} to {high}"
