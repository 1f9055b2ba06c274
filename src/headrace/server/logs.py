"""Log lines of the server: what happened to a stream, in figures; never a word of what was said in it."""

from __future__ import annotations

import logging

from headrace.server.generation import Generation

__all__ = ["log_stream"]

_logger = logging.getLogger("headrace.server")


def log_stream(generation: Generation) -> None:
    """The line of a generation that has ended, all its choices together."""
    streams = generation.streams
    first = streams[0].metrics
    error = generation.error
    fields = {
        "id": generation.id,
        "model": generation.model,
        "finish_reason": generation.finish_reason,
        "cancelled_by": generation.cancelled_by,
        "error": None if error is None else error.code,
        "choices": len(streams),
        "prompt_tokens": streams[0].usage.prompt_tokens,
        "cached_tokens": streams[0].usage.cached_tokens,
        "completion_tokens": sum(stream.usage.completion_tokens for stream in streams),
        "time_to_first_token_ms": first.time_to_first_token_ms,
        "tokens_per_second": first.tokens_per_second,
        "queue_ms": first.queue_ms,
        "paused_ms": first.paused_ms,
        "latency_ms": max(stream.metrics.latency_ms for stream in streams),
    }
    _logger.info("stream", extra={"fields": fields})
