"""The field `usage` of an answer: token counts and their cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from headrace.values.pricing import Pricing
from headrace.values.results import Metrics, Usage

__all__ = ["Measured", "cost_of", "usage_of"]


class Measured(Protocol):
    """Anything with token counts and times: a `GenerationResult`, or a stream that may still run."""

    @property
    def usage(self) -> Usage:
        """Token counts."""
        ...

    @property
    def metrics(self) -> Metrics:
        """Times."""
        ...


def usage_of(results: Sequence[Measured], num_choices: int, pricing: Pricing | None) -> dict[str, Any]:
    """Returns a request's usage, with its cost. A prompt counts once, however many choices it had.

    Args:
        results: all choices; the choices of one prompt follow one another.
        num_choices: choices for each prompt.
        pricing: the model's prices.
    """
    prompts = [result.usage for result in results[::num_choices]]
    prompt_tokens = sum(usage.prompt_tokens for usage in prompts)
    cached_tokens = sum(usage.cached_tokens for usage in prompts)
    completion_tokens = sum(result.usage.completion_tokens for result in results)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": sum(result.usage.thinking_tokens for result in results)},
        **cost_of(pricing, prompt_tokens, cached_tokens, completion_tokens),
    }


def cost_of(pricing: Pricing | None, prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> dict[str, Any]:
    """Returns the cost of these tokens as fields of a usage; no fields without a price."""
    if pricing is None:
        return {}
    cost = pricing.cost(prompt_tokens, cached_tokens, completion_tokens)
    return {"cost": cost, "cost_currency": pricing.currency}
