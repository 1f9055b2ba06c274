"""Helpers for tests of `Session`: frames of a client, tokens, errors."""

from __future__ import annotations

import json
from typing import Any

from headrace.server.http.errors import ApiError
from headrace.server.websocket.session import Reply, Session, Start
from headrace.values.results import GenerationResult, Token

STOPPED = GenerationResult("", "stop")
FAILED = ApiError(500, "it broke", code="generation_failed")


def say(session: Session, type: str, **fields: Any) -> Any:
    """Give the session a client's frame. Returns what to do about it."""
    return session.receive(json.dumps({"type": type, **fields}))


def start(session: Session, id: str = "a", **fields: Any) -> None:
    """Start a stream, so that its tokens may be sent."""
    assert isinstance(say(session, "generate", id=id, prompt="hi", **fields), Start)
    session.started(id)


def tokens(*texts: str, first: int = 0, **fields: Any) -> list[Token]:
    return [Token(text, 1, index, 0.0, **fields) for index, text in enumerate(texts, first)]


def error_of(action: Any) -> dict[str, Any]:
    assert isinstance(action, Reply), f"it was accepted: {action}"
    assert action.error is not None
    frame = json.loads(action.frame)
    assert (frame["message"], frame["code"]) == (action.error.message, action.error.code)
    assert frame.pop("type") == "error"
    return frame
