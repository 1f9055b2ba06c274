"""What `/metrics` shows: the engines' own counters at the moment of asking, and histograms of what streams took."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from headrace.server.generation import Generation

if TYPE_CHECKING:
    from headrace.server.service import Service

__all__ = ["ServerMetrics"]


class ServerMetrics:
    """The metrics of one server.

    Args:
        service: whose.
    """

    def __init__(self, service: Service) -> None:
        self.refused = 0
        self._service = service
        self._registry = CollectorRegistry(auto_describe=False)

    def observe(self, generation: Generation) -> None:
        """A generation has ended."""

    def exposition(self) -> tuple[bytes, str]:
        """The metrics as text, and its media type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
