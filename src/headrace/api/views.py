"""Other ways to iterate a stream: as text, in groups, at an even pace, as a growing object."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any, cast

from headrace.api.readable import AsyncReadable, Readable
from headrace.values.checks import as_float, as_int
from headrace.values.config import StreamConfig
from headrace.values.errors import GenerationError, InvalidRequestError
from headrace.values.results import GenerationResult, Token

if TYPE_CHECKING:
    from headrace.structured.partial_json import PartialJson

__all__ = ["AsyncTokens", "AsyncViews", "Tokens", "Views"]

_LONGEST_MS = 3_600_000
# Tokens whose distances make the usual one.
_USUAL = 32
# A view that is behind goes so much faster than the tokens came, so that it does not stay behind.
_HASTE = 0.9
# Seconds that nobody sees, and that are not worth a sleep.
_IMPERCEPTIBLE = 0.001


class Views:
    """The views of a TokenStream. Each is the stream's one iteration: leaving it cancels what is left."""

    _config: StreamConfig

    def text(self) -> Iterator[str]:
        """The texts of kind "text", none of them empty; thoughts and tool calls are left out."""
        return _Texts(cast("Readable", self))

    def buffered(self, n: int, max_wait_ms: float | None = None) -> Iterator[list[Token]]:
        """Lists of n sampled tokens; the last one may be shorter. An error comes after the tokens until then.

        Args:
            n: tokens in a list, at least 1.
            max_wait_ms: milliseconds after which a list is handed out although it is not full, counted from its first
                token, so that a slow stream still shows something; None for however long it takes.
        """
        return _Groups(cast("Readable", self), _Group(n, max_wait_ms))

    def paced(self, lag_ms: float = 250) -> Iterator[Token]:
        """The tokens, those that come in bursts handed out at the usual distance, for display.

        The usual distance is the mean of the last ones. No token is lost or overtaken, and none is held back for longer
        than the lag, counted from when it was sampled. When the stream has ended, however it did, what is left comes
        at once.

        Args:
            lag_ms: milliseconds that a token may be held back, 0 to 3,600,000.
        """
        return _Paced(cast("Readable", self), _Pace(lag_ms))

    def objects(self) -> Iterator[Any]:
        """The growing object of a stream with a `json_schema`: each value is a refinement of the last.

        The last one is `result().parsed`, an instance where a type was given, if the output is complete; where it was
        cut off, there is none such.

        Raises:
            InvalidRequestError: the stream has no `json_schema`, or its thinking is "raw" and so part of its text.
        """
        _check_objects(self._config)
        return _Objects(cast("Readable", self))


class AsyncViews:
    """The views of an AsyncTokenStream. Each is the stream's one iteration: leaving it cancels what is left."""

    _config: StreamConfig

    def text(self) -> AsyncIterator[str]:
        """The texts of kind "text"; see `TokenStream.text`."""
        return _AsyncTexts(cast("AsyncReadable", self))

    def buffered(self, n: int, max_wait_ms: float | None = None) -> AsyncIterator[list[Token]]:
        """Lists of n tokens; see `TokenStream.buffered`."""
        return _AsyncGroups(cast("AsyncReadable", self), _Group(n, max_wait_ms))

    def paced(self, lag_ms: float = 250) -> AsyncIterator[Token]:
        """The tokens at an even pace; see `TokenStream.paced`."""
        return _AsyncPaced(cast("AsyncReadable", self), _Pace(lag_ms))

    def objects(self) -> AsyncIterator[Any]:
        """The growing object; see `TokenStream.objects`."""
        _check_objects(self._config)
        return _AsyncObjects(cast("AsyncReadable", self))


class Tokens(Iterator[Token]):
    """The iteration of a stream: when a loop is left, this is dropped, and the stream cancelled."""

    __slots__ = ("__weakref__", "_stream")

    def __init__(self, stream: Readable) -> None:
        self._stream = stream

    def __next__(self) -> Token:
        return self._stream.__next__()

    def __del__(self) -> None:
        self._stream._abandon()  # pyright: ignore[reportPrivateUsage]


class AsyncTokens(AsyncIterator[Token]):
    """The iteration of a stream: when a loop is left, this is dropped, and the stream cancelled."""

    __slots__ = ("__weakref__", "_stream")

    def __init__(self, stream: AsyncReadable) -> None:
        self._stream = stream

    async def __anext__(self) -> Token:
        return await self._stream.__anext__()

    def __del__(self) -> None:
        self._stream._abandon()  # pyright: ignore[reportPrivateUsage]


# Every view below holds such an iteration, so that dropping the one drops the other. None is a generator, because an
# event loop finalizes those of tasks too late.


class _Texts(Iterator[str]):
    def __init__(self, stream: Readable) -> None:
        self._tokens = iter(stream)

    def __next__(self) -> str:
        for token in self._tokens:
            if text := _text(token):
                return text
        raise StopIteration


class _AsyncTexts(AsyncIterator[str]):
    def __init__(self, stream: AsyncReadable) -> None:
        self._tokens = aiter(stream)

    async def __anext__(self) -> str:
        async for token in self._tokens:
            if text := _text(token):
                return text
        raise StopAsyncIteration


def _text(token: Token) -> str:
    return "".join(part.text for part in token.parts if part.kind == "text")


class _Group:
    """Tokens on their way to be a list; they stay here where waiting for more of them is cut short.

    Args:
        size: how many there shall be.
        max_wait_ms: how long the first one waits for the others; None for however long it takes.
    """

    def __init__(self, size: int, max_wait_ms: float | None) -> None:
        self._size = as_int("n", size, 1)
        wait = None if max_wait_ms is None else as_float("max_wait_ms", max_wait_ms, 0, _LONGEST_MS) / 1000
        self._max_wait = wait
        self._tokens: list[Token] = []
        self._due: float | None = None
        self._error: GenerationError | None = None

    @property
    def num_missing(self) -> int:
        """How many tokens it takes yet."""
        return 0 if self._error is not None else self._size - len(self._tokens)

    @property
    def time_left(self) -> float | None:
        """Seconds that it may wait for them; None for however long it takes."""
        return None if self._due is None else max(0.0, self._due - time.monotonic())

    def add(self, tokens: list[Token]) -> None:
        """Take tokens in."""
        if self._max_wait is not None and not self._tokens:
            self._due = time.monotonic() + self._max_wait
        self._tokens += tokens

    def fail(self, error: GenerationError) -> None:
        """Raise an error when it is its turn."""
        self._error = error

    def take(self) -> list[Token]:
        """What there is, and start anew; nothing where the stream has ended."""
        error = self._error
        if error is not None and not self._tokens:
            self._error = None
            raise error
        tokens, self._tokens, self._due = self._tokens, [], None
        return tokens


class _Groups(Iterator[list[Token]]):
    def __init__(self, stream: Readable, group: _Group) -> None:
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


class _AsyncGroups(AsyncIterator[list[Token]]):
    def __init__(self, stream: AsyncReadable, group: _Group) -> None:
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


class _Pace:
    """When a token is due.

    Args:
        lag_ms: milliseconds that a token may be held back.
    """

    def __init__(self, lag_ms: float) -> None:
        self._lag = as_float("lag_ms", lag_ms, 0, _LONGEST_MS) / 1000
        self._gaps: deque[float] = deque(maxlen=_USUAL)
        self._last_sampled: float | None = None
        self._last_shown = 0.0
        self.held: Token | None = None  # the token that waits, also where waiting for its time is cut short

    def hold(self, token: Token) -> None:
        """A token has come."""
        if self._last_sampled is not None:
            # A pause is no distance between tokens, and clocks may be put back.
            self._gaps.append(min(max(0.0, token.timestamp - self._last_sampled), self._lag))
        self._last_sampled = token.timestamp
        self.held = token

    def delay(self, now: float, clock: float) -> float:
        """Seconds that the token is to wait.

        Args:
            now: on the clock of `time.monotonic()`.
            clock: seconds since the epoch, as tokens are stamped with.
        """
        token = self.held
        if token is None or not self._gaps:
            return 0.0
        usual = sum(self._gaps) / len(self._gaps)
        age = min(max(0.0, clock - token.timestamp), self._lag)
        delay = min(self._last_shown + usual * _HASTE - now, self._lag - age)
        return delay if delay > _IMPERCEPTIBLE else 0.0

    def show(self, now: float) -> Token:
        """Hand the token out."""
        token = cast("Token", self.held)
        self.held = None
        self._last_shown = now
        return token


class _Paced(Iterator[Token]):
    def __init__(self, stream: Readable, pace: _Pace) -> None:
        self._stream = stream
        self._pace = pace
        self._tokens = iter(stream)

    def __next__(self) -> Token:
        pace = self._pace
        if pace.held is None:
            pace.hold(next(self._tokens))
        if delay := pace.delay(time.monotonic(), time.time()):
            self._stream.wait_end(delay)
        return pace.show(time.monotonic())


class _AsyncPaced(AsyncIterator[Token]):
    def __init__(self, stream: AsyncReadable, pace: _Pace) -> None:
        self._stream = stream
        self._pace = pace
        self._tokens = aiter(stream)

    async def __anext__(self) -> Token:
        pace = self._pace
        if pace.held is None:
            pace.hold(await anext(self._tokens))
        if delay := pace.delay(time.monotonic(), time.time()):
            await self._stream.wait_end(delay)
        return pace.show(time.monotonic())


class _Objects(Iterator[Any]):
    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._json = _partial_json()
        self._tokens = iter(stream)
        self._is_over = False

    def __next__(self) -> Any:
        for token in self._tokens:
            if self._json.feed(_text(token)):
                return self._json.value
        if not self._is_over and _has_result(self._stream):
            self._is_over = True
            for value in _last_value(self._json, self._stream.result()):
                return value
        raise StopIteration


class _AsyncObjects(AsyncIterator[Any]):
    def __init__(self, stream: AsyncReadable) -> None:
        self._stream = stream
        self._json = _partial_json()
        self._tokens = aiter(stream)
        self._is_over = False

    async def __anext__(self) -> Any:
        async for token in self._tokens:
            if self._json.feed(_text(token)):
                return self._json.value
        if not self._is_over and _has_result(self._stream):
            self._is_over = True
            for value in _last_value(self._json, await self._stream.result()):
                return value
        raise StopAsyncIteration


def _check_objects(config: StreamConfig) -> None:
    if config.json_schema is None:
        raise InvalidRequestError("json_schema", None, "a schema, for a stream of objects")
    if config.thinking == "raw":
        raise InvalidRequestError("thinking", "raw", '"split" or "hide", for a stream of objects')


def _partial_json() -> PartialJson:
    from headrace.structured.partial_json import PartialJson  # it brings jiter, which few streams need

    return PartialJson()


def _has_result(stream: Readable | AsyncReadable) -> bool:
    """Whether its result is there: not where it has failed, or is only closed for this one of several readers."""
    return stream.finish_reason not in (None, "timeout")


def _last_value(json: PartialJson, result: GenerationResult) -> tuple[Any, ...]:
    """What comes after the last token, where that is anything new."""
    parsed = result.parsed
    if parsed is None:  # it was cut off, or it is null, which was there already
        return (json.value,) if json.flush(is_complete=False) else ()
    is_known = json.has_value and type(json.value) is type(parsed) and json.value == parsed
    return () if is_known else (parsed,)
