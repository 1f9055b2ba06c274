"""`AckWindow`: flow control of a stream by the client's acks (acknowledgements)."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["AckWindow"]


@dataclass
class AckWindow:
    """Limits how many tokens are sent ahead of the client's last ack.

    Attributes:
        size: tokens that may be sent ahead; None for no limit.
        num_sent: tokens sent.
        num_acked: of these, tokens that the client has acked.
    """

    size: int | None
    num_sent: int = 0
    num_acked: int = 0

    @property
    def room(self) -> int | None:
        """How many tokens may be sent now; None for no limit."""
        return None if self.size is None else self.num_acked + self.size - self.num_sent

    def acknowledge(self, index: int) -> bool:
        """Record that the client has all tokens up to this index. Returns whether that was not known yet."""
        if index < self.num_acked:
            return False
        self.num_acked = index + 1
        return True
