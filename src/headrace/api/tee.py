"""`TeeableStream`: a stream that is iterated once, or read by several readers that `tee` makes.

The readers share the stream's channel. A token stays in the channel until the slowest reader has read it.
"""

from __future__ import annotations

import _thread
import copy
import weakref
from collections.abc import Callable
from typing import NoReturn, Self, TypeVar

from headrace.engine.channel import Channel, wake
from headrace.values.checks import as_int
from headrace.values.errors import InvalidRequestError
from headrace.values.events import End, TokenEvent

__all__ = ["SharedChannel", "TeeReader", "TeeableStream"]

_Iterator = TypeVar("_Iterator")

# A reader that was closed gets this End, even while the other readers go on.
_CLOSED = End("", "cancelled")


class SharedChannel:
    """A channel with several readers. Records how far each has read.

    The slowest reader determines the pace of the engine, because tokens leave the channel when all readers have read
    them. A reader that has read all tokens sleeps in the channel, as the only reader of a stream does; the engine wakes
    all readers. The lock is held for a few statements only, and never while a reader sleeps.

    Args:
        source: the channel; only this object takes tokens from it.
        count: number of readers, at least 1.
    """

    def __init__(self, source: Channel, count: int) -> None:
        self.source = source
        self._lock = _thread.allocate_lock()
        self._read = [source.num_read] * count  # tokens read by each reader, counted from the start of the stream
        self._has_left = [False] * count
        self._is_untidy = False

    @property
    def num_read(self) -> int:
        """Tokens read, summed over all readers."""
        return sum(self._read)

    def num_unread(self, number: int) -> int:
        """Return how many tokens a reader has not read yet."""
        with self._lock:
            unread = len(self.source) + self.source.num_read - self._read[number]
        self._tidy()
        return 0 if self._has_left[number] else unread

    def take(self, number: int) -> TokenEvent | End | None:
        """Return a reader's next token; None if there is none yet. After the last token, every call returns the End."""
        with self._lock:
            end = self.source.end  # read before the tokens, because it is set after the last token
            token = self.source.peek(self._read[number] - self.source.num_read)
            if self._has_left[number]:
                token, end = None, _CLOSED
            elif token is not None:
                self._read[number] += 1
                self._discard_read()
        self._tidy()
        return end if token is None else token

    def leave(self, number: int) -> None:
        """Stop waiting for a reader. This may run during a garbage collection, so it does not wait for the lock."""
        self._has_left[number] = True
        if all(self._has_left):
            self.source.discard()
        self._is_untidy = True
        self._tidy()
        wake((self.source,))  # the reader may be asleep, if another thread closed it

    def _tidy(self) -> None:
        """After a reader has left, discard tokens that no other reader needs, or let the lock's holder do it."""
        while self._is_untidy and self._lock.acquire(blocking=False):
            try:
                self._is_untidy = False
                self._discard_read()
            finally:
                self._lock.release()

    def _discard_read(self) -> None:
        source = self.source
        while source.num_read < min(
            (read for read, left in zip(self._read, self._has_left, strict=True) if not left), default=0
        ):
            source.get_nowait()


class TeeReader:
    """One reader's view of a shared channel, with the interface of a `Channel`.

    Args:
        shared: the shared channel.
        number: the number of this reader in it.
    """

    def __init__(self, shared: SharedChannel, number: int) -> None:
        self._shared = shared
        self._source = shared.source
        self._number = number

    def __len__(self) -> int:
        return self._shared.num_unread(self._number)

    @property
    def end(self) -> End | None:
        """The End of the stream."""
        return self._source.end

    @property
    def is_paused(self) -> bool:
        """Whether the slowest reader has paused the stream."""
        return self._source.is_paused

    @property
    def num_read(self) -> int:
        """Tokens read, summed over all readers. If the number grows, at least one reader is reading."""
        return self._shared.num_read

    @property
    def is_deserted(self) -> bool:
        """Whether all readers have left."""
        return self._source.is_deserted

    def get_nowait(self) -> TokenEvent | End | None:
        """See `Channel.get_nowait`. Returns an End if this reader has left."""
        return self._shared.take(self._number)

    def get(self, timeout: float | None = None) -> TokenEvent | End:
        """See `Channel.get`."""
        return self._source.get(timeout, self.get_nowait)

    async def aget(self) -> TokenEvent | End:
        """See `Channel.aget`."""
        return await self._source.aget(self.get_nowait)

    def wait_end(self, timeout: float | None = None) -> End | None:
        """See `Channel.wait_end`."""
        return self._source.wait_end(timeout)

    async def await_end(self) -> End:
        """See `Channel.await_end`."""
        return await self._source.await_end()

    def lift_bound(self) -> None:
        """Let the stream go on without waiting for any reader."""
        self._source.lift_bound()

    def discard(self) -> None:
        """Leave: the other readers no longer wait for this one."""
        self._shared.leave(self._number)


class _TeedChannel(TeeReader):
    """The channel of the original stream after `tee`: it has all counts, but refuses to return tokens."""

    def __init__(self, shared: SharedChannel) -> None:
        super().__init__(shared, 0)

    def __len__(self) -> int:
        return len(self._source)

    @property
    def is_deserted(self) -> bool:
        """True, because closing the stream itself closes it for all readers."""
        return True

    def get_nowait(self) -> NoReturn:
        """Refuse.

        Raises:
            InvalidRequestError: always.
        """
        message = "tee() has given this stream to several readers; read those instead"
        raise InvalidRequestError("stream", self, "one of the readers that tee() returned", message)

    def discard(self) -> None:
        """Do nothing: the unread tokens belong to the readers."""


class TeeableStream:
    """The part of a stream that is about reading: the stream is iterated once, or read by readers that `tee` makes.

    Args:
        capacity: tokens that may wait unread.
    """

    def __init__(self, capacity: int) -> None:
        self._source = Channel(capacity)
        self._channel: Channel | TeeReader = self._source  # the end that this object reads
        self._teed_from: Self | None = None  # the stream whose `tee` made this reader
        self._readers: tuple[weakref.ref[Self], ...] = ()  # the readers that this stream's `tee` made
        self._is_closed = False
        self._iterator: weakref.ref[object] | None = None
        self._last_reader: object = None  # the thread or task that read last

    def _claim(self, make: Callable[[Self], _Iterator]) -> _Iterator:
        """Make the one iterator of this stream."""
        if self._iterator is not None:  # check this first: a second iterator would cancel the stream when dropped
            raise InvalidRequestError(
                "stream", self, "one iteration", "a stream is iterated once, and this one has been; generate a new one"
            )
        iterator = make(self)
        self._iterator = weakref.ref(iterator)
        return iterator

    def _tee(self, count: int) -> tuple[Self, ...]:
        count = as_int("n", count, 1)
        if self._teed_from is not None:
            message = "this stream is a reader that tee() made; call tee() on the original stream, with a larger n"
            raise InvalidRequestError("stream", self, "a stream that was generated", message)
        shared = self._claim(lambda stream: SharedChannel(stream._source, count))
        readers = tuple(copy.copy(self) for _ in range(count))  # they share everything except their channel
        for number, reader in enumerate(readers):
            reader._teed_from, reader._iterator, reader._channel = self, None, TeeReader(shared, number)
        self._readers = tuple(map(weakref.ref, readers))
        self._channel, self._last_reader = _TeedChannel(shared), None
        return readers

    def _is_read_by_another(self, me: object) -> bool:
        """Whether the stream is being iterated, and a thread or task other than `me` read last."""
        stream = self._teed_from or self
        living = [stream, *(reader for reference in stream._readers if (reader := reference()) is not None)]
        return any(reader._is_iterated and reader._last_reader not in (None, me) for reader in living)

    @property
    def _is_iterated(self) -> bool:
        return self._iterator is not None and self._iterator() is not None and not self._is_closed

    def _is_stuck(self, num_read: int) -> bool:
        """Whether the stream is paused, and no token was read since `num_read` were: then nobody is reading it."""
        return self._channel.is_paused and self._channel.num_read == num_read
