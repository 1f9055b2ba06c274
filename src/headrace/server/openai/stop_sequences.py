"""`Stop`: the stop sequences of a request."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

__all__ = ["Stop", "stop_sequences_of"]

# Bounded, because the stop sequences are compiled into an automaton with a state for each character.
_StopSequence = Annotated[str, Field(max_length=256)]
Stop = _StopSequence | Annotated[list[_StopSequence], Field(max_length=64, fail_fast=True)]


def stop_sequences_of(stop: str | list[str]) -> tuple[str, ...]:
    """Returns `stop` as `StreamConfig.stop_sequences`."""
    return (stop,) if isinstance(stop, str) else tuple(stop)
