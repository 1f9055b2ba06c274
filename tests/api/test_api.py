"""The public surface: its names, its signatures on both faces, its settings, and the calls of the documentation."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import importlib
import inspect
import json
import math
import multiprocessing
import pickle
import pkgutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from decimal import Decimal
from enum import Enum
from typing import Any

import numpy as np
import pytest
from harness import UNHURRIED, Gate, Scripted, echo, echoed, ids, run_async, scripted, within

import headrace
from headrace import (
    AsyncModel,
    AsyncTokenStream,
    Context,
    ContextOverflowError,
    EngineClosedError,
    GenerationError,
    GenerationResult,
    HeadraceError,
    InvalidRequestError,
    Message,
    Model,
    ModelLoadError,
    ModelNotFoundError,
    Pricing,
    QueueFullError,
    StreamConfig,
    StreamResult,
    StreamTimeoutError,
    Token,
    TokenStream,
)
from headrace.api.context import _AsyncContext
from headrace.engine.runner import Sample
from headrace.values.checks import as_float, as_int, as_token_ids
from headrace.values.errors import shortened

TEMPLATE = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}>"


# Names.


def modules() -> list[str]:
    return [module.name for module in pkgutil.walk_packages(headrace.__path__, "headrace.")]


def test_all_is_sorted_and_true() -> None:
    for name in ("headrace", *modules()):
        if name.endswith("__main__"):
            continue  # importing it runs it
        module = importlib.import_module(name)
        names = getattr(module, "__all__", [])
        assert list(names) == sorted(names, key=lambda one: (not one.isupper(), one)), name  # constants first
        for public in names:
            assert hasattr(module, public), f"{name} has no {public}"


def test_all_has_every_name_of_the_documentation() -> None:
    promised = """
        Model AsyncModel Context StreamConfig Token TokenStream AsyncTokenStream StreamResult GenerationResult Usage
        Metrics Message HeadraceError ModelNotFoundError ModelLoadError InvalidRequestError ContextOverflowError
        QueueFullError GenerationError StreamTimeoutError EngineClosedError
    """
    assert set(promised.split()) <= set(headrace.__all__)
    assert set(headrace.__all__) <= set(dir(headrace))


def test_the_error_tree() -> None:
    children = {
        HeadraceError: {
            ModelNotFoundError,
            ModelLoadError,
            InvalidRequestError,
            QueueFullError,
            EngineClosedError,
            GenerationError,
        },
        InvalidRequestError: {ContextOverflowError},
        GenerationError: {StreamTimeoutError},
    }
    for parent, expected in children.items():
        assert {child for child in parent.__subclasses__() if child.__module__ == "headrace.values.errors"} == expected
    assert issubclass(InvalidRequestError, ValueError)


ERRORS = [
    HeadraceError("trouble"),
    ModelNotFoundError("no model named x"),
    ModelLoadError("not a GGUF file"),
    InvalidRequestError("top_p", {"a": [1]}, "0 to 1"),
    InvalidRequestError("top_p", 2, "0 to 1", "a message of its own"),
    ContextOverflowError(900, 512),
    QueueFullError(4, 1.5),
    EngineClosedError("closed"),
    GenerationError("failed", GenerationResult("half", "cancelled")),
    StreamTimeoutError("late", "stall", GenerationResult("half", "timeout")),
]


def same(one: BaseException, other: BaseException) -> bool:
    return (type(one), str(one), one.args, vars(one)) == (type(other), str(other), other.args, vars(other))


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_survive_pickle_and_copy(error: HeadraceError) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert same(pickle.loads(pickle.dumps(error, protocol)), error)
    assert same(copy.copy(error), error)
    deep = copy.deepcopy(error)
    assert same(deep, error)
    if isinstance(error, InvalidRequestError) and isinstance(error.value, dict):
        assert deep.value is not error.value  # type: ignore[attr-defined]


def test_every_error_is_tested_above() -> None:
    public_errors = {value for name in headrace.__all__ if isinstance(value := getattr(headrace, name), type)}
    assert {type(error) for error in ERRORS} == {type_ for type_ in public_errors if issubclass(type_, HeadraceError)}


def test_an_error_with_a_value_that_cannot_be_pickled() -> None:
    error = InvalidRequestError("prompt", lambda: "p", "text")
    copied = pickle.loads(pickle.dumps(error))
    assert str(copied) == str(error)
    assert (copied.field, copied.allowed) == ("prompt", "text")
    assert copied.value.startswith("<function")
    assert copy.copy(error).value is error.value
    assert copy.deepcopy(error).field == "prompt"


def raise_in_another_process(index: int) -> None:
    raise ERRORS[index]


def test_errors_come_out_of_another_process() -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        for i, error in enumerate(ERRORS):
            caught = within(pool.submit(raise_in_another_process, i).exception)
            assert caught is not None
            assert same(caught, error)


class Broken:
    """An object of a caller whose own methods fail."""

    def _fail(self, *_: object) -> Any:
        raise ZeroDivisionError

    __repr__ = __index__ = __float__ = __iter__ = _fail


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [nested(100_000), Broken(), [Broken()], 10**5000, [10**5000], {1: -(10**5000)}, "x" * 10**6, range(3)],
    ids=lambda value: type(value).__name__,
)
def test_a_value_in_a_message_is_short_and_never_in_the_way(value: object) -> None:
    assert 0 < len(shortened(value)) <= 80
    for field in ("max_tokens", "temperature", "logit_bias", "ignore_eos", "regex", "thinking", "pricing"):
        if (field == "max_tokens" and isinstance(value, int)) or (field == "regex" and isinstance(value, str)):
            continue  # any whole number will do, and any text
        with pytest.raises(InvalidRequestError, match=f"^{field} (is|has) "):
            StreamConfig(**{field: value})


def test_a_short_value_is_shown_whole() -> None:
    for value in ("abc", [1, 2, 3] * 8, {"a": 1, "b": [2]}, "é🙂", b"x", 10**70, None, np.float32(0.5)):
        assert shortened(value) == repr(value)
    assert shortened("x" * 200).endswith("...")


# Numbers.


def test_as_int() -> None:
    for value in (3, np.int64(3), np.uint8(3), Whole(3)):
        number = as_int("n", value, 0, 3)
        assert number == 3
        assert type(number) is int
    assert as_int("n", 10**400, 0) == 10**400
    for value in (True, np.True_, 3.0, np.float64(3), "3", b"3", None, np.array([3, 4]), np.array(True), Broken(), 3j):
        with pytest.raises(InvalidRequestError, match=r"^n is .*; allowed: a whole number, at least 0$"):
            as_int("n", value, 0)
    for value in (-1, 4, 10**400):
        with pytest.raises(InvalidRequestError, match="a whole number, 0 to 3"):
            as_int("n", value, 0, 3)


def test_as_float() -> None:
    for value in (0.5, np.float32(0.5), np.float64(0.5), Decimal("0.5")):
        number = as_float("x", value, 0, 1)
        assert number == 0.5
        assert type(number) is float
    assert as_float("x", np.int8(1), 0, 1) == 1
    for value in (True, np.True_, "1", b"1", None, [1], np.array([1.0]), np.array(True), np.complex64(1), 1j, Broken()):
        with pytest.raises(InvalidRequestError, match=r"^x is .*; allowed: a finite number, 0 to 1$"):
            as_float("x", value, 0, 1)
    for value in (10**400, -(10**400), math.nan, math.inf, Decimal("sNaN"), Decimal("1e999"), np.float64("inf")):
        with pytest.raises(InvalidRequestError, match="a finite number, at least 0"):
            as_float("x", value, 0, math.inf)
    with pytest.raises(InvalidRequestError, match=r"a finite number above 0, at most 2$"):
        as_float("x", 0, 0, 2, above=True)


def test_as_token_ids() -> None:
    ids_given = (
        [1, 2],
        (1, 2),
        range(1, 3),
        iter([1, 2]),
        np.array([1, 2]),
        np.array([1, 2], np.uint8),
        [np.int32(1), Whole(2)],
    )
    for value in ids_given:
        made = as_token_ids("ids", value)
        assert made == [1, 2]
        assert {type(id_) for id_ in made} == {int}
    assert as_token_ids("ids", []) == []
    for value in ("12", b"12", bytearray(b"12"), {1: 2}, {1, 2}, None, 7, np.array(1), Broken()):
        with pytest.raises(InvalidRequestError, match=r"^ids is .*; allowed: token ids"):
            as_token_ids("ids", value)
    for bad in (True, np.True_, 1.0, "1", None, -1, [1], np.array([1, 2]), Broken()):
        with pytest.raises(InvalidRequestError, match=r"^ids has .* at index 1; allowed: token ids"):
            as_token_ids("ids", [5, bad])
    for array in (np.array([[1, 2]]), np.array([True]), np.array([1.0]), np.array(["1"])):
        with pytest.raises(InvalidRequestError, match=r"^ids has .* at index 0"):
            as_token_ids("ids", array)


# Signatures.


def parameters(function: Callable[..., object], ignore: tuple[str, ...] = ()) -> list[tuple[object, ...]]:
    return [
        (parameter.name, parameter.kind, parameter.default)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name not in ignore
    ]


def public(type_: type) -> dict[str, Any]:
    return {name: getattr(type_, name) for name in dir(type_) if not name.startswith("_")}


@pytest.mark.parametrize(
    ("sync", "asynchronous", "renamed"),
    [
        (Model, AsyncModel, {"as_async": "as_sync"}),
        (Context, _AsyncContext, {}),
        (TokenStream, AsyncTokenStream, {"close": "aclose"}),
    ],
)
def test_the_faces_are_on_par(sync: type, asynchronous: type, renamed: dict[str, str]) -> None:
    ours, theirs = public(sync), public(asynchronous)
    assert {renamed.get(name, name) for name in ours} == set(theirs)
    for name, function in ours.items():
        other = theirs[renamed.get(name, name)]
        if callable(function):
            assert parameters(function) == parameters(other), name
            assert inspect.getdoc(function), f"{name} has no docstring"
            assert inspect.getdoc(other), f"{name} has no docstring"
        else:
            assert isinstance(function, property) == isinstance(other, property), name
    awaited = {name for name, function in theirs.items() if inspect.iscoroutinefunction(function)}
    assert awaited <= {
        "aclose",
        "chat",
        "close",
        "generate",
        "generate_streaming",
        "load",
        "read",
        "result",
        "run_tools",
        "save",
        "wait_end",
    }
    assert {"generate", "generate_streaming", "chat", "close"} <= awaited or {"aclose", "result"} <= awaited


def test_the_calls_of_the_documentation_exist() -> None:
    for type_ in (Model, AsyncModel, Context, _AsyncContext):
        for name in ("generate", "generate_stream", "generate_stream_with_metrics"):
            assert [row[0] for row in parameters(getattr(type_, name))] == ["self", "prompt", "config", "overrides"]
        names = [row[0] for row in parameters(type_.generate_streaming)]
        assert names == ["self", "prompt", "max_tokens", "callback", "overrides"]
        for name in ("chat", "chat_stream"):
            assert [row[0] for row in parameters(getattr(type_, name))] == ["self", "messages", "config", "overrides"]
        for name in ("cancel_generation", "tokenize", "detokenize", "count_tokens", "apply_chat_template", "close"):
            assert callable(getattr(type_, name))
    load = {row[0]: row[2] for row in parameters(Model.load)}
    assert {name: load[name] for name in ("n_ctx", "n_threads", "n_gpu_layers", "max_streams", "max_queue")} == {
        "n_ctx": None,
        "n_threads": None,
        "n_gpu_layers": 0,
        "max_streams": 16,
        "max_queue": 64,
    }
    for name in ("tokens_generated", "tokens_per_second", "cancel", "result"):
        assert callable(getattr(TokenStream, name))
    for name in ("time_to_first_token_ms", "usage", "metrics", "finish_reason"):
        assert isinstance(getattr(TokenStream, name), property)


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


class Whole:
    """A whole number that is no int, as numpy's are."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


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


# Prompts.


BAD_PROMPTS: list[tuple[object, str]] = [
    ("", "white space"),
    (" \n\t", "white space"),
    ("a\0b", "NUL"),
    ("a\ud800b", "surrogate"),
    ([], "at least one token"),
    ([99_999], "token ids"),
    ([-1], "token ids"),
    ([True], "token ids"),
    ([1.5], "token ids"),
    (["a"], "token ids"),
    (None, "token ids"),
    (7, "token ids"),
    (b"bytes", "token ids"),
    ({1: 2}, "token ids"),
]


@pytest.mark.parametrize(("prompt", "allowed"), BAD_PROMPTS)
def test_a_prompt_that_cannot_be_used(prompt: Any, allowed: str) -> None:
    async def main(made: Scripted) -> None:
        with pytest.raises(InvalidRequestError, match=allowed):
            await made.asynchronous.generate(prompt)
        with pytest.raises(InvalidRequestError, match=allowed):
            # What this must not block for, as the vocabulary, it only knows with the first token.
            await anext(made.asynchronous.generate_stream(prompt))

    with scripted("abc") as made:
        for call in (made.model.generate, made.model.generate_stream, made.model.generate_stream_with_metrics):
            with pytest.raises(InvalidRequestError, match=allowed) as caught:
                call(prompt)
            assert caught.value.field.partition("[")[0] == "prompt"
        run_async(main(made))
        assert made.model.metrics.streams_started == 0
        assert made.model.generate("p").text == "abc", "the engine still works"


def test_token_ids_are_prompts() -> None:
    with scripted(echo) as made:
        expected = echoed("hello")
        assert made.model.generate(ids("hello")).text == expected
        assert made.model.generate(tuple(ids("hello"))).text == expected
        assert made.model.generate(np.array(ids("hello"))).text == expected  # type: ignore[arg-type]


def test_tokenize_and_back() -> None:
    with scripted("abc", chat_template=TEMPLATE) as made:
        model = made.model
        assert model.tokenize("hé") == ids("hé")
        assert model.detokenize(ids("hé🙂")) == "hé🙂"
        assert model.detokenize(ids("🙂")[:2]) == "\ufffd"
        assert model.count_tokens("hé") == 3
        messages = [Message("user", "hi")]
        assert model.apply_chat_template(messages) == "<user>hi>"
        assert model.count_tokens(messages) == len("<user>hi>")
        assert model.name == "scripted"
        with pytest.raises(InvalidRequestError):
            model.detokenize([99_999])
        with pytest.raises(InvalidRequestError):
            model.tokenize(7)  # type: ignore[arg-type]


# Calls.


def test_generate_stream_yields_sampled_tokens_only() -> None:
    with scripted("hé") as made:
        tokens = within(list, made.model.generate_stream("p"))
        assert [token.text for token in tokens] == ["h", "", "é", ""]
        assert [token.bytes for token in tokens] == [b"h", b"\xc3", b"\xa9", b""]
        assert [str(token) for token in tokens] == [token.text for token in tokens]
        assert {token.kind for token in tokens} == {"text"}
        assert not any(token.is_last for token in tokens)
        assert all(token.logprob is None and token.top_logprobs is None for token in tokens)


def test_the_stream_with_metrics_ends_with_a_token_that_says_so() -> None:
    async def main(made: Scripted) -> None:
        stream, result, cancel = made.asynchronous.generate_stream_with_metrics("p")
        tokens = [token async for token in stream]
        check(tokens, await result())
        cancel()

    def check(tokens: list[Token], result: GenerationResult) -> None:
        assert [token.is_last for token in tokens] == [False, False, False, False, True]
        assert (tokens[-1].text, tokens[-1].id, tokens[-1].index) == ("", -1, 4)
        assert result.tokens_used == 4
        assert result.text == "abc" == "".join(token.text for token in tokens)

    with scripted("abc") as made:
        pair = made.model.generate_stream_with_metrics("p")
        assert isinstance(pair, StreamResult)
        check(within(list, pair.stream), within(pair.result))
        stream, result, cancel = made.model.generate_stream_with_metrics("p", max_tokens=1)
        cancel()
        assert within(list, stream)[-1].is_last
        assert within(result).finish_reason in ("cancelled", "length")
        run_async(main(made))


def test_its_cancel_cancels_it_alone() -> None:
    gate = Gate()
    with scripted("abcdef", before_step=gate) as made:
        with made.hold():
            mine = made.model.generate_stream_with_metrics("p")
            other = made.model.generate_stream_with_metrics("q")
        gate.wait()
        mine.cancel()
        gate.open()
        assert within(mine.result).finish_reason == "cancelled"
        assert within(other.result).text == "abcdef"


def test_generate_streaming() -> None:
    with scripted("abcdef") as made:
        texts: list[str] = []
        result = made.model.generate_streaming("p", 4, lambda token: texts.append(token.text))
        assert texts == [*"abcd"]
        assert (result.text, result.finish_reason) == ("abcd", "length")
        # Only False stops; what a callback happens to return does not.
        assert made.model.generate_streaming("p", 100, lambda _: 0).text == "abcdef"


def test_generate_streaming_stops_where_the_callback_says_so() -> None:
    texts: list[str] = []

    def until_c(token: Token) -> bool:
        texts.append(token.text)
        return token.text != "c"

    with scripted("abcdef" * 20) as made:
        result = made.model.generate_streaming("p", 1000, until_c, buffer_size=1)
        assert texts == ["a", "b", "c"]
        assert result.finish_reason == "cancelled"
        assert result.text.startswith("abc")
        assert len(result.text) <= 4


def test_an_exception_in_the_callback_comes_out_and_cancels() -> None:
    def fail(token: Token) -> None:
        if token.text == "c":
            raise LookupError("mine")

    with scripted("abcdef" * 20) as made:
        with pytest.raises(LookupError, match="mine"):
            made.model.generate_streaming("p", 1000, fail, buffer_size=1)
        made.settle()
        assert made.engine.metrics().streams_finished == {"cancelled": 1}


def test_generate_streaming_with_tasks() -> None:
    async def main(made: Scripted) -> None:
        texts: list[str] = []

        async def until_c(token: Token) -> bool:
            await asyncio.sleep(0)
            texts.append(token.text)
            return token.text != "c"

        result = await made.asynchronous.generate_streaming("p", 1000, until_c, buffer_size=1)
        assert texts == ["a", "b", "c"]
        assert result.finish_reason == "cancelled"
        texts.clear()
        result = await made.asynchronous.generate_streaming("p", 4, lambda token: texts.append(token.text))
        assert "".join(texts) == result.text == "abcd"

        async def fail(_: Token) -> None:
            raise LookupError("mine")

        with pytest.raises(LookupError, match="mine"):
            await made.asynchronous.generate_streaming("p", 1000, fail)

    with scripted("abcdef" * 20) as made:
        run_async(main(made))


def test_chat() -> None:
    async def main(made: Scripted) -> None:
        model = made.asynchronous
        result = await model.chat([Message("user", "hi")])
        assert result.text == echoed("<user>hi>")
        assert "".join([token.text async for token in model.chat_stream([Message("user", "hi")])]) == result.text

    with scripted(echo, chat_template=TEMPLATE) as made:
        model = made.model
        assert model.chat([{"role": "user", "content": "hi"}]).text == echoed("<user>hi>")
        assert model.chat([Message("user", "hi")], system_prompt="be").text == echoed("<system>be<user>hi>")
        assert model.generate("hi", system_prompt="be").text == echoed("<system>be<user>hi>")
        context = Context(model, system_prompt="be")
        assert context.generate("hi").text == context.chat([Message("user", "hi")]).text
        own = [Message("system", "own"), Message("user", "hi")]
        assert context.chat(own).text == echoed("<system>own<user>hi>")
        with pytest.raises(InvalidRequestError, match="system_prompt"):
            model.chat(own, system_prompt="be")
        with pytest.raises(InvalidRequestError, match="system_prompt"):
            model.generate(ids("hi"), system_prompt="be")
        run_async(main(made))


@pytest.mark.parametrize("messages", [[], "hi", [1], [{"role": "user"}], [{"content": "hi"}], None])
def test_messages_that_are_none(messages: Any) -> None:
    with scripted(echo, chat_template=TEMPLATE) as made:
        with pytest.raises(InvalidRequestError):
            made.model.chat(messages)
        assert made.model.metrics.streams_started == 0


def test_a_model_without_a_template_cannot_chat() -> None:
    with scripted(echo) as made, pytest.raises(InvalidRequestError, match="chat template"):
        made.model.chat([Message("user", "hi")])


def test_logprobs_arrive_on_the_tokens() -> None:
    def with_logprobs(*_: object) -> None:
        return None

    with scripted("ab", on_sample=with_logprobs) as made:
        sample = made.runner._sample
        made.runner._sample = lambda part: Sample(  # type: ignore[method-assign]
            sample(part).token, -0.5, ((ids("a")[0], -0.5), (ids("b")[0], -1.5))
        )
        first = within(next, made.model.generate_stream("p", logprobs=2))
        assert first.logprob == -0.5
        assert first.top_logprobs is not None
        assert [(top.id, top.logprob, top.bytes) for top in first.top_logprobs] == [
            (ids("a")[0], -0.5, b"a"),
            (ids("b")[0], -1.5, b"b"),
        ]


def test_finish_reasons() -> None:
    with scripted("abcdef") as made:
        model = made.model
        assert model.generate("p").finish_reason == "stop"
        assert model.generate("p", max_tokens=3).finish_reason == "length"
        stopped = model.generate("p", stop_sequences=["cd", "e"])
        assert (stopped.finish_reason, stopped.stop_sequence, stopped.text) == ("stop_sequence", "cd", "ab")


def test_a_face_of_the_same_engine() -> None:
    async def main(made: Scripted) -> None:
        model = made.asynchronous
        assert isinstance(model, AsyncModel)
        assert (await model.generate("p")).text == model.as_sync().generate("p").text == "abc"
        assert model.metrics.streams_started == 2

    with scripted("abc") as made:
        run_async(main(made))


def test_a_context_has_the_face_of_its_model() -> None:
    async def main(made: Scripted) -> None:
        async with Context(made.asynchronous, max_tokens=2) as context:
            assert (await context.generate("p")).text == "ab"
            assert [token.text async for token in context.generate_stream("p")] == ["a", "b"]

    with scripted("abc") as made:
        run_async(main(made))
        with Context(made.model, max_tokens=2) as context:
            assert context.generate("p").text == "ab"
        with pytest.raises(InvalidRequestError, match="AsyncModel"):
            Context("smollm2")  # type: ignore[call-overload]


def test_contexts_run_at_once() -> None:
    gate = Gate()
    with scripted(echo, before_step=gate) as made:
        with made.hold():
            streams = [Context(made.model).generate_stream(letter) for letter in "abc"]
        assert len(gate.wait()) == 3
        gate.open()
        assert [within(stream.result).text for stream in streams] == [echoed(letter) for letter in "abc"]
