"""`Guessable`: the part of a sequence that is needed to guess its next tokens."""

from __future__ import annotations

from typing import Protocol

from headrace.engine.speculation.prompt_lookup import Lookup

__all__ = ["Guessable"]


class Guessable(Protocol):
    """A protocol that the engine's `Sequence` satisfies; see there.

    Attributes:
        tokens: the prompt and all sampled tokens.
        lookup: guesses its next tokens from its text; None until guesses are needed.
    """

    tokens: list[int]
    lookup: Lookup | None

    @property
    def is_finished(self) -> bool: ...

    @property
    def num_left(self) -> int: ...

    def num_guessable(self, max_length: int) -> int: ...
