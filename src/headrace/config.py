"""The settings of one stream: frozen, and checked when made."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from headrace.errors import InvalidRequestError

__all__ = ["StreamConfig"]

_UNLIMITED = math.inf
_LATER = "None; constrained output is not part of this version"


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """How one stream generates, stops and waits.

    Every value is checked when the object is made: a bad one raises InvalidRequestError, which names the field,
    the value and the allowed range; an unknown name is a TypeError. Zero means zero, nothing is replaced silently.

    Args:
        max_tokens: sampled tokens at most, at least 1. The end-of-text token counts as one.
        temperature: 0 is greedy; otherwise the logits are divided by it, after the filters.
        top_k: keep the k most likely tokens; 0 switches the filter off.
        top_p: keep the smallest set of tokens whose probability reaches top_p; 1 switches the filter off.
        min_p: keep tokens at least min_p times as likely as the most likely one; 0 switches the filter off.
        seed: the same seed, prompt and settings give the same tokens when run alone; None draws one. To keep that
            promise a seeded stream that starts alone drops the cached prefixes of others.
        repeat_penalty: divides positive and multiplies negative logits of recent tokens; 1 switches it off.
        frequency_penalty: subtracted from a token's logit once per recent occurrence, -2 to 2.
        presence_penalty: subtracted from a token's logit if it occurred recently, -2 to 2.
        penalty_last_n: how many tokens, prompt included, count as recent; 0 switches the penalties off.
        logit_bias: added to the logits of these token ids.
        logprobs: log probabilities of the chosen token and of the k most likely ones, on each Token; None for none.
        ignore_eos: never sample an end-of-generation token.
        stop_sequences: strings that end the stream; none of their characters is ever emitted.
        buffer_size: tokens that may wait unread before this stream's generation pauses, at least 1.
        timeout_ms: milliseconds the stream may spend, queue and prefill included, time paused for its own reader
            excluded; 0 for no limit.
        queue_timeout_ms: milliseconds until it must run; 0 for no limit.
        first_token_timeout_ms: milliseconds until its first token; 0 for no limit.
        stall_timeout_ms: milliseconds it may be paused for its reader at one time; 0 for no limit.
        json_schema: reserved for constrained output; only None for now.
        regex: reserved for constrained output; only None for now.
        grammar: reserved for constrained output; only None for now.
        thinking: what becomes of thinking text; only "raw", which leaves it in the text, for now.
    """

    max_tokens: int = 256
    temperature: float = 1.0
    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    seed: int | None = None
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    penalty_last_n: int = 64
    logit_bias: Mapping[int, float] = field(default_factory=dict[int, float], hash=False)
    logprobs: int | None = None
    ignore_eos: bool = False
    stop_sequences: tuple[str, ...] = ()
    buffer_size: int = 64
    timeout_ms: float = 30000
    queue_timeout_ms: float = 0
    first_token_timeout_ms: float = 0
    stall_timeout_ms: float = 0
    json_schema: None = None
    regex: None = None
    grammar: None = None
    thinking: Literal["raw"] = "raw"

    def __post_init__(self) -> None:
        self._check_int("max_tokens", 1)
        self._check_number("temperature", 0, _UNLIMITED)
        self._check_int("top_k", 0)
        self._check_number("top_p", 0, 1)
        self._check_number("min_p", 0, 1)
        if self.seed is not None:
            self._check_int("seed", 0, 2**64 - 1)
        self._check_number("repeat_penalty", 0, _UNLIMITED, above=True)
        self._check_number("frequency_penalty", -2, 2)
        self._check_number("presence_penalty", -2, 2)
        self._check_int("penalty_last_n", 0)
        self._set("logit_bias", _checked_bias(self.logit_bias))
        if self.logprobs is not None:
            self._check_int("logprobs", 0, 128)
        if type(self.ignore_eos) is not bool:
            raise InvalidRequestError("ignore_eos", self.ignore_eos, "True or False")
        self._set("stop_sequences", _checked_stops(self.stop_sequences))
        self._check_int("buffer_size", 1)
        for name in ("timeout_ms", "queue_timeout_ms", "first_token_timeout_ms", "stall_timeout_ms"):
            self._check_number(name, 0, _UNLIMITED)
        for name in ("json_schema", "regex", "grammar"):
            if getattr(self, name) is not None:
                raise InvalidRequestError(name, getattr(self, name), _LATER)
        if self.thinking != "raw":
            raise InvalidRequestError(
                "thinking", self.thinking, '"raw"; splitting or hiding it is not part of this version'
            )

    def replace(self, **changes: Any) -> StreamConfig:
        """A copy with these fields changed, checked anew.

        Raises:
            TypeError: a name that is no field.
            InvalidRequestError: a value out of its range.
        """
        return dataclasses.replace(self, **changes) if changes else self

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _check_int(self, name: str, low: int, high: int | None = None) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise InvalidRequestError(name, value, f"a whole number, {_range(low, high)}")
        number = value.__index__()
        if number < low or (high is not None and number > high):
            raise InvalidRequestError(name, value, f"a whole number, {_range(low, high)}")
        self._set(name, number)

    def _check_number(self, name: str, low: float, high: float, *, above: bool = False) -> None:
        value = getattr(self, name)
        allowed = f"a finite number above {low}" if above else f"a finite number, {_range(low, high)}"
        if isinstance(value, bool) or not (hasattr(value, "__float__") or hasattr(value, "__index__")):
            raise InvalidRequestError(name, value, allowed)
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            raise InvalidRequestError(name, value, allowed) from None
        if not math.isfinite(number) or not low <= number <= high or (above and number == low):
            raise InvalidRequestError(name, value, allowed)
        self._set(name, number)


def _range(low: float, high: float | None) -> str:
    return f"at least {low}" if high is None or high == _UNLIMITED else f"{low} to {high}"


def _checked_bias(value: object) -> Mapping[int, float]:
    allowed = "a mapping from token id (a whole number, at least 0) to a finite number"
    if not isinstance(value, Mapping):
        raise InvalidRequestError("logit_bias", value, allowed)
    checked: dict[int, float] = {}
    for token, bias in value.items():  # pyright: ignore[reportUnknownVariableType]
        # JSON objects can only have string keys, so "42" is accepted for 42.
        if isinstance(token, str) and token.isascii() and token.isdigit():
            token = int(token)
        if isinstance(token, bool) or not isinstance(token, int) or token < 0:
            raise InvalidRequestError("logit_bias", value, allowed)  # pyright: ignore[reportUnknownArgumentType]
        if isinstance(bias, bool) or not isinstance(bias, (int, float)) or not math.isfinite(bias):
            raise InvalidRequestError("logit_bias", value, allowed)  # pyright: ignore[reportUnknownArgumentType]
        checked[token] = float(bias)
    return checked


def _checked_stops(value: object) -> tuple[str, ...]:
    allowed = "a list or tuple of strings, none of them empty"
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InvalidRequestError("stop_sequences", value, allowed)
    stops = tuple(value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if not all(isinstance(stop, str) and stop for stop in stops):  # pyright: ignore[reportUnknownVariableType]
        raise InvalidRequestError("stop_sequences", value, allowed)  # pyright: ignore[reportUnknownArgumentType]
    return stops  # pyright: ignore[reportUnknownVariableType]
