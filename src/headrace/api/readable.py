"""`Readable` and `AsyncReadable`: the methods of a stream that its views use; `stream.py` imports the views."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Protocol

from headrace.values.results import FinishReason, GenerationResult, Token

__all__ = ["MAX_WAIT_MS", "AsyncReadable", "Readable"]

# The longest time that a view may hold a token, in milliseconds: an hour.
MAX_WAIT_MS = 3_600_000


class Readable(Protocol):
    """The part of a TokenStream that its views use."""

    @property
    def finish_reason(self) -> FinishReason | None: ...

    def __iter__(self) -> Iterator[Token]: ...

    def __next__(self) -> Token: ...

    def read(self, limit: int | None = None, timeout: float | None = None) -> list[Token]: ...

    def wait_end(self, timeout: float | None = None) -> bool: ...

    def result(self, timeout: float | None = None) -> GenerationResult: ...

    def _abandon(self) -> None: ...


class AsyncReadable(Protocol):
    """The part of an AsyncTokenStream that its views use."""

    @property
    def finish_reason(self) -> FinishReason | None: ...

    def __aiter__(self) -> AsyncIterator[Token]: ...

    async def __anext__(self) -> Token: ...

    async def read(self, limit: int | None = None, timeout: float | None = None) -> list[Token]: ...

    async def wait_end(self, timeout: float | None = None) -> bool: ...

    async def result(self, timeout: float | None = None) -> GenerationResult: ...

    def _abandon(self) -> None: ...
