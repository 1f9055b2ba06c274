"""`StreamConfig`: the settings of one stream, frozen and checked when made."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, Literal, NoReturn, cast

from headrace.values.checks import as_float, as_int
from headrace.values.errors import InvalidRequestError, shortened
from headrace.values.pricing import Pricing

__all__ = ["StreamConfig", "checked_config", "speculation_of"]

_UNLIMITED = math.inf
_MAX_TOKENS = 2**31 - 1  # more than any context; a larger number is a mistake
_MAX_MS = 100_000_000_000  # about three years; a clock that counts nanoseconds in 64 bits reaches 292 years
_CONSTRAINTS = ("json_schema", "regex", "grammar")


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """How one stream generates, stops and waits.

    Every value is checked when the object is made. A bad value raises InvalidRequestError, which names the field, the
    value and the allowed range; an unknown name is a TypeError. Zero means zero: no value is silently replaced.
    Numbers may be numpy's. No deadline may be longer than 100,000,000,000 ms, about three years.

    Args:
        max_tokens: the most tokens to sample, 1 to 2,147,483,647. The end-of-text token counts as one.
        temperature: divides the logits, after the filters; 0 is greedy.
        top_k: keep the k most likely tokens; 0 switches the filter off.
        top_p: keep the smallest set of tokens whose probability reaches top_p; 1 switches the filter off.
        min_p: keep tokens at least min_p times as likely as the most likely one; 0 switches the filter off.
        seed: the same seed, prompt and settings give the same tokens when run alone; None draws a seed. For this, a
            seeded stream that starts alone drops the cached prefixes of other streams.
        repeat_penalty: divides positive and multiplies negative logits of recent tokens; 1 switches it off.
        frequency_penalty: subtracted from a token's logit once per recent occurrence, -2 to 2.
        presence_penalty: subtracted from a token's logit if it occurred recently, -2 to 2.
        penalty_last_n: how many tokens, prompt included, count as recent; 0 switches the penalties off.
        logit_bias: numbers that are added to logits, by token id, which may be a string of digits, as in JSON. The
            attribute is read-only.
        logprobs: the number k, 0 to 128: each Token gets the log probabilities of the chosen token and of the k most
            likely ones; None for no log probabilities.
        ignore_eos: never sample an end-of-generation token.
        stop_sequences: strings that end the stream, none empty, none with lone surrogates; none of their characters is
            ever emitted.
        buffer_size: the number of unread tokens, at least 1, at which this stream's generation pauses.
        timeout_ms: milliseconds that the stream may take, from the queue to its end, without the time for which it is
            paused for its own reader; 0 for no limit.
        queue_timeout_ms: milliseconds that the stream may wait in the queue; 0 for no limit.
        first_token_timeout_ms: milliseconds until the stream's first token; 0 for no limit.
        stall_timeout_ms: milliseconds that one pause for the reader may take; 0 for no limit.
        json_schema: the output is JSON that fits this schema: a mapping, a JSON string, True (any JSON), or a type
            that Pydantic knows (a model, a dataclass, `list[int]`), of which `result.parsed` is an instance. At most
            one of `json_schema`, `regex` and `grammar` may be given.
        regex: the whole output matches this regular expression, in the syntax of Rust's regex crate.
        grammar: the output fits this grammar, in llguidance's dialect of Lark or in llama.cpp's GBNF.
        thinking: how to return the thought that a model writes before its answer: "split" returns it apart, as tokens
            of kind "thinking" and as `result.thinking`; "hide" drops its text; "raw" leaves it in the text, with tags.
        thinking_budget: the number of tokens after which the thought is closed; None for no limit.
        thinking_tags: the opening and the closing tag of a thought; None for those in the chat template.
        speculation: whether the next tokens may be guessed and several guesses verified in one step, where that is
            faster: "auto" (unless there is a seed), "on" (also with a seed) or "off". Guessing changes no distribution.
            But measured times decide which guesses are tried, and so affect the last bits of the logits.
        pricing: prices for `usage.cost`; None takes the model's.
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
    json_schema: Any = field(default=None, hash=False)
    regex: str | None = None
    grammar: str | None = None
    thinking: Literal["split", "hide", "raw"] = "split"
    thinking_budget: int | None = None
    thinking_tags: tuple[str, str] | None = None
    speculation: Literal["auto", "on", "off"] = "auto"
    pricing: Pricing | None = None

    def __post_init__(self) -> None:
        self._check_int("max_tokens", 1, _MAX_TOKENS)
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
            self._check_number(name, 0, _MAX_MS)
        self._check_constraints()
        self._check_choice("thinking", "split", "hide", "raw")
        self._check_choice("speculation", "auto", "on", "off")
        if self.thinking_budget is not None:
            self._check_int("thinking_budget", 0, _MAX_TOKENS)
        if self.thinking_tags is not None:
            self._set("thinking_tags", _checked_tags(self.thinking_tags))
        if not isinstance(cast("object", self.pricing), (Pricing, NoneType)):
            raise InvalidRequestError("pricing", self.pricing, "a Pricing, or None")

    def _check_constraints(self) -> None:
        """Check the types of constraints. Whether one can be compiled is found out when a stream starts."""
        given = [name for name in _CONSTRAINTS if getattr(self, name) is not None]
        if len(given) > 1:
            raise InvalidRequestError(given[1], getattr(self, given[1]), f"None where {given[0]} is given")
        for name in ("regex", "grammar"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise InvalidRequestError(name, value, "text, not empty")

    def replace(self, **changes: Any) -> StreamConfig:
        """Returns a copy with these fields changed, checked anew.

        Raises:
            TypeError: a name is no field.
            InvalidRequestError: a value is not allowed.
        """
        return dataclasses.replace(self, **changes) if changes else self

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _check_choice(self, name: str, *choices: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, str) or value not in choices:
            *others, last = (f'"{choice}"' for choice in choices)
            raise InvalidRequestError(name, value, f"{', '.join(others)} or {last}")
        self._set(name, str.__str__(value))

    def _check_int(self, name: str, low: int, high: int | None = None) -> None:
        self._set(name, as_int(name, getattr(self, name), low, high))

    def _check_number(self, name: str, low: float, high: float, *, above: bool = False) -> None:
        self._set(name, as_float(name, getattr(self, name), low, high, above=above))


def speculation_of(wanted: bool | None) -> Literal["auto", "on", "off"]:
    """Returns the value of `StreamConfig.speculation` for a flag; None stands for an absent flag."""
    return "auto" if wanted is None else "on" if wanted else "off"


class _FrozenDict(dict[int, float]):
    """A read-only dict. Unlike a mappingproxy, it can be pickled, copied and written by json."""

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("logit_bias is read-only; StreamConfig.replace(logit_bias=...) makes a config with another one")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse  # pyright: ignore

    def __reduce__(self) -> tuple[Any, ...]:
        return _FrozenDict, (dict(self),)


def _checked_bias(value: object) -> Mapping[int, float]:
    allowed = "a mapping from token id (a whole number, at least 0) to a finite number"
    if not isinstance(value, Mapping):
        raise InvalidRequestError("logit_bias", value, allowed)
    mapping = cast("Mapping[object, object]", value)
    checked: dict[int, float] = {}
    for key, bias in mapping.items():
        try:
            token = as_int("logit_bias", _key_of_json(key), 0)
            checked_bias = as_float("logit_bias", bias, -_UNLIMITED, _UNLIMITED)
        except InvalidRequestError:
            message = f"logit_bias has {shortened(key)}: {shortened(bias)}; allowed: {allowed}"
            raise InvalidRequestError("logit_bias", mapping, allowed, message) from None
        if token in checked:
            once = f"{allowed}, each token id once"
            message = f"logit_bias has the token id {token} more than once; allowed: {once}"
            raise InvalidRequestError("logit_bias", mapping, once, message)
        checked[token] = checked_bias
    return _FrozenDict(checked)


def _key_of_json(key: object) -> object:
    """Returns 42 for "42", since JSON objects only have string keys; no token id has more than ten digits."""
    return int(key) if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) <= 10 else key


def _checked_tags(value: object) -> tuple[str, str]:
    allowed = "two strings, the opening and the closing tag of a thought, not blank, without NUL or lone surrogates"
    tags = tuple(cast("Iterable[object]", value)) if isinstance(value, (list, tuple)) else ()
    if len(tags) != 2 or not all(isinstance(tag, str) and tag.strip() and "\0" not in tag for tag in tags):
        raise InvalidRequestError("thinking_tags", cast("object", value), allowed)
    try:
        opener, closer = (str.__str__(cast("str", tag)) for tag in tags)
        (opener + closer).encode()
    except UnicodeEncodeError:
        raise InvalidRequestError("thinking_tags", cast("object", value), allowed) from None
    return opener, closer


def _checked_stops(value: object) -> tuple[str, ...]:
    allowed = "a list or tuple of strings, none of them empty, without lone surrogates, which are no characters"
    if isinstance(value, (str, Mapping)) or not isinstance(value, Iterable):
        raise InvalidRequestError("stop_sequences", cast("object", value), allowed)
    try:
        given = tuple(cast("Iterable[object]", value))
        # Plain strings: of a member of a `class Stop(str, Enum)` the value is meant, not the name.
        stops = tuple(str.__str__(cast("str", stop)) for stop in given)
        for stop in stops:
            stop.encode()
    except (TypeError, UnicodeEncodeError):
        raise InvalidRequestError("stop_sequences", cast("object", value), allowed) from None
    if "" in stops:
        raise InvalidRequestError("stop_sequences", cast("object", value), allowed)
    return stops


def checked_config(config: StreamConfig | None, default: StreamConfig) -> StreamConfig:
    """Returns the settings, or the default for None; raises InvalidRequestError for anything else."""
    if config is None:
        return default
    if not isinstance(config, StreamConfig):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRequestError("config", config, "a StreamConfig, or None")
    return config
