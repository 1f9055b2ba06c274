"""`Observer`: is told what the reader of a stream was shown. A conversation's `Turn` is one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from headrace.values.config import StreamConfig
from headrace.values.events import End, TokenEvent
from headrace.values.results import Token

__all__ = ["Observer"]


class Observer(Protocol):
    """Is told what the reader of a stream was shown."""

    def fitted(self, config: StreamConfig) -> StreamConfig:
        """Return the settings of the stream, which may depend on its prompt: it is made by now."""
        ...

    def shown(self, token: Token) -> None:
        """Take note of a token; called on the reader's thread, just before the reader gets it."""
        ...

    def ended(self, end: End | None, unread: Sequence[TokenEvent]) -> None:
        """Take note that nothing more will be shown. Only the first call counts.

        Any thread may call it, and a garbage collection at any point of a thread, so it must take no lock.

        Args:
            end: how the stream ended, if its reader was shown everything; None if the reader left before.
            unread: tokens that the reader did not read one by one, but was shown in the result.
        """
        ...
