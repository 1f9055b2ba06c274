"""The servers that the tests in Node talk to, and Node itself."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients.serving import Server

from headrace.server.serving.logs import JsonFormatter
from javascript.parrot import FLOODING, parrot

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "clients" / "js"
PATIENCE = 300.0  # seconds; for a whole file of tests on a busy machine


@pytest.fixture(scope="package")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the servers in this process log, a JSON object a line."""
    path = tmp_path_factory.mktemp("javascript") / "parrot.log"
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("headrace.server")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield path
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        handler.close()


@pytest.fixture(scope="package")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A model, as users run it."""
    log = tmp_path_factory.mktemp("javascript") / "serve.log"
    prices = ("--price-prompt", "1", "--price-completion", "2", "--currency", "EUR")
    with contextlib.closing(Server(log, "--n-ctx", "2048", *prices)) as server:
        yield server


@pytest.fixture(scope="package")
def parrot_url() -> Iterator[str]:
    """A model that says what it is told to say."""
    with parrot("parrot", {}) as url:
        yield url


@pytest.fixture(scope="package")
def guarded_url() -> Iterator[str]:
    """The same, with a key, one stream while one more waits, small bodies, and 3 s for each stream."""
    settings = {"api_keys": ("secret",), "max_body_mb": 0.01, "timeout_ms": 3000}
    with parrot("parrot", settings, pieces=FLOODING, max_streams=1, max_queue=1) as url:
        yield url


@pytest.fixture(scope="package")
def forgetful_url() -> Iterator[str]:
    """The same, which keeps next to nothing of resumable streams."""
    with parrot("parrot", {"resume_window": 0, "resume_mb": 0.02}) as url:
        yield url


def node(*command: str, cwd: Path = PACKAGE, **environment: str) -> str:
    """Run Node, npm or a tool of the package; what it says. Anything but success fails the test."""
    process = subprocess.run(
        [str(ROOT / "scripts" / "with-node"), *command],
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert process.returncode == 0, f"{' '.join(command)} ended with {process.returncode}:\n{process.stdout}"
    return process.stdout
