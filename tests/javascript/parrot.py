"""Scripted servers for the JavaScript client: the model says what its user tells it to say."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from harness import BYTES, scripted
from server.live import live

from headrace.engine.runner import Slice
from headrace.server import Settings, create_app
from headrace.values.events import Sample

__all__ = ["FLOODING", "parrot", "speak"]

# The comment tells that the model thinks and calls tools, and in which form.
TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"
    '{# <think></think> <tool_call> "arguments" #}'
)
FAILS, SLOW, FLOOD = 400, 406, 407
"""Tokens where the stream fails; that take their time; that fill any buffer soon (only where they are in `pieces`)."""
# What surrounds thoughts and calls is few tokens, which keeps streams short.
PIECES = {
    **BYTES,
    FAILS: b"",
    401: b"<think>",
    402: b"</think>",
    403: b"<tool_call>",
    404: b'\n{"name": "weather", "arguments": ',
    SLOW: b"zzz",
}
FLOODING = {**PIECES, FLOOD: b"~" * 20_000}  # no grammar can be made of so long a token
_LONG = {piece: token for token, piece in PIECES.items() if len(piece) > 1}
_WORDS = re.compile(b"|".join(map(re.escape, _LONG)) + rb"|.", re.DOTALL)
_COMMAND = re.compile(rb"repeat (\d+): |(fail: )|(prompt\?)|(slow!)|flood!")


def speak(prompt: tuple[int, ...]) -> list[int]:
    """The script for a prompt: what the user has said, and no more.

    `repeat N: text` is said N times, `fail: text` is said up to an error of the engine, `prompt?` is answered with the
    whole prompt, and `slow!` and `flood!` without end.
    """
    whole = b"".join(PIECES[token] for token in prompt)
    said = whole.rpartition(b"<user>")[2]
    match = _COMMAND.match(said)
    if match is None:
        return _ids(said)
    rest = _ids(said[match.end() :])
    times, fails, shows, is_slow = match.groups()
    if times:
        return rest * int(times)
    if fails:
        return [*rest, FAILS]
    if shows:
        return _ids(whole)
    return [SLOW if is_slow else FLOOD] * 20_000


@contextmanager
def parrot(name: str, settings: dict[str, Any], **kwargs: Any) -> Iterator[str]:
    """Serve a model that speaks after its user, beside one that never comes to be loaded; gives the address.

    Args:
        name: the model's.
        settings: the server's.
        kwargs: for `scripted`.
    """
    kwargs = {"pieces": PIECES, "chat_template": TEMPLATE, "num_cells": 30_000, "on_sample": _on_sample, **kwargs}
    with scripted(speak, **kwargs) as model:
        app = create_app({name: model.model}, Settings(**{"timeout_ms": 0, **settings}))
        app.state.service.expect("later")
        with live(app) as port:
            yield f"http://127.0.0.1:{port}"


def _ids(said: bytes) -> list[int]:
    return [_LONG.get(word) or word[0] + 1 for word in _WORDS.findall(said)]


def _on_sample(_part: Slice, sample: Sample) -> None:
    if sample.token == FAILS:
        raise RuntimeError("the script fails here")
    if sample.token == SLOW:
        threading.Event().wait(0.02)  # a model that takes its time
