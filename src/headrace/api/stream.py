"""The reader's end of a stream: one core, with a face for threads and one for tasks."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Sequence
from typing import Generic, NamedTuple, NoReturn, TypeVar

from headrace.api.observer import Observer
from headrace.api.tee import Readership
from headrace.api.views import AsyncTokens, AsyncViews, Tokens, Views
from headrace.chat.prompts import Prepared
from headrace.engine.channel import wake
from headrace.engine.loop import Engine
from headrace.engine.metrics import StreamStats
from headrace.values.config import StreamConfig
from headrace.values.errors import EngineClosedError, GenerationError, StreamTimeoutError
from headrace.values.events import End, TokenEvent
from headrace.values.outline import PLAIN
from headrace.values.pricing import Pricing
from headrace.values.request import Request, Trail
from headrace.values.results import FinishReason, GenerationResult, Metrics, Token, Usage

__all__ = ["AsyncTokenStream", "StreamResult", "TokenStream"]

_DEADLINES = {
    "total": ("timeout_ms", "generating"),
    "queue": ("queue_timeout_ms", "waiting for a place"),
    "first_token": ("first_token_timeout_ms", "waiting for its first token"),
    "stall": ("stall_timeout_ms", "paused because its reader did not read"),
}
_NO_PROMPT = Prepared((), PLAIN)
# How often a result() that leaves the reading to somebody else looks whether he does read, in seconds.
_LOOK_AGAIN = 0.25


class _Stream(Readership):
    """What both faces have in common. Everything here may be called from any thread, at any moment.

    Args:
        engine: what generates.
        owner: kept alive while the stream is, so that the engine is not closed under it.
        config: the settings.
        model: name of the model.
        lane: whose turn it is in the fair queue.
        closing_token: whether to end with an extra Token that says so.
        parse: makes an object of an output that is complete; what it cannot use is a ValueError.
        pricing: what tokens cost, where the settings do not say.
        observer: who follows what is read.
        trail: where its tokens are left in the end.
    """

    def __init__(
        self,
        engine: Engine,
        owner: object,
        config: StreamConfig,
        *,
        id: str,
        model: str,
        lane: Hashable,
        closing_token: bool,
        parse: Callable[[str], object] | None = None,
        pricing: Pricing | None = None,
        observer: Observer | None = None,
        trail: Trail | None = None,
    ) -> None:
        super().__init__(config.buffer_size)
        self.id = id
        self._engine = engine
        self._owner = owner
        self._config = config
        self._model = model
        self._lane = lane
        self._parse = parse
        self._stats = StreamStats(time.perf_counter(), config.pricing or pricing)
        self._is_submitted = False
        self._is_cancelled = False
        self._wants_closing_token = closing_token
        self._observer = observer
        self._trail = trail

    def submit(self, prepared: Prepared) -> None:
        """Hand the prompt to the engine."""
        self._is_submitted = True  # first, so that a cancel() from now on leaves the end to the engine, or to this
        if self._is_cancelled:
            self._finish_early(None)
            return
        if self._observer is not None:
            self._config = self._observer.fitted(self._config)
        request = Request(self.id, prepared.prompt, self._config, self._lane, prepared.outline, self._trail)
        self._engine.submit(request, self._source, self._stats)
        if self._is_cancelled:
            self._engine.cancel(self.id)

    def submit_later(self, prepare: Callable[[], Prepared]) -> None:
        """The same where the prompt has to be made first; what goes wrong becomes the stream's end."""
        try:
            self.submit(_NO_PROMPT if self._is_cancelled else prepare())
        except EngineClosedError as error:
            self._finish_early(error if self._engine.is_dead else None)  # close() ends every stream as "cancelled"
        except BaseException as error:
            self._finish_early(None if self._is_cancelled else error)

    def cancel(self) -> None:
        """End the stream as "cancelled", without an exception. From any thread or task, any number of times.

        Where `tee` made several readers, it ends for all of them.
        """
        self._is_cancelled = True
        if self._trunk is not None:
            self._trunk.cancel()
        elif self._is_submitted:
            self._engine.cancel(self.id)
        else:
            self._finish_early(None)

    def _finish_early(self, error: BaseException | None) -> None:
        """End a stream that never reached the engine."""
        if self._source.finish(End("", None if error else "cancelled", error=error)):
            self._stats.ended = time.perf_counter()
            wake((self._source,))

    @property
    def is_read(self) -> bool:
        """Whether it has ended, and all its tokens were read."""
        return self._channel.end is not None and len(self._channel) == 0

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it ended; None while it runs, and where it failed."""
        end = self._channel.end
        return end.finish_reason if end is not None else None

    @property
    def usage(self) -> Usage:
        """Exact counts so far."""
        return self._stats.usage()

    @property
    def metrics(self) -> Metrics:
        """Times so far."""
        return self._stats.metrics()

    @property
    def time_to_first_token_ms(self) -> float | None:
        """From the request to the first token, in milliseconds; None until there is one."""
        first = self._stats.first_token
        return None if first is None else (first - self._stats.created) * 1000

    @property
    def gaps(self) -> Sequence[float]:
        """Seconds from each token to the next, so far, pauses left out."""
        return self._stats.gaps[:]

    @property
    def prefilled_tokens(self) -> int:
        """How many of the prompt's tokens are computed, those that had been cached included."""
        return min(self._stats.computed_tokens, self._stats.prompt_tokens)

    def tokens_generated(self) -> int:
        """Tokens sampled so far, read or not."""
        return self._stats.completion_tokens

    def tokens_per_second(self) -> float:
        """Decode speed so far: tokens after the first over the time after the first, without pauses."""
        return self._stats.tokens_per_second()

    def __repr__(self) -> str:
        state = "running" if self._channel.end is None else self.finish_reason or "failed"
        return f"<{type(self).__name__} {self.id}: {self.tokens_generated()} tokens, {state}>"

    def __del__(self) -> None:
        # Nobody can read it any more. No lock may be taken here: this can run in the midst of anything.
        if hasattr(self, "_observer"):
            self._abandon()

    def _leave(self) -> None:
        self._is_closed = True
        end = self._source.end
        is_read = not len(self._source)  # looked at after the end, behind which nothing comes
        self._channel.discard()
        if self._observer is not None and self._channel.is_deserted:
            self._observer.ended(end if is_read else None, ())

    def _abandon(self) -> None:
        self._leave()
        if self._channel.is_deserted and self._channel.end is None:
            (self._trunk or self)._is_cancelled = True
            self._engine.abandon(self.id)

    def _close(self) -> None:
        self._leave()
        if self._channel.is_deserted and self._channel.end is None:
            self.cancel()

    def _gathered(self, event: TokenEvent | End | None, limit: int | None) -> list[Token]:
        """The token that was waited for, and those behind it."""
        tokens: list[Token] = []
        while type(event) is TokenEvent:
            tokens.append(self._token(event))
            if len(tokens) == limit:
                return tokens
            event = self._channel.get_nowait()
        if isinstance(event, End) and not tokens:
            self._after_end(event)
        return tokens

    def _token(self, event: TokenEvent) -> Token:
        text, id, number, timestamp, piece, logprob, top, kind, tool_call, rest = event
        token = Token(text, id, number, timestamp, False, kind, piece, logprob, top, tool_call, rest)
        if self._observer is not None:
            self._observer.shown(token)
        return token

    def _after_end(self, end: End) -> Token | None:
        """What the iteration gives once the End was reached: an error, or a closing token, or nothing more."""
        if self._is_closed:
            return None
        if self._observer is not None:
            self._observer.ended(end, ())
        if self._is_failure(end):
            self._is_closed = True
            self._raise(end)
        if self._wants_closing_token:
            self._wants_closing_token = False
            return Token("", -1, self._stats.completion_tokens, time.time(), is_last=True)
        self._is_closed = True
        return None

    def _outcome(self, end: End) -> GenerationResult:
        if self._observer is not None:
            self._observer.ended(end, self._source.unread())
        if self._is_failure(end):
            self._raise(end)
        return self._result(end, self._parsed(end))

    def _is_failure(self, end: End) -> bool:
        return end.error is not None or end.timeout is not None

    def _result(self, end: End, parsed: object = None) -> GenerationResult:
        return GenerationResult(
            text=end.text,
            finish_reason=end.finish_reason or "cancelled",
            stop_sequence=end.stop_sequence,
            usage=self._stats.usage(),
            metrics=self._stats.metrics(),
            model=self._model,
            thinking=end.thinking,
            tool_calls=end.tool_calls,
            parsed=parsed,
        )

    def _parsed(self, end: End) -> object:
        if self._parse is None or not end.is_complete:
            return None
        try:
            return self._parse(end.text[end.answer_start :])
        except Exception as error:  # validators of the caller's own type may raise anything
            message = f"the output fits the JSON schema, but what it was made from refuses it: {error}"
            raise GenerationError(message, self._result(end)) from error

    def _raise(self, end: End) -> NoReturn:
        # A new exception each time, because only now there is a partial result to put into it.
        if end.timeout is not None:
            field, doing = _DEADLINES[end.timeout]
            limit = getattr(self._config, field)
            message = f"the stream spent more than {limit:.15g} ms {doing} ({field})"
            raise StreamTimeoutError(message, end.timeout, self._result(end))
        if isinstance(end.error, GenerationError):
            raise GenerationError(str(end.error), self._result(end)) from end.error.__cause__
        assert end.error is not None
        raise end.error.with_traceback(None)


class TokenStream(Views, _Stream):
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
            look_again = time.monotonic() + _LOOK_AGAIN
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


class AsyncTokenStream(AsyncViews, _Stream):
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
                    await asyncio.wait_for(self._channel.await_end(), _LOOK_AGAIN)
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
