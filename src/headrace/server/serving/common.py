"""What the answers of several endpoints have in common: counts, times, reasons, log probabilities."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from json.encoder import encode_basestring_ascii
from typing import Any, Protocol

from headrace.api.stream import AsyncTokenStream
from headrace.text.detokenizer import Detokenizer
from headrace.values.pricing import Pricing
from headrace.values.results import FinishReason, Metrics, Token, Usage

__all__ = [
    "FINISH_REASONS",
    "HeldLogprobs",
    "Measured",
    "cost_of",
    "dumps",
    "logprob",
    "logprob_entry",
    "progress_of",
    "quoted",
    "role_of",
    "shown",
    "text_of",
    "timings_of",
    "usage_of",
]

FINISH_REASONS: dict[FinishReason, str] = {
    "stop": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
}
# JSON has no infinity; this is what OpenAI sends for a token that could not have been chosen.
_IMPOSSIBLE = -9999.0

# A string as JSON, in ASCII: whatever cuts the bytes on their way, no character can come apart.
quoted = encode_basestring_ascii
dumps = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def role_of(role: str) -> str:
    """What templates call a role: they know system messages; "developer" is only OpenAI's newer word for them."""
    return "system" if role == "developer" else role


class Measured(Protocol):
    """A result, or a stream: what counts and times can be asked of."""

    @property
    def usage(self) -> Usage:
        """The counts."""
        ...

    @property
    def metrics(self) -> Metrics:
        """The times."""
        ...


def usage_of(results: Sequence[Measured], num_choices: int, pricing: Pricing | None) -> dict[str, Any]:
    """The usage of a request, and what it costs: each prompt once, however many choices it had."""
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
    """The price of so many tokens, where there is one."""
    if pricing is None:
        return {}
    cost = pricing.cost(prompt_tokens, cached_tokens, completion_tokens)
    return {"cost": cost, "cost_currency": pricing.currency}


def timings_of(result: Measured) -> dict[str, Any]:
    """Times of a choice, in milliseconds, under the names that llama.cpp's server has for them."""
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
    """How far the prompt was read, under the names that llama.cpp's server has for it."""
    usage, metrics = stream.usage, stream.metrics
    return {
        "total": usage.prompt_tokens,
        "cache": usage.cached_tokens,
        "processed": stream.prefilled_tokens,
        "time_ms": round(metrics.prefill_ms),
    }


class HeldLogprobs:
    """Holds the log probabilities of tokens back until their text was sent, so that no stop sequence leaks in them.

    Only tokens of the answer have any, not those of thoughts, of calls, and of the tags around them.
    """

    def __init__(self) -> None:
        self._held: list[tuple[int, Token]] = []  # with the end of each in what was sampled, in characters
        self._begin()

    def _begin(self) -> None:
        """Nothing is held; with the next token a piece of the answer may begin, or what closes a thought or a call."""
        self._held.clear()
        self._detokenizer = Detokenizer()
        self._begun = ""  # what was sampled until some of it was sent
        self._num_sampled = 0
        self._num_sent: int | None = None  # how much of that was sent, or never will be; None before the first text

    def feed(self, tokens: Iterable[Token]) -> list[Token]:
        """Take tokens in, and give out those whose text has left, entirely."""
        ready: list[Token] = []
        for token in tokens:
            text = text_of(token)
            if token.kind != "text":
                self._begin()
            if token.kind == "text" or text:
                self._take(token, text)
                ready += self._ready()
        return ready

    def _take(self, token: Token, text: str) -> None:
        piece = self._detokenizer.feed(token.bytes)
        self._num_sampled += len(piece)
        if token.bytes:  # the end-of-text token is no part of the text
            is_cut = self._detokenizer.num_held > 0  # the character that it ends in comes with a later one
            self._held.append((self._num_sampled + is_cut, token))
        if self._num_sent is None:
            self._begun += piece
            if not text:
                return
            self._num_sent = self._place(text)
            self._held = [(end, token) for end, token in self._held if end > self._num_sent]
        self._num_sent += len(text)

    def _place(self, text: str) -> int:
        """Where in what was sampled the first text begins: behind white space, and what closes a thought."""
        begun = self._begun
        for place in (0, len(begun) - len(begun.lstrip())):
            if begun.startswith(text, place):
                return place
        place = begun.rfind(text)
        return place if place >= 0 else len(begun) - len(text)  # some of it came with the last token of the thought

    def _ready(self) -> list[Token]:
        if self._num_sent is None:
            return []
        count = sum(end <= self._num_sent for end, _ in self._held)
        ready = [token for _, token in self._held[:count]]
        del self._held[:count]
        return ready


def text_of(token: Token) -> str:
    """What a token adds to the answer, without thoughts and calls."""
    if token.kind == "text" and not token.rest:
        return token.text
    return "".join(part.text for part in token.parts if part.kind == "text")


def shown(token_bytes: bytes) -> str:
    """A token's piece as text; half a character is a replacement character."""
    return token_bytes.decode(errors="replace")


def logprob(value: float | None) -> float:
    """A log probability as JSON can have it."""
    return _IMPOSSIBLE if value is None or value < _IMPOSSIBLE else value


def logprob_entry(token: Token) -> dict[str, Any]:
    """A token's log probabilities in the form of chats and responses."""
    return {
        **_one_logprob(token.bytes, token.logprob),
        "top_logprobs": [_one_logprob(one.bytes, one.logprob) for one in token.top_logprobs or ()],
    }


def _one_logprob(piece: bytes, value: float | None) -> dict[str, Any]:
    return {"token": shown(piece), "logprob": logprob(value), "bytes": list(piece)}


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator > 0 else 0.0


def _rounded(value: float) -> float:
    return round(value, 3)
