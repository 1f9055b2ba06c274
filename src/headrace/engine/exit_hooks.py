"""`register`: closes an engine when its process exits, and tells it when its process was forked."""

from __future__ import annotations

import atexit
import os
import weakref
from typing import Protocol

__all__ = ["register"]

# How long the exit waits for a running step, in seconds.
_EXIT_TIMEOUT = 10


class _Engine(Protocol):
    def close(self, timeout: float | None = None) -> None: ...

    def after_fork(self) -> None: ...


_engines: weakref.WeakSet[_Engine] = weakref.WeakSet()


def register(engine: _Engine) -> None:
    """Close this engine at interpreter exit, and call its `after_fork` in forked children. Keeps a weak reference."""
    _engines.add(engine)


def _close_all() -> None:
    # A daemon thread that is inside llama.cpp while the interpreter ends would crash the process.
    for engine in list(_engines):
        engine.close(timeout=_EXIT_TIMEOUT)


def _after_fork_all() -> None:
    for engine in list(_engines):
        engine.after_fork()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_all)
