"""What all tests share."""

from __future__ import annotations

import os

import hypothesis
import pytest

# Deadlines measure the machine, not the code.
hypothesis.settings.register_profile("headrace", deadline=None)
hypothesis.settings.load_profile("headrace")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def pytest_configure() -> None:
    """Give each worker of pytest-xdist cores of its own.

    Two engines whose compute threads share cores are many times slower: the threads spin at barriers.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None and hasattr(os, "sched_setaffinity"):
        number, count = int(worker.removeprefix("gw")), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[number::count] or {cores[number % len(cores)]})
