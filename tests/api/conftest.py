"""Fixtures of the tests of session files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Scripted, ids, scripted

from api.session_helpers import PROMPT, SMALL
from headrace import Context


@pytest.fixture
def session_path(tmp_path: Path) -> Path:
    return tmp_path / "a session"


@pytest.fixture
def saved_session(session_path: Path) -> Path:
    """A session of a prompt and its reply, in several pieces."""
    with scripted("there was a king", **SMALL) as made, Context(made.model, temperature=0.5) as context:
        context.generate(PROMPT, max_tokens=9)
        session = context.save(session_path)
    assert session.tokens == tuple(ids(PROMPT + "there was"))
    assert session.num_cached == len(session.tokens) - 1
    assert session.num_bytes == session_path.stat().st_size
    return session_path


@pytest.fixture
def fresh_model() -> Iterator[Scripted]:
    with scripted("!", **SMALL) as made:
        yield made
