"""`Tokens` and `AsyncTokens`: the only iteration of a stream, which cancels the stream when it is dropped."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from headrace.api.readable import AsyncReadable, Readable
from headrace.values.results import Token

__all__ = ["AsyncTokens", "Tokens"]

# Every view holds such an iteration, so dropping the view drops the iteration too. No view is a generator, because an
# event loop finalizes the async generators of its tasks too late.


class Tokens(Iterator[Token]):
    """The iteration of a TokenStream. Leaving a loop drops it, and that cancels the stream."""

    __slots__ = ("__weakref__", "_stream")

    def __init__(self, stream: Readable) -> None:
        self._stream = stream

    def __next__(self) -> Token:
        return self._stream.__next__()

    def __del__(self) -> None:
        self._stream._abandon()  # pyright: ignore[reportPrivateUsage]


class AsyncTokens(AsyncIterator[Token]):
    """The iteration of an AsyncTokenStream. Leaving a loop drops it, and that cancels the stream."""

    __slots__ = ("__weakref__", "_stream")

    def __init__(self, stream: AsyncReadable) -> None:
        self._stream = stream

    async def __anext__(self) -> Token:
        return await self._stream.__anext__()

    def __del__(self) -> None:
        self._stream._abandon()  # pyright: ignore[reportPrivateUsage]
