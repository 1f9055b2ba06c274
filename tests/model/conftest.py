"""The real model, loaded once for all of these tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from headrace import Model, StreamConfig

from .waits import until_idle

# No test of these is about time, unless it says so.
GREEDY = StreamConfig(temperature=0, timeout_ms=0, max_tokens=16)


@pytest.fixture(scope="session")
def loaded_model() -> Iterator[Model]:
    with Model.load("smollm2", n_ctx=4096, config=GREEDY) as model:
        yield model


@pytest.fixture
def model(loaded_model: Model) -> Iterator[Model]:
    """Greedy and unhurried unless asked otherwise; every test leaves it idle and whole."""
    yield loaded_model
    until_idle(loaded_model)


@pytest.fixture(scope="session")
def loaded_small_model() -> Iterator[Model]:
    """Another engine, with a memory that a few streams fill."""
    with Model.load("smollm2", n_ctx=256, max_streams=8, config=GREEDY) as model:
        yield model


@pytest.fixture
def small_model(loaded_small_model: Model) -> Iterator[Model]:
    """The same, of the small one."""
    yield loaded_small_model
    until_idle(loaded_small_model)


@pytest.fixture
def empty_model(small_model: Model) -> Model:
    """The small one with nothing in its memory, for texts that are compared without regard to near-ties.

    There, runs lie in the memory one after another, each in order, and equal tokens give equal logits; see ties.py.
    """
    small_model._core.engine.clear_cache()
    return small_model
