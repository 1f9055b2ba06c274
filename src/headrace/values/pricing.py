"""What tokens cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from headrace.values.checks import as_float
from headrace.values.errors import InvalidRequestError

__all__ = ["Pricing"]

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Pricing:
    """Prices per million tokens.

    Args:
        prompt: of the tokens of prompts that had to be computed, at least 0.
        cached: of those that had not, because their KV was there already; None for the same price.
        completion: of sampled tokens, thinking included.
        currency: of all three.

    Raises:
        InvalidRequestError: a price that is none, or a currency that is no text.
    """

    prompt: float = 0.0
    cached: float | None = None
    completion: float = 0.0
    currency: str = "USD"

    def __post_init__(self) -> None:
        for name in ("prompt", "cached", "completion"):
            value = getattr(self, name)
            if value is not None or name != "cached":
                object.__setattr__(self, name, as_float(f"pricing.{name}", value, 0, float("inf")))
        currency = cast("object", self.currency)
        if not isinstance(currency, str) or not currency.strip():
            raise InvalidRequestError("pricing.currency", currency, 'text, as "USD"')

    def cost(self, prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> float:
        """The price of so many tokens.

        Args:
            prompt_tokens: length of the prompt, the cached part included.
            cached_tokens: how many of them were cached.
            completion_tokens: sampled tokens.
        """
        cached = self.prompt if self.cached is None else self.cached
        computed = prompt_tokens - cached_tokens
        return (computed * self.prompt + cached_tokens * cached + completion_tokens * self.completion) / _MILLION
