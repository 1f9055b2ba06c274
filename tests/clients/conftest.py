"""The servers that the clients' tests talk to; their logs are shown where a test fails."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import HERE, Server


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    # These tests import the clients, which live in an environment of their own, and have a pytest.ini of their own.
    return None if config.rootpath == HERE else True


def _serve(tmp_path_factory: pytest.TempPathFactory, name: str, *flags: str) -> Iterator[Server]:
    with contextlib.closing(Server(tmp_path_factory.mktemp("logs") / f"{name}.log", *flags)) as server:
        yield server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server that most tests share. Its context is small, so that it is easy to ask for too much."""
    yield from _serve(tmp_path_factory, "server", "--n-ctx", "2048", "--websocket")


@pytest.fixture(scope="session")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that wants a key, runs one stream while one more waits, and lets none run for longer than 3 s."""
    flags = ("--api-key", "secret", "--max-streams", "1", "--max-queue", "1", "--timeout-ms", "3000", "--websocket")
    yield from _serve(tmp_path_factory, "narrow", *flags)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if report.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            if isinstance(value, Server):
                report.sections.append((f"log of {name}", value.log.read_text()[-4000:]))
    return report
