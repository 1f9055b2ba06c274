"""Who follows what the reader of a stream gets to see, as `conversation.py` does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from headrace.values.config import StreamConfig
from headrace.values.events import End, TokenEvent
from headrace.values.results import Token

__all__ = ["Observer"]


class Observer(Protocol):
    """Follows what the reader of a stream gets to see."""

    def fitted(self, config: StreamConfig) -> StreamConfig:
        """The settings, now that the prompt is made."""
        ...

    def shown(self, token: Token) -> None:
        """The reader gets this token: called on its thread, just before."""
        ...

    def ended(self, end: End | None, unread: Sequence[TokenEvent]) -> None:
        """There is nothing more to be read. Only the first call counts.

        It may come from any thread, and from a garbage collection in the midst of anything, so it must take no lock.

        Args:
            end: how the stream ended, where its reader knows all of it; None where he left before.
            unread: those tokens that he knows only from the result.
        """
        ...
