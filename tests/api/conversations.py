"""Conversations with a scripted model, for the tests of conversations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from harness import BYTES, Scripted, ids, scripted

from headrace import (
    TokenStream,
)

TEMPLATE = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}<assistant>"
REPLY = "abcdefghij" * 3


class Replies:
    """A script that gives one reply after another, the last one again and again, and keeps the prompts."""

    def __init__(self, *replies: str) -> None:
        self._replies = list(replies) or [REPLY]
        self.prompts: list[str] = []

    def __call__(self, prompt: tuple[int, ...]) -> Sequence[int]:
        self.prompts.append(b"".join(BYTES[token] for token in prompt).decode())
        return ids(self._replies[min(len(self.prompts), len(self._replies)) - 1])


@contextmanager
def talking(*replies: str, **settings: Any) -> Iterator[tuple[Scripted, Replies]]:
    """A model that replies, and what it is told."""
    script = Replies(*replies)
    with scripted(script, chat_template=TEMPLATE, **settings) as made:
        yield made, script


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def by_break(stream: TokenStream, count: int) -> str:
    shown = ""
    for token in stream:
        shown += token.text
        if len(shown) == count:
            break
    return shown
