"""`Pricing`: prices of tokens, and the cost of a stream."""

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
        prompt: price of prompt tokens that were computed, at least 0.
        cached: price of prompt tokens whose KV was cached, at least 0; None for the price of `prompt`.
        completion: price of sampled tokens, thinking included, at least 0.
        currency: the currency of the three prices.

    Raises:
        InvalidRequestError: a price is no number of at least 0, or the currency is no text.
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
        """Returns the cost of a stream.

        Args:
            prompt_tokens: number of prompt tokens, cached ones included.
            cached_tokens: number of cached prompt tokens.
            completion_tokens: number of sampled tokens.
        """
        cached = self.prompt if self.cached is None else self.cached
        computed = prompt_tokens - cached_tokens
        return (computed * self.prompt + cached_tokens * cached + completion_tokens * self.completion) / _MILLION
