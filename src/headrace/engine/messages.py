"""`Submit`, `Cancel`, `Call` and `Wake`: the messages that other threads send to the engine thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

from headrace.engine.sequence import Sequence

__all__ = ["Call", "Cancel", "Message", "Submit", "Wake"]


class Submit(NamedTuple):
    """Queue a sequence."""

    sequence: Sequence


class Cancel(NamedTuple):
    """End a sequence, whatever its state."""

    sequence: Sequence


class Call(NamedTuple):
    """Call a function between two steps, and put its result into `answer`."""

    function: Callable[[], Any]
    answer: Future[Any]


class Wake(NamedTuple):
    """Run the loop once: a reader has caught up, or the engine is closing."""


Message = Submit | Cancel | Call | Wake
