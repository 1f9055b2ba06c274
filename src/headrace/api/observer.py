"""`Observer`: records which tokens of a stream its reader was shown. A conversation's `Turn` is one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from headrace.values.config import StreamConfig
from headrace.values.events import End, TokenEvent
from headrace.values.results import Token

__all__ = ["Observer"]


class Observer(Protocol):
    """Records which tokens of a stream its reader was shown."""

    def fitted(self, config: StreamConfig) -> StreamConfig:
        """Return the settings of the stream. This is called after the prompt was made, on which they may depend."""
        ...

    def shown(self, token: Token) -> None:
        """Record a token. This is called on the reader's thread, just before the reader gets the token."""
        ...

    def ended(self, end: End | None, unread: Sequence[TokenEvent]) -> None:
        """Record that no more tokens will be shown. Only the first call counts.

        Any thread may call this, and so may a garbage collection at any point of a thread. So it must take no lock.

        Args:
            end: the End of the stream, if its reader was shown all of the stream; None if the reader left before.
            unread: tokens that the reader did not read one by one, but was shown as part of the result.
        """
        ...
