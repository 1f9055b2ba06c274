"""One generation for several readers: a token stays in the channel until the last of them has read it."""

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

__all__ = ["Hub", "Leg", "Readership"]

_Iterator = TypeVar("_Iterator")

# What a reader finds who has left, while the others read on.
_LEFT = End("", "cancelled")


class Hub:
    """Who has read how far.

    Since nothing leaves the channel before the slowest reader has read it, the engine sees his pace and no other. A
    reader who has read everything sleeps in the channel like the only reader of a stream; the engine wakes all of them.
    The lock is held for a few steps and never while anybody sleeps.

    Args:
        source: the channel, from which nobody else reads any more.
        count: how many readers, at least 1.
    """

    def __init__(self, source: Channel, count: int) -> None:
        self.source = source
        self._lock = _thread.allocate_lock()
        self._read = [source.num_read] * count  # by each reader, counted from the start of the stream
        self._has_left = [False] * count
        self._is_untidy = False

    @property
    def num_read(self) -> int:
        """Tokens read by all readers together."""
        return sum(self._read)

    def num_unread(self, number: int) -> int:
        """Tokens that a reader has not read yet."""
        with self._lock:
            unread = len(self.source) + self.source.num_read - self._read[number]
        self._tidy()
        return 0 if self._has_left[number] else unread

    def take(self, number: int) -> TokenEvent | End | None:
        """A reader's next event; the End again and again once he has read everything; None where there is none yet."""
        with self._lock:
            end = self.source.end  # first, because it was set after the last token
            token = self.source.peek(self._read[number] - self.source.num_read)
            if self._has_left[number]:
                token, end = None, _LEFT
            elif token is not None:
                self._read[number] += 1
                self._let_go()
        self._tidy()
        return end if token is None else token

    def leave(self, number: int) -> None:
        """A reader does not count any more. This may run within a garbage collection, so it waits for no lock."""
        self._has_left[number] = True
        if all(self._has_left):
            self.source.discard()
        self._is_untidy = True
        self._tidy()
        wake((self.source,))  # he may be asleep himself, if it was another thread that closed him

    def _tidy(self) -> None:
        """Let go of what only readers who have left had not read; where the lock is held, its holder does it next."""
        while self._is_untidy and self._lock.acquire(blocking=False):
            try:
                self._is_untidy = False
                self._let_go()
            finally:
                self._lock.release()

    def _let_go(self) -> None:
        source = self.source
        while source.num_read < min(
            (read for read, left in zip(self._read, self._has_left, strict=True) if not left), default=0
        ):
            source.get_nowait()


class Leg:
    """One reader's end of a hub: to him it looks like a channel of his own.

    Args:
        hub: what he shares with the others.
        number: which of its readers he is.
    """

    def __init__(self, hub: Hub, number: int) -> None:
        self._hub = hub
        self._source = hub.source
        self._number = number

    def __len__(self) -> int:
        return self._hub.num_unread(self._number)

    @property
    def end(self) -> End | None:
        """The End, which all readers share."""
        return self._source.end

    @property
    def is_paused(self) -> bool:
        """Whether the slowest reader has paused the stream."""
        return self._source.is_paused

    @property
    def num_read(self) -> int:
        """Tokens read by all readers together: while this grows, somebody reads."""
        return self._hub.num_read

    @property
    def is_deserted(self) -> bool:
        """Whether all readers have left."""
        return self._source.is_deserted

    def get_nowait(self) -> TokenEvent | End | None:
        """See `Channel.get_nowait`; an End where this reader has left."""
        return self._hub.take(self._number)

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
        """From now on no reader paces the stream."""
        self._source.lift_bound()

    def discard(self) -> None:
        """This reader has left."""
        self._hub.leave(self._number)


class _Stump(Leg):
    """What is left of a stream that was given to several readers: whatever can be asked of it, but no tokens."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub, 0)

    def __len__(self) -> int:
        return len(self._source)

    @property
    def is_deserted(self) -> bool:
        """True: who closes the stream itself closes it for all readers."""
        return True

    def get_nowait(self) -> NoReturn:
        """Refuse.

        Raises:
            InvalidRequestError: always.
        """
        message = "tee() has given this stream to several readers; read those"
        raise InvalidRequestError("stream", self, "one of the readers that tee() returned", message)

    def discard(self) -> None:
        """The readers keep what is there."""


class Readership:
    """Who reads a stream: nobody yet, one reader, or several that tee() made.

    Args:
        capacity: tokens that may wait unread.
    """

    def __init__(self, capacity: int) -> None:
        self._source = Channel(capacity)
        self._channel: Channel | Leg = self._source  # where this one reads
        self._trunk: Self | None = None  # of a reader that tee() made, the stream that it is one of
        self._readers: tuple[weakref.ref[Self], ...] = ()  # those that tee() made of this one
        self._is_closed = False
        self._iterator: weakref.ref[object] | None = None
        self._reader: object = None  # the thread or task that read last

    def _claim(self, make: Callable[[Self], _Iterator]) -> _Iterator:
        """Make the one iterator."""
        if self._iterator is not None:  # asked before there is another one, because dropping that would cancel
            raise InvalidRequestError(
                "stream", self, "one iteration", "a stream is iterated once, and this one has been; generate a new one"
            )
        iterator = make(self)
        self._iterator = weakref.ref(iterator)
        return iterator

    def _tee(self, count: int) -> tuple[Self, ...]:
        count = as_int("n", count, 1)
        if self._trunk is not None:
            message = "this is a reader that tee() made; have it make one more, of the stream itself"
            raise InvalidRequestError("stream", self, "a stream that was generated", message)
        hub = self._claim(lambda stream: Hub(stream._source, count))
        readers = tuple(copy.copy(self) for _ in range(count))  # they share everything but their place
        for number, reader in enumerate(readers):
            reader._trunk, reader._iterator, reader._channel = self, None, Leg(hub, number)
        self._readers = tuple(map(weakref.ref, readers))
        self._channel, self._reader = _Stump(hub), None
        return readers

    def _is_read_by_another(self, me: object) -> bool:
        """Whether there is an iteration, and it was last advanced by somebody else."""
        stream = self._trunk or self
        living = [stream, *(reader for reference in stream._readers if (reader := reference()) is not None)]
        return any(reader._is_iterated and reader._reader not in (None, me) for reader in living)

    @property
    def _is_iterated(self) -> bool:
        return self._iterator is not None and self._iterator() is not None and not self._is_closed

    def _is_stuck(self, num_read: int) -> bool:
        """Whether the stream is paused, and nothing was read since that many tokens were: nobody is reading at all."""
        return self._channel.is_paused and self._channel.num_read == num_read
