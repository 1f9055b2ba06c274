"""`TokenStream` and `AsyncTokenStream`: the tokens of one generation, for threads and for asyncio tasks."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Generic, NamedTuple, TypeVar

from headrace.api.iteration import AsyncTokens, Tokens
from headrace.api.stream_base import StreamBase
from headrace.api.views import AsyncViews, Views
from headrace.values.events import End, TokenEvent
from headrace.values.results import GenerationResult, Token

__all__ = ["AsyncTokenStream", "StreamResult", "TokenStream"]

# While another thread or task reads, result() checks at this interval, in seconds, that it still does.
_POLL_INTERVAL = 0.25


class TokenStream(Views, StreamBase):
    """The tokens of one generation, for threads. Iterate it once, in any one thread.

    Breaking out of the loop, leaving a `with`, dropping the last reference and `close()` cancel the generation.

    Raises (from the iteration, and from `result()`):
        StreamTimeoutError: a deadline passed; the iteration raises it after the tokens that came before.
        GenerationError: the engine failed this stream.
    """

    def __iter__(self) -> Iterator[Token]:
        return self._claim(Tokens)

    def __next__(self) -> Token:
        """Return the next token. Unlike leaving a loop, calling `next` no more does not cancel the stream."""
        self._last_reader = threading.get_ident()
        if not self._is_closed:
            event = self._channel.get()
            if type(event) is TokenEvent:
                return self._token(event)
            assert isinstance(event, End)
            token = self._after_end(event)
            if token is not None:
                return token
        raise StopIteration

    def read(self, limit: int | None = None, timeout: float | None = None) -> list[Token]:
        """Wait for a token, and return all that have arrived; an empty list once the stream has ended.

        One call per step of the engine is cheaper than one per token. It raises the errors of the iteration.

        Args:
            limit: tokens to return at most, at least 1; None for all.
            timeout: seconds to wait for the first token at most.

        Raises:
            TimeoutError: no token had arrived by then.
        """
        self._last_reader = threading.get_ident()
        return [] if self._is_closed else self._tokens_from(self._channel.get(timeout), limit)

    def wait_end(self, timeout: float | None = None) -> bool:
        """Wait until the stream has ended. Unlike `result`, this reads no tokens and raises no error of the stream.

        Args:
            timeout: seconds to wait at most.

        Returns:
            Whether the stream has ended.
        """
        return self._channel.wait_end(timeout) is not None

    def tee(self, n: int) -> tuple[TokenStream, ...]:
        """Return several readers of this generation. Each is a full stream, and may be read in a thread of its own.

        The slowest reader sets the pace: the generation pauses while `buffer_size` tokens wait for it. So read them at
        the same time; one after the other works only for an output that fits into the buffer.

        The generation does not wait for a reader that was closed or dropped. Closing the last reader cancels the
        generation. `cancel()` ends it for all readers, and so does closing this stream, which cannot be iterated any
        more. If the stream fails, all readers raise the error.

        Args:
            n: number of readers, at least 1.

        Raises:
            InvalidRequestError: `n` is out of its range; the stream was iterated already, or is a reader from `tee`.
        """
        return self._tee(n)

    def __enter__(self) -> TokenStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel the generation, and drop unread tokens."""
        self._close()

    def result(self, timeout: float | None = None) -> GenerationResult:
        """Wait for the end of the stream, and return its result.

        If another thread is iterating the stream, that thread sets the pace, as long as it goes on reading. Otherwise
        the generation runs without backpressure, so `result` never waits for a missing reader. The tokens can still be
        iterated afterwards.

        Args:
            timeout: seconds to wait at most.

        Raises:
            TimeoutError: the stream had not ended by then; it goes on.
            StreamTimeoutError: one of the stream's deadlines passed.
            GenerationError: the engine failed this stream.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        end = None
        while end is None and self._is_read_by_another(threading.get_ident()):
            next_check = time.monotonic() + _POLL_INTERVAL
            num_read = self._channel.num_read
            end = self._channel.wait_end(min(next_check, deadline or next_check) - time.monotonic())
            if (deadline is not None and time.monotonic() >= deadline) or self._is_stuck(num_read):
                break
        if end is None:
            if deadline is None or time.monotonic() < deadline:
                self._channel.lift_bound()
            end = self._channel.wait_end(None if deadline is None else deadline - time.monotonic())
        if end is None:
            raise TimeoutError(f"the stream had not ended after {timeout} s")
        return self._outcome(end)


class AsyncTokenStream(AsyncViews, StreamBase):
    """The tokens of one generation, for asyncio tasks; it never blocks the event loop. Iterate it once.

    Breaking out of the loop, leaving an `async with`, dropping the last reference and `aclose()` cancel the generation.

    Raises (from the iteration, and from `result()`):
        StreamTimeoutError: a deadline passed; the iteration raises it after the tokens that came before.
        GenerationError: the engine failed this stream.
        InvalidRequestError, ContextOverflowError, QueueFullError, EngineClosedError: the stream could not be started.
    """

    def __aiter__(self) -> AsyncIterator[Token]:
        return self._claim(AsyncTokens)

    async def __anext__(self) -> Token:
        """Return the next token. Unlike leaving a loop, calling `anext` no more does not cancel the stream."""
        self._last_reader = asyncio.current_task()
        if not self._is_closed:
            event = await self._channel.aget()
            if type(event) is TokenEvent:
                return self._token(event)
            assert isinstance(event, End)
            token = self._after_end(event)
            if token is not None:
                return token
        raise StopAsyncIteration

    async def read(self, limit: int | None = None, timeout: float | None = None) -> list[Token]:
        """Wait for a token, and return all that have arrived; see `TokenStream.read`."""
        self._last_reader = asyncio.current_task()
        if self._is_closed:
            return []
        if timeout is None:
            return self._tokens_from(await self._channel.aget(), limit)
        async with asyncio.timeout(timeout):
            return self._tokens_from(await self._channel.aget(), limit)

    async def wait_end(self, timeout: float | None = None) -> bool:
        """Wait until the stream has ended; see `TokenStream.wait_end`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._channel.await_end()
        return self._channel.end is not None

    def tee(self, n: int) -> tuple[AsyncTokenStream, ...]:
        """Return several readers of this generation, also for tasks of several event loops; see `TokenStream.tee`."""
        return self._tee(n)

    async def __aenter__(self) -> AsyncTokenStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Cancel the generation, and drop unread tokens."""
        self._close()

    async def result(self, timeout: float | None = None) -> GenerationResult:
        """Wait for the end of the stream, and return its result; see `TokenStream.result`.

        If another task is iterating the stream, that task sets the pace.

        Args:
            timeout: seconds to wait at most.

        Raises:
            TimeoutError: the stream had not ended by then; it goes on.
            StreamTimeoutError: one of the stream's deadlines passed.
            GenerationError: the engine failed this stream.
        """
        async with asyncio.timeout(timeout):
            while self._channel.end is None and self._is_read_by_another(asyncio.current_task()):
                num_read = self._channel.num_read
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._channel.await_end(), _POLL_INTERVAL)
                if self._is_stuck(num_read):
                    break
            self._channel.lift_bound()
            return self._outcome(await self._channel.await_end())


_Stream_co = TypeVar("_Stream_co", TokenStream, AsyncTokenStream, covariant=True)
_Result_co = TypeVar("_Result_co", covariant=True)


class StreamResult(NamedTuple, Generic[_Stream_co, _Result_co]):
    """A stream, its `result` method and its `cancel` method; unpacks like any tuple.

    Attributes:
        stream: a TokenStream; from an AsyncModel, an AsyncTokenStream.
        result: waits for the result; for an AsyncTokenStream it is awaited.
        cancel: cancels the stream.
    """

    stream: _Stream_co
    result: Callable[..., _Result_co]
    cancel: Callable[[], None]
