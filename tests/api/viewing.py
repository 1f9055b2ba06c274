"""Helpers for the tests of views."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from harness import BYTES, Scripted, run_async, scripted, within

LONG = "abcdefghij" * 30
FIRST = 1000  # ids below this are the bytes, which spell the prompt
TAGS = ("<t>", "</t>")


def scripted_pieces(pieces: Sequence[bytes], **settings: Any) -> Any:
    """A model whose tokens are these pieces."""
    # No two tokens are the same: a grammar would allow only one of them.
    script = [piece[0] + 1 if len(piece) == 1 else FIRST + at for at, piece in enumerate(pieces)]
    return scripted(script, pieces={**BYTES, **dict(zip(script, pieces, strict=True))}, **settings)


def every_cut(text: str) -> Iterator[list[bytes]]:
    """A text in one piece, in two and in three, and byte by byte."""
    data = text.encode()
    yield [data]
    yield [data[at : at + 1] for at in range(len(data))]
    for one in range(1, len(data)):
        yield [data[:one], data[one:]]
    for one, two in itertools.combinations(range(1, len(data), 3), 2):
        yield [data[:one], data[one:two], data[two:]]


async def collected(view: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in view]


def both(made: Scripted, view: str, *args: Any, **overrides: Any) -> list[Any]:
    """What a view gives, which is the same for threads and for tasks."""

    async def main() -> list[Any]:
        return await collected(getattr(made.asynchronous.generate_stream("p", **overrides), view)(*args))

    items = within(list, getattr(made.model.generate_stream("p", **overrides), view)(*args))
    theirs = run_async(main())
    if view in ("buffered", "paced"):
        assert _untimed(items) == _untimed(theirs)
    else:
        assert items == theirs
    return items


def _untimed(items: list[Any]) -> list[Any]:
    return [[token.id for token in item] if isinstance(item, list) else item.id for item in items]


ANY_TEXT = {"type": "string"}
