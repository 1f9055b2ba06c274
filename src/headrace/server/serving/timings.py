"""The fields `timings` and `prompt_progress` of an answer, under the names that llama.cpp's server uses."""

from __future__ import annotations

from typing import Any

from headrace.api.stream import AsyncTokenStream
from headrace.server.serving.usage import Measured

__all__ = ["progress_of", "timings_of"]


def timings_of(result: Measured) -> dict[str, Any]:
    """Returns the times of a choice, in milliseconds, and its speeds in tokens per second."""
    usage, metrics = result.usage, result.metrics
    prompt_n = usage.prompt_tokens - usage.cached_tokens
    predicted_n = usage.completion_tokens
    return {
        "cache_n": usage.cached_tokens,
        "prompt_n": prompt_n,
        "prompt_ms": _rounded(metrics.prefill_ms),
        "prompt_per_token_ms": _rounded(_ratio(metrics.prefill_ms, prompt_n)),
        "prompt_per_second": _rounded(1000 * _ratio(prompt_n, metrics.prefill_ms)),
        "predicted_n": predicted_n,
        "predicted_ms": _rounded(metrics.decode_ms),
        "predicted_per_token_ms": _rounded(_ratio(metrics.decode_ms, predicted_n - 1)),
        "predicted_per_second": _rounded(metrics.tokens_per_second),
        "queue_ms": _rounded(metrics.queue_ms),
        "time_to_first_token_ms": _rounded(metrics.time_to_first_token_ms or 0.0),
    }


def progress_of(stream: AsyncTokenStream) -> dict[str, Any]:
    """Returns how many tokens of a stream's prompt were prefilled."""
    usage, metrics = stream.usage, stream.metrics
    return {
        "total": usage.prompt_tokens,
        "cache": usage.cached_tokens,
        "processed": stream.prefilled_tokens,
        "time_ms": round(metrics.prefill_ms),
    }


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator > 0 else 0.0


def _rounded(value: float) -> float:
    return round(value, 3)
