"""`Groups` and `AsyncGroups`: the view behind `stream.buffered()`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator

from headrace.api.readable import MAX_WAIT_MS, AsyncReadable, Readable
from headrace.values.checks import as_float, as_int
from headrace.values.errors import GenerationError
from headrace.values.results import Token

__all__ = ["AsyncGroups", "Group", "Groups"]


class Group:
    """The tokens of the next list. They stay here if waiting for the list is interrupted.

    Args:
        size: tokens in a full list.
        max_wait_ms: milliseconds that the first token waits for the others; None for no limit.
    """

    def __init__(self, size: int, max_wait_ms: float | None) -> None:
        self._size = as_int("n", size, 1)
        wait = None if max_wait_ms is None else as_float("max_wait_ms", max_wait_ms, 0, MAX_WAIT_MS) / 1000
        self._max_wait = wait
        self._tokens: list[Token] = []
        self._deadline: float | None = None
        self._error: GenerationError | None = None

    @property
    def num_missing(self) -> int:
        """Tokens to wait for until the list is handed out; 0 after an error."""
        return 0 if self._error is not None else self._size - len(self._tokens)

    @property
    def time_left(self) -> float | None:
        """Seconds to wait for the missing tokens; None for no limit."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def add(self, tokens: list[Token]) -> None:
        """Add tokens."""
        if self._max_wait is not None and not self._tokens:
            self._deadline = time.monotonic() + self._max_wait
        self._tokens += tokens

    def fail(self, error: GenerationError) -> None:
        """Keep an error, which `take` raises after the tokens before it."""
        self._error = error

    def take(self) -> list[Token]:
        """Return the tokens and start a new list; an empty list means that the stream has ended."""
        error = self._error
        if error is not None and not self._tokens:
            self._error = None
            raise error
        tokens, self._tokens, self._deadline = self._tokens, [], None
        return tokens


class Groups(Iterator[list[Token]]):
    """Lists of a stream's tokens."""

    def __init__(self, stream: Readable, group: Group) -> None:
        self._stream = stream
        self._group = group
        self._iterator = iter(stream)

    def __next__(self) -> list[Token]:
        group = self._group
        while group.num_missing:
            try:
                tokens = self._stream.read(group.num_missing, group.time_left)
            except TimeoutError:
                break
            except GenerationError as error:
                group.fail(error)
                break
            if not tokens:
                break
            group.add(tokens)
        if tokens := group.take():
            return tokens
        raise StopIteration


class AsyncGroups(AsyncIterator[list[Token]]):
    """See `Groups`."""

    def __init__(self, stream: AsyncReadable, group: Group) -> None:
        self._stream = stream
        self._group = group
        self._iterator = aiter(stream)

    async def __anext__(self) -> list[Token]:
        group = self._group
        while group.num_missing:
            try:
                tokens = await self._stream.read(group.num_missing, group.time_left)
            except TimeoutError:
                break
            except GenerationError as error:
                group.fail(error)
                break
            if not tokens:
                break
            group.add(tokens)
        if tokens := group.take():
            return tokens
        raise StopAsyncIteration
