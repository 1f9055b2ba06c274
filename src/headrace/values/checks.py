"""Checks of numbers and token ids as callers give them: each returns a plain value, or raises InvalidRequestError."""

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
    """The value as an int: anything with `__index__`, numpy's integers among them, but no bool and no float.

    Args:
        field: name of the setting or argument, for the error.
        value: what was given.
        low: the least it may be.
        high: the most it may be; None for no limit.

    Raises:
        InvalidRequestError: it is no whole number, or out of the range.
    """
    number = _index(value)
    if number is None or number < low or (high is not None and number > high):
        raise InvalidRequestError(field, value, f"a whole number, {_range(low, high)}")
    return number


def as_float(field: str, value: object, low: float, high: float, *, above: bool = False) -> float:
    """The value as a finite float: any real number, numpy's scalars and Decimal among them, but no bool and no string.

    Args:
        field: name of the setting or argument, for the error.
        value: what was given.
        low: the least it may be.
        high: the most it may be; infinity for no limit.
        above: the value must be more than `low`, not equal to it.

    Raises:
        InvalidRequestError: it is no number, not finite, or out of the range.
    """
    number = _real(value)
    if not math.isfinite(number) or not low <= number <= high or (above and number == low):
        limits = f"a finite number above {low}" if above else f"a finite number, {_range(low, high)}"
        if above and high != math.inf:
            limits += f", at most {high}"
        raise InvalidRequestError(field, value, limits)
    return number


def as_token_ids(field: str, value: object) -> list[int]:
    """Token ids as a list of ints, from any ordered iterable of whole numbers: a list, a range, a numpy array.

    Whether the model has these tokens is not checked, nor that there are any at all.

    Raises:
        InvalidRequestError: it is no such iterable, or something in it is no whole number of at least 0.
    """
    allowed = "token ids: a list of whole numbers, at least 0"
    if isinstance(value, _UNORDERED_OR_TEXT):
        raise InvalidRequestError(field, cast("object", value), allowed)
    try:
        items = iter(cast("Iterable[object]", value))
    except Exception:  # no iterable, or one like numpy's arrays without a dimension, which only seems to be one
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
    except Exception:  # foreign code: what it raises is its own choice, and all of it means the same
        return None


def _real(value: object) -> float:
    """The value as a float; NaN for what is no number, or larger than a float."""
    # By type, since numpy's arrays and complex numbers have `__float__` as well, and drop what does not fit.
    if _is_bool(value) or not isinstance(value, (Real, Decimal)):
        return math.nan
    try:
        return float(value)
    except Exception:  # OverflowError, and whatever else a class of its own may raise
        return math.nan


def _is_bool(value: object) -> bool:
    # By name, since numpy is not imported here; its bool is called bool_ in versions before 2.
    return type(value).__name__ in ("bool", "bool_")


def _range(low: float, high: float | None) -> str:
    return f"at least {low}" if high is None or high == math.inf else f"{low} to {high}"
