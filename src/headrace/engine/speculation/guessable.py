"""What the room needs of a sequence to guess its next tokens."""

from __future__ import annotations

from typing import Protocol

from headrace.engine.speculation.prompt_lookup import Lookup

__all__ = ["Guessable"]


class Guessable(Protocol):
    """An engine's `Sequence`, as guesses see it; see there.

    Attributes:
        tokens: the prompt and everything sampled.
        lookup: what guesses its next tokens from its text; None until that is asked for.
    """

    tokens: list[int]
    lookup: Lookup | None

    @property
    def is_finished(self) -> bool: ...

    @property
    def num_left(self) -> int: ...

    def num_guessable(self, max_length: int) -> int: ...
