"""What becomes of engines when their process ends or forks."""

from __future__ import annotations

import atexit
import os
import weakref
from typing import Protocol

__all__ = ["register"]

# How long the exit waits for a step that is running, in seconds.
_PATIENCE = 10


class _Engine(Protocol):
    def close(self, timeout: float | None = None) -> None: ...

    def after_fork(self) -> None: ...


_engines: weakref.WeakSet[_Engine] = weakref.WeakSet()


def register(engine: _Engine) -> None:
    """Have an engine closed at exit, and told of a fork, for as long as it lives."""
    _engines.add(engine)


def _close_all() -> None:
    # A daemon thread that is inside llama.cpp while the interpreter ends would crash it.
    for engine in list(_engines):
        engine.close(timeout=_PATIENCE)


def _after_fork_all() -> None:
    for engine in list(_engines):
        engine.after_fork()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_all)
