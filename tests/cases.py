"""The parameters of tests: samples of many cases, and names that every worker gives alike."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import pytest

__all__ = ["named", "sampled"]

_PARAM = type(pytest.param())


def sampled(cases: Iterable[Any], every: int, *, first: int = 0) -> list[Any]:
    """Parameters of which `make test` runs every n-th, and `make test-long` the others.

    For tests that are exhaustive: every split of every text, every model with every option.

    Args:
        cases: values, or `pytest.param`s.
        every: one of how many is run by `make test`.
        first: which is the first of those.
    """
    return [case if number % every == first % every else _long(case) for number, case in enumerate(cases)]


def _long(case: Any) -> Any:
    if isinstance(case, _PARAM):
        return pytest.param(*case.values, marks=[*case.marks, pytest.mark.long], id=case.id)
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.long)


def named(value: object) -> str:
    """Return a value's `repr()` without addresses, which differ between workers: for `ids=` of functions, say."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
