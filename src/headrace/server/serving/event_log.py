"""`EventLog` and `EventLogs`: the events of resumable streams, kept so that clients can resume them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from headrace.server.http.errors import ApiError
from headrace.server.http.sse import Source
from headrace.server.serving.settings import Settings

__all__ = ["EventLog", "EventLogs"]

# Ids of dropped logs that are remembered, to answer 410 for them instead of 404.
_MAX_DROPPED = 10_000


class EventLog:
    """The numbered events of one stream. Any number of clients may follow the stream, each from any event on.

    Events are numbered from 1. If there is no room for all, the oldest events are dropped.

    Attributes:
        id: the request's id.
        size: bytes of the kept events.
        is_closed: whether no more events will come.
    """

    def __init__(self, id: str) -> None:
        self.id = id
        self.size = 0
        self.is_closed = False
        self._events: deque[bytes] = deque()
        self._num_dropped = 0
        self._waiters: set[asyncio.Future[None]] = set()

    @property
    def last(self) -> int:
        """The number of the newest event."""
        return self._num_dropped + len(self._events)

    @property
    def num_dropped(self) -> int:
        """How many of the oldest events were dropped."""
        return self._num_dropped

    def append(self, events: Sequence[bytes]) -> None:
        """Add the events of a step, and wake the followers."""
        for event in events:
            numbered = b"id: %d\n%b" % (self.last + 1, event)
            self._events.append(numbered)
            self.size += len(numbered)
        self._wake()

    def close(self) -> None:
        """Record that no more events will come, and wake the followers."""
        self.is_closed = True
        self._wake()

    def drop_oldest(self) -> None:
        """Drop the oldest event."""
        self.size -= len(self._events.popleft())
        self._num_dropped += 1

    def check_follow(self, after: int) -> None:
        """Check that a client can follow from this event on.

        Raises:
            ApiError: 400, there is no such event yet; 410, events after this one were dropped.
        """
        if after > self.last:
            message = f"Last-Event-ID is {after}; allowed: {self._num_dropped} to {self.last}"
            raise ApiError(400, message, param="Last-Event-ID", code="invalid_value")
        if after < self._num_dropped:
            message = (
                f"Last-Event-ID is {after}, but older events of the stream {self.id!r} were dropped; "
                f"allowed: {self._num_dropped} to {self.last}"
            )
            raise ApiError(410, message, param="Last-Event-ID", code="events_gone")

    async def follow(self, after: int) -> Source:
        """Yields the events after number `after`, at first the kept ones and then each new one."""
        while True:
            if after < self._num_dropped:
                # A follower that is too slow gets an error, so that it never misses events unnoticed.
                error = ApiError(410, "this client read too slowly: its next events were dropped", code="events_gone")
                yield [b"data: %b\n\n" % error.json()]
                return
            start = after - self._num_dropped
            if batch := [self._events[i] for i in range(start, len(self._events))]:
                after = self.last
                yield batch
            elif self.is_closed:
                return
            else:
                waiter = asyncio.get_running_loop().create_future()
                self._waiters.add(waiter)
                try:
                    await waiter
                finally:
                    self._waiters.discard(waiter)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


class EventLogs:
    """All event logs: those of running streams, and for a while those of ended streams.

    Args:
        settings: `resume_window`, seconds for which the log of an ended stream is kept; `resume_mb`, the size of all
            logs together.
    """

    def __init__(self, settings: Settings) -> None:
        self._window = settings.resume_window
        self._limit = int(settings.resume_mb * 1_000_000)
        self._logs: dict[str, EventLog] = {}
        self._ended: deque[EventLog] = deque()  # oldest first
        self._dropped_ids: dict[str, None] = {}
        self._tasks: set[asyncio.Future[None]] = set()
        self._size = 0

    def has(self, id: str) -> bool:
        """Returns whether there is a log of the stream with this id."""
        return id in self._logs

    def find(self, id: str) -> EventLog | None:
        """Returns the log of the stream with this id; None if there never was one.

        Raises:
            ApiError: 410, the log was dropped.
        """
        if id in self._dropped_ids:
            raise ApiError(
                410,
                f"the stream {id!r} can no longer be resumed: its events were dropped",
                param="id",
                code="stream_gone",
            )
        return self._logs.get(id)

    def record(self, id: str, source: Source) -> EventLog:
        """Start a task that reads the events of a stream into a new log. Returns the log."""
        log = self._logs[id] = EventLog(id)
        self._dropped_ids.pop(id, None)
        task = asyncio.ensure_future(self._record(log, source))
        self._tasks.add(task)  # the event loop holds tasks only weakly
        task.add_done_callback(self._tasks.discard)
        return log

    async def _record(self, log: EventLog, source: Source) -> None:
        try:
            async for events in source:  # never raises: a failure is an event too
                before = log.size
                log.append(events)
                self._size += log.size - before
                self._make_room(log)
        finally:
            log.close()
            self._ended.append(log)
            asyncio.get_running_loop().call_later(self._window, self._drop, log)

    def _make_room(self, growing: EventLog) -> None:
        while self._size > self._limit:
            if self._ended:
                self._drop(self._ended[0])
            elif growing.num_dropped < growing.last:
                before = growing.size
                growing.drop_oldest()
                self._size -= before - growing.size
            else:
                return

    def _drop(self, log: EventLog) -> None:
        if self._logs.get(log.id) is not log:
            return
        del self._logs[log.id]
        self._ended.remove(log)
        self._size -= log.size
        self._dropped_ids[log.id] = None
        if len(self._dropped_ids) > _MAX_DROPPED:
            del self._dropped_ids[next(iter(self._dropped_ids))]
