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


@pytest.fixture(scope="module")
def small_model() -> Iterator[Model]:
    """Another engine, with a small memory, for tests that count what happens in it."""
    with Model.load("smollm2", n_ctx=512, max_streams=8, config=GREEDY) as model:
        yield model
