"""Odd objects as values of settings: one whose methods fail, and whole numbers that are no int."""

from __future__ import annotations

from typing import Any


class Broken:
    """An object of a caller whose own methods fail."""

    def _fail(self, *_: object) -> Any:
        raise ZeroDivisionError

    __repr__ = __index__ = __float__ = __iter__ = _fail


class Whole:
    """A whole number that is no int, as numpy's are."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value
