"""The error tree: pickling, copying, and values in messages."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pytest
from harness import within

import headrace
from headrace import (
    ContextOverflowError,
    EngineClosedError,
    GenerationError,
    GenerationResult,
    HeadraceError,
    InvalidRequestError,
    ModelLoadError,
    ModelNotFoundError,
    QueueFullError,
    StreamConfig,
    StreamTimeoutError,
)
from headrace.values.errors import shortened
from values.odd_values import Broken


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
