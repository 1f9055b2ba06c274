"""`TokenStream` and `AsyncTokenStream`: what a caller iterates, in a thread or in a task."""

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

# How often a result() that leaves the reading to somebody else looks whether he does read, in seconds.
_POLL_INTERVAL = 0.25


class TokenStream(Views, StreamBase):
    """The tokens of one generation, for threads. Iterate it once; any one thread may read.

    Breaking out of the loop, leaving a `with`, dropping the last reference and `close()` cancel what is left.

    Raises (from the iteration, and from `result()`):
        StreamTimeoutError: a deadline passed; the tokens until then come first.
        GenerationError: the engine failed this stream.
    """

    def __iter__(self) -> Iterator[Token]:
        return self._claim(Tokens)

    def __next__(self) -> Token:
        """The next token, without an iterator of its own: leaving it does not cancel."""
        self._reader = threading.get_ident()
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
        """All tokens that are there, at least one, waiting for it; none once the stream has ended.

        One call a step of the engine is cheaper than one a token. It raises what the iteration raises.

        Args:
            limit: tokens to take at most, at least 1; None for all.
            timeout: seconds to wait for the first one at most.

        Raises:
            TimeoutError: none had come by then.
        """
        self._reader = threading.get_ident()
        return [] if self._is_closed else self._gathered(self._channel.get(timeout), limit)

    def wait_end(self, timeout: float | None = None) -> bool:
        """Wait until it has ended, however much is unread; unlike `result`, this reads nothing and raises nothing.

        Args:
            timeout: seconds to wait at most.

        Returns:
            Whether it has ended.
        """
        return self._channel.wait_end(timeout) is not None

    def tee(self, n: int) -> tuple[TokenStream, ...]:
        """Several readers of this one generation, each a full stream that may be read in a thread of its own.

        The slowest sets the pace: the generation pauses when `buffer_size` tokens wait for him. So read them at the
        same time; one after the other works only for an output that fits into the buffer. A reader that is closed or
        dropped does not count any more, and when the last one is, the generation is cancelled. `cancel()` ends it for
        all of them, and so does closing this stream, which cannot be iterated any more. An error reaches them all.

        Args:
            n: how many, at least 1.

        Raises:
            InvalidRequestError: a number that is none; a stream that is iterated already, or is itself such a reader.
        """
        return self._tee(n)

    def __enter__(self) -> TokenStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading: cancel what is left, drop what is unread."""
        self._close()

    def result(self, timeout: float | None = None) -> GenerationResult:
        """Wait for the end.

        Where nobody iterates, or the caller itself does, the rest is collected here, so this never waits for a reader
        that is not there; the tokens can still be iterated afterwards. Where another thread iterates, its pace counts,
        unless it stops reading.

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
            look_again = time.monotonic() + _POLL_INTERVAL
            num_read = self._channel.num_read
            end = self._channel.wait_end(min(look_again, deadline or look_again) - time.monotonic())
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
    """The tokens of one generation, for tasks; it never blocks the event loop. Iterate it once.

    Breaking out of the loop, leaving an `async with`, dropping the last reference and `aclose()` cancel what is left.

    Raises (from the iteration, and from `result()`):
        StreamTimeoutError: a deadline passed; the tokens until then come first.
        GenerationError: the engine failed this stream.
        InvalidRequestError, ContextOverflowError, QueueFullError, EngineClosedError: it could not be started.
    """

    def __aiter__(self) -> AsyncIterator[Token]:
        return self._claim(AsyncTokens)

    async def __anext__(self) -> Token:
        """The next token, without an iterator of its own: leaving it does not cancel."""
        self._reader = asyncio.current_task()
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
        """All tokens that are there, at least one, waiting for it; see `TokenStream.read`."""
        self._reader = asyncio.current_task()
        if self._is_closed:
            return []
        if timeout is None:
            return self._gathered(await self._channel.aget(), limit)
        async with asyncio.timeout(timeout):
            return self._gathered(await self._channel.aget(), limit)

    async def wait_end(self, timeout: float | None = None) -> bool:
        """Wait until it has ended, however much is unread; see `TokenStream.wait_end`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._channel.await_end()
        return self._channel.end is not None

    def tee(self, n: int) -> tuple[AsyncTokenStream, ...]:
        """Several readers of this one generation, for tasks, of several event loops too; see `TokenStream.tee`."""
        return self._tee(n)

    async def __aenter__(self) -> AsyncTokenStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop reading: cancel what is left, drop what is unread."""
        self._close()

    async def result(self, timeout: float | None = None) -> GenerationResult:
        """Wait for the end; see `TokenStream.result`. Where another task iterates, its pace counts.

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
    """A stream, what waits for its result, and what cancels it; unpacks like the tuple it is.

    Attributes:
        stream: a TokenStream; an AsyncTokenStream from an AsyncModel.
        result: its `result`; to be awaited where the stream is an AsyncTokenStream.
        cancel: its `cancel`.
    """

    stream: _Stream_co
    result: Callable[..., _Result_co]
    cancel: Callable[[], None]
