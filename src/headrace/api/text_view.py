"""`Texts` and `AsyncTexts`: the view behind `stream.text()`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from headrace.api.readable import AsyncReadable, Readable
from headrace.values.results import Token

__all__ = ["AsyncTexts", "Texts", "text_of"]


class Texts(Iterator[str]):
    """The texts of a stream's tokens, without thinking and tool calls, and without empty ones."""

    def __init__(self, stream: Readable) -> None:
        self._tokens = iter(stream)

    def __next__(self) -> str:
        for token in self._tokens:
            if text := text_of(token):
                return text
        raise StopIteration


class AsyncTexts(AsyncIterator[str]):
    """See `Texts`."""

    def __init__(self, stream: AsyncReadable) -> None:
        self._tokens = aiter(stream)

    async def __anext__(self) -> str:
        async for token in self._tokens:
            if text := text_of(token):
                return text
        raise StopAsyncIteration


def text_of(token: Token) -> str:
    """Return the token's text of kind "text", without thinking and tool calls."""
    return "".join(part.text for part in token.parts if part.kind == "text")
