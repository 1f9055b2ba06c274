"""From the name of a model to the file that holds its weights, without the network."""

from __future__ import annotations

from headrace.store.names import ModelEntry, ResolvedModel, available, resolve

__all__ = ["ModelEntry", "ResolvedModel", "available", "resolve"]
