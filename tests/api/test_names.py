"""The public names and signatures: what `headrace` exports, and that the sync and async methods match."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

import pytest

import headrace
from headrace import (
    AsyncModel,
    AsyncTokenStream,
    Context,
    Model,
    TokenStream,
)
from headrace.api.context import _AsyncContext

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
