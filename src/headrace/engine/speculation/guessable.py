"""`Guessable`: the attributes of a sequence that are needed to guess its next tokens."""

from __future__ import annotations

from typing import Protocol

from headrace.engine.speculation.prompt_lookup import Lookup

__all__ = ["Guessable"]


class Guessable(Protocol):
    """The protocol for a sequence whose tokens are guessed. The engine's `Sequence` satisfies it.

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
