"""Helpers for the tests of session files."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from harness import Scripted

from headrace import Context, InvalidRequestError

PROMPT = "once upon a time"
SMALL: dict[str, Any] = {"max_saved": 7}


def refused(made: Scripted, session_path: Path, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words) as caught:
        Context.load(made.model, session_path)
    assert caught.value.field == "path"
    assert str(session_path) in str(caught.value)
    assert made.engine.metrics().kv_used == 0


def forged(session_path: Path, version: int = 1, tokens: list[int] | None = None, **changes: Any) -> None:
    """A file with another header, and right hashes."""
    data = session_path.read_bytes()
    _, _, length, count = struct.unpack_from("<8sIII", data)
    header = json.loads(data[20 : 20 + length]) | changes
    text = json.dumps({name: value for name, value in header.items() if value is not ...}).encode()
    ids_ = data[20 + length : 20 + length + 4 * count] if tokens is None else struct.pack(f"<{len(tokens)}i", *tokens)
    start = struct.pack("<8sIII", b"HEADRACE", version, len(text), len(ids_) // 4) + text + ids_
    digest = hashlib.sha256(start).digest()
    end = struct.pack("<IIQ", 0, 0, 0)
    session_path.write_bytes(start + digest + end + hashlib.sha256(digest + end).digest())
