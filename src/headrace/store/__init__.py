"""The model store: `resolve` finds the .gguf file for a model's name or path, without the network."""

from __future__ import annotations

from headrace.store.resolving import ModelEntry, ResolvedModel, available, resolve

__all__ = ["ModelEntry", "ResolvedModel", "available", "resolve"]
