"""`StreamConfig`: defaults, checks, and which settings win."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import pickle
from collections.abc import Callable
from enum import Enum
from typing import Any

import numpy as np
import pytest
from harness import UNHURRIED, scripted

from headrace import (
    Context,
    InvalidRequestError,
    Pricing,
    StreamConfig,
)
from values.odd_values import Broken, Whole

# StreamConfig.


def test_the_defaults_of_the_documentation() -> None:
    config = StreamConfig()
    assert {field.name: getattr(config, field.name) for field in dataclasses.fields(config)} == {
        "max_tokens": 256,
        "temperature": 1.0,
        "top_k": 40,
        "top_p": 0.9,
        "min_p": 0.0,
        "seed": None,
        "repeat_penalty": 1.0,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "penalty_last_n": 64,
        "logit_bias": {},
        "logprobs": None,
        "ignore_eos": False,
        "stop_sequences": (),
        "buffer_size": 64,
        "timeout_ms": 30000,
        "queue_timeout_ms": 0,
        "first_token_timeout_ms": 0,
        "stall_timeout_ms": 0,
        "json_schema": None,
        "regex": None,
        "grammar": None,
        "thinking": "split",
        "thinking_budget": None,
        "thinking_tags": None,
        "speculation": "auto",
        "pricing": None,
    }


class Word(str, Enum):  # noqa: UP042
    """A string that is not written as its value, and yet stands for it."""

    STOP = "stop here"


NONE_IS_GOOD = ("seed", "logprobs", "thinking_budget")
NEVER_NUMBERS = [True, np.True_, "1", b"1", [1], math.nan, math.inf, -math.inf, 1j, np.array([1, 2]), Broken()]
WHOLE = {
    "max_tokens": ([1, 2, 10**9], [0, -1]),
    "top_k": ([0, 1, 10**6], [-1]),
    "seed": ([None, 0, 2**64 - 1], [-1, 2**64]),
    "penalty_last_n": ([0, 10**6], [-1]),
    "logprobs": ([None, 0, 128], [-1, 129]),
    "thinking_budget": ([None, 0, 1, 10**9], [-1, 2**31]),
    "buffer_size": ([1, 10**6], [0, -1]),
}


REAL = {
    "temperature": ([0, 0.0, 1, 100.0], [-0.1, -1]),
    "top_p": ([0, 0.5, 1], [-0.1, 1.1]),
    "min_p": ([0, 0.5, 1], [-0.1, 1.1]),
    "repeat_penalty": ([0.1, 1, 5.0], [0, -1]),
    "frequency_penalty": ([-2, 0, 2], [-2.1, 2.1]),
    "presence_penalty": ([-2, 0, 2], [-2.1, 2.1]),
    "timeout_ms": ([0, 0.5, 10**9, 10**11], [-1, 10**11 + 1, 1e13]),
    "queue_timeout_ms": ([0, 0.5, 10**11], [-1, 10**11 + 1, 1e13]),
    "first_token_timeout_ms": ([0, 0.5, 10**11], [-1, 10**11 + 1, 1e13]),
    "stall_timeout_ms": ([0, 0.5, 10**11], [-1, 10**11 + 1, 1e13]),
}


OTHER: dict[str, tuple[list[object], list[object]]] = {
    "logit_bias": (
        [{}, {1: 2.0}, {1: -100}, {"42": 1.5}, {np.int64(1): np.float32(2)}, {"0": 1, "9999999999": 2}],
        [
            *(None, [], {-1: 1.0}, {True: 1.0}, {1.5: 1.0}, {"x": 1.0}, {"٣": 1.0}, {"": 1.0}, {"12345678901": 1.0}),
            *({"9" * 5000: 1.0}, {"3": 1, 3: 2}, {"3": 1, "03": 1}, {Broken(): 1.0}),
            *({1: math.nan}, {1: -math.inf}, {1: "2"}, {1: True}, {1: 10**400}, {1: np.array([1.0])}, {1: Broken()}),
        ],
    ),
    "ignore_eos": ([True, False], [None, 0, 1, "yes"]),
    "stop_sequences": (
        [(), [], ("a",), ["a", "🙂"], ["a\0"], np.array(["a"])],
        ["a", None, 1, [""], ["a", ""], [b"a"], b"a", [None], ["a\ud800"], {"a": 1}, np.array("a")],
    ),
    "json_schema": ([None, {}, "{}", True, dict, list[int]], []),  # what it is shows when a stream is started
    "regex": ([None, ".*"], ["", b"a", 1, ["a"]]),
    "grammar": ([None, "root ::= x"], ["", b"a", 1, ["a"]]),
    "thinking": (["split", "hide", "raw"], ["loud", "", None, True, np.array(["raw", "raw"])]),
    "speculation": (["auto", "on", "off"], ["yes", "", None, True, np.array(["on", "on"])]),
    "thinking_tags": (
        [None, ("<a>", "</a>"), ["<a>", "</a>"], ("x", "x")],
        [
            *("<a>", ("<a>",), ("<a>", "b", "c"), ("<a>", " "), ("", "a"), ("<a>", None), (b"<a>", b"</a>"), 1),
            *({"a": "b"}, ("<a>", "\ud800"), ("a\0", "b")),
        ],
    ),
    "pricing": ([None, Pricing(), Pricing(1, 2, 3)], [1.0, {"prompt": 1}, "free", Pricing]),
}


def cases() -> list[tuple[str, object, bool]]:
    rows: list[tuple[str, object, bool]] = []
    for name, (good, bad) in {**WHOLE, **REAL, **OTHER}.items():
        rows += [(name, value, True) for value in good] + [(name, value, False) for value in bad]
    for name in (*WHOLE, *REAL):
        rows += [(name, value, False) for value in NEVER_NUMBERS]
    for name in WHOLE:
        rows += [(name, 1.5, False), (name, 2.0, False), (name, Whole(3), True), (name, np.int64(3), True)]
    rows += [(name, np.float32(0.5), True) for name in REAL]
    rows += [(name, 10**400, False) for name in REAL]
    rows += [(name, None, False) for name in (*WHOLE, *REAL) if name not in NONE_IS_GOOD]
    return rows


@pytest.mark.parametrize(("name", "value", "is_good"), cases())
def test_every_setting_is_checked(name: str, value: object, is_good: bool) -> None:
    if is_good:
        config = StreamConfig(**{name: value})
        assert StreamConfig().replace(**{name: value}) == config
        return
    with pytest.raises(InvalidRequestError) as caught:
        StreamConfig(**{name: value})
    assert caught.value.field == name
    assert caught.value.value is value or value != value
    assert caught.value.allowed
    assert name in str(caught.value)
    assert caught.value.allowed in str(caught.value)


def test_every_setting_is_covered_by_the_test_above() -> None:
    assert {*WHOLE, *REAL, *OTHER} == {field.name for field in dataclasses.fields(StreamConfig)}


def test_only_one_grammar_may_be_given() -> None:
    for first, second in (("json_schema", "regex"), ("json_schema", "grammar"), ("regex", "grammar")):
        with pytest.raises(InvalidRequestError) as caught:
            StreamConfig(**{first: "{}", second: "x"})
        assert (caught.value.field, caught.value.allowed) == (second, f"None where {first} is given")


def test_unknown_settings_are_type_errors() -> None:
    with pytest.raises(TypeError, match="max_token"):
        StreamConfig(max_token=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="max_token"):
        StreamConfig().replace(max_token=3)
    with scripted("abc") as made:
        with pytest.raises(TypeError, match="max_token"):
            made.model.generate("p", max_token=3)
        with pytest.raises(TypeError, match="max_token"):
            made.asynchronous.generate_stream("p", max_token=3)
        with pytest.raises(TypeError, match="max_token"):
            Context(made.model, max_token=3)


def test_settings_are_frozen() -> None:
    bias, stops = {1: 2.0}, ["a"]
    config = StreamConfig(logit_bias=bias, stop_sequences=stops)  # type: ignore[arg-type]
    bias[2] = 3.0
    stops.append("b")
    assert dict(config.logit_bias) == {1: 2.0}
    assert config.stop_sequences == ("a",)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.max_tokens = 3  # type: ignore[misc]
    assert isinstance(hash(config), int)
    assert pickle.loads(pickle.dumps(config)) == copy.deepcopy(config) == config
    assert StreamConfig(**dataclasses.asdict(config)) == config
    assert config == StreamConfig(logit_bias={1: 2.0}, stop_sequences=("a",))


def test_the_logit_bias_is_read_only() -> None:
    config = StreamConfig(logit_bias={"1": np.float32(2)})  # type: ignore[dict-item]
    bias: Any = config.logit_bias
    changes: list[Callable[[], object]] = [
        lambda: bias.__setitem__(1, 3.0),
        lambda: bias.__delitem__(1),
        lambda: bias.__ior__({2: 1.0}),
        lambda: bias.update({2: 1.0}),
        lambda: bias.setdefault(2, 1.0),
        lambda: bias.pop(1),
        bias.popitem,
        bias.clear,
    ]
    for change in changes:
        with pytest.raises(TypeError, match="read-only"):
            change()
    plain = dataclasses.asdict(config)
    for one in (pickle.loads(pickle.dumps(config)), copy.deepcopy(config), copy.copy(config), StreamConfig(**plain)):
        assert one == config
        assert dict(one.logit_bias) == {1: 2.0}
        with pytest.raises(TypeError, match="read-only"):
            one.logit_bias[1] = 3.0
    assert StreamConfig(**json.loads(json.dumps(plain))) == config
    assert [*map(type, bias), *map(type, bias.values())] == [int, float]


def test_stop_sequences_are_plain_strings() -> None:
    config = StreamConfig(stop_sequences=(Word.STOP,))
    assert [(type(stop), stop) for stop in config.stop_sequences] == [(str, "stop here")]


def test_a_bad_logit_bias_is_named() -> None:
    with pytest.raises(InvalidRequestError, match="logit_bias has 7: nan; allowed"):
        StreamConfig(logit_bias={1: 2.0, 7: math.nan})
    with pytest.raises(InvalidRequestError, match="the token id 3 more than once"):
        StreamConfig(logit_bias={"3": 1, 3: 2})  # type: ignore[dict-item]


def test_zero_means_zero() -> None:
    config = StreamConfig(temperature=0, top_k=0, min_p=0, timeout_ms=0, penalty_last_n=0, seed=0)
    assert (config.temperature, config.top_k, config.min_p, config.timeout_ms, config.penalty_last_n, config.seed) == (
        (0.0, 0, 0.0, 0.0, 0, 0)
    )


@pytest.mark.parametrize("config", [{"max_tokens": 3}, "fast", 3])
def test_a_config_that_is_none(config: object) -> None:
    with scripted("abc") as made, pytest.raises(InvalidRequestError, match="StreamConfig"):
        made.model.generate("p", config)  # type: ignore[arg-type]


def test_settings_come_from_the_call_then_the_config_then_the_context_then_the_model() -> None:
    with scripted("abcdefgh", config=UNHURRIED.replace(max_tokens=4)) as made:
        context = Context(made.model, max_tokens=3)
        assert made.model.generate("p").text == "abcd"
        assert context.generate("p").text == "abc"
        assert Context(made.model).generate("p").text == "abcd"
        assert Context(made.model, StreamConfig(max_tokens=5), max_tokens=2).generate("p").text == "ab"
        assert context.generate("p", StreamConfig(max_tokens=5)).text == "abcde"
        assert context.generate("p", StreamConfig(max_tokens=5), max_tokens=6).text == "abcdef"
        assert context.generate("p", max_tokens=1).text == "a"
