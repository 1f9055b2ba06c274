"""What other threads ask of the engine thread, one message at a time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

from headrace.engine.sequence import Sequence

__all__ = ["Call", "Cancel", "Message", "Submit", "Wake"]


class Submit(NamedTuple):
    """Queue this."""

    sequence: Sequence


class Cancel(NamedTuple):
    """End this, wherever it is."""

    sequence: Sequence


class Call(NamedTuple):
    """Something to do between two steps, and where the answer goes."""

    function: Callable[[], Any]
    answer: Future[Any]


class Wake(NamedTuple):
    """A reader has caught up, or the engine shall close: look again."""


Message = Submit | Cancel | Call | Wake
