"""The one-way street from the engine to a reader: bounded, observable, and never a reason for the engine to wait."""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from headrace.values.events import End, TokenEvent

__all__ = ["Channel", "wake"]


_Look = Callable[[], TokenEvent | End | None]


class _Waiter(Protocol):
    """Somebody who sleeps until something is there."""

    loop: asyncio.AbstractEventLoop | None

    def rouse(self) -> None: ...


class _ThreadWaiter:
    """A thread, asleep on a lock; locks are cheaper than conditions, and this is done for every token."""

    __slots__ = ("_lock", "loop")
    loop: asyncio.AbstractEventLoop | None

    def __init__(self) -> None:
        self.loop = None
        self._lock = _thread.allocate_lock()
        self._lock.acquire()

    def rouse(self) -> None:
        self._lock.release()

    def sleep(self, deadline: float | None) -> bool:
        if deadline is None:
            return self._lock.acquire()
        return self._lock.acquire(timeout=min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX))


class _TaskWaiter:
    """A task, asleep on a future of its event loop."""

    __slots__ = ("future", "loop")

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.loop: asyncio.AbstractEventLoop | None = loop
        self.future: asyncio.Future[None] = loop.create_future()

    def rouse(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class Channel:
    """Tokens of one stream, from the engine thread to whoever reads, and then its one End.

    The engine asks `is_full` and pauses the sequence; it never waits. Every operation is a single step of a deque or an
    attribute, so no lock is held on either side, and a reader may be dropped by the garbage collector at any point.

    Args:
        capacity: tokens that may wait unread.
        on_drain: called, from the reader's thread, when a paused stream may go on or its reader has left.
    """

    def __init__(self, capacity: int, on_drain: Callable[[], None] | None = None) -> None:
        self.capacity: float = capacity
        self.end: End | None = None
        self.is_paused = False
        self.num_read = 0
        self.is_deserted = False
        self._ending = _thread.allocate_lock()  # whoever acquires it may set the end
        self._on_drain = on_drain
        self._tokens: deque[TokenEvent] = deque()
        self._waiters: deque[_Waiter] = deque()
        self._end_waiters: deque[_Waiter] = deque()

    def __len__(self) -> int:
        return len(self._tokens)

    # The engine's end.

    @property
    def is_full(self) -> bool:
        """Whether the sequence must pause."""
        return len(self._tokens) >= self.capacity

    @property
    def can_resume(self) -> bool:
        """Whether a paused sequence may go on: less than half the buffer is unread."""
        return len(self._tokens) * 2 < self.capacity

    def bind(self, on_drain: Callable[[], None]) -> None:
        """Say whom to tell when a paused stream may go on."""
        self._on_drain = on_drain

    def put(self, token: TokenEvent) -> None:
        """Add a token; `wake` afterwards."""
        if not self.is_deserted:
            self._tokens.append(token)

    def finish(self, end: End) -> bool:
        """Add the End, if it is the first; `wake` afterwards."""
        if not self._ending.acquire(blocking=False):
            return False
        self.end = end
        return True

    # The reader's end.

    def get_nowait(self) -> TokenEvent | End | None:
        """The next event; the End again and again once everything was read; None where there is nothing yet."""
        tokens = self._tokens
        try:
            # Mostly there is nothing, and to look costs less than an exception.
            token = tokens.popleft() if tokens else None
        except IndexError:  # another thread took the last
            token = None
        if token is None:
            # The end was set after the last token, so look for a token once more before believing it.
            end = self.end
            return self.get_nowait() if end is not None and tokens else end
        self.num_read += 1
        if self.is_paused and self.can_resume:
            self._drained()
        return token

    def peek(self, index: int) -> TokenEvent | None:
        """The unread token at this place, without taking it; None where there is none yet."""
        try:
            return self._tokens[index]
        except IndexError:
            return None

    def unread(self) -> tuple[TokenEvent, ...]:
        """All unread tokens, without taking them."""
        return tuple(self._tokens.copy())  # the copy is a single step; going through it would not be

    def get(self, timeout: float | None = None, look: _Look | None = None) -> TokenEvent | End:
        """The next event; waits for it.

        Args:
            timeout: seconds to wait at most.
            look: what looks for the event, where this reader is not the only one; None for `get_nowait`.

        Raises:
            TimeoutError: nothing came within `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        look = look or self.get_nowait
        while (event := look()) is None:
            waiter = _ThreadWaiter()
            self._waiters.append(waiter)
            # Once more, since what came before the waiter was on the list has not woken it.
            if (event := look()) is not None:
                return event
            if not waiter.sleep(deadline):
                _forget(self._waiters, waiter)
                raise TimeoutError
        return event

    async def aget(self, look: _Look | None = None) -> TokenEvent | End:
        """The next event; waits for it without blocking the event loop. See `get`."""
        look = look or self.get_nowait
        while (event := look()) is None:
            waiter = _TaskWaiter()
            self._waiters.append(waiter)
            if (event := look()) is not None:
                return event
            try:
                await waiter.future
            except BaseException:
                _forget(self._waiters, waiter)
                raise
        return event

    def wait_end(self, timeout: float | None = None) -> End | None:
        """Wait until the End is there, whatever is unread; None where it did not come within `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.end is None:
            waiter = _ThreadWaiter()
            self._end_waiters.append(waiter)
            if self.end is None and not waiter.sleep(deadline):
                _forget(self._end_waiters, waiter)
                return None
        return self.end

    async def await_end(self) -> End:
        """The same for a task."""
        while self.end is None:
            waiter = _TaskWaiter()
            self._end_waiters.append(waiter)
            try:
                if self.end is None:
                    await waiter.future
            except BaseException:
                _forget(self._end_waiters, waiter)
                raise
        return self.end

    def lift_bound(self) -> None:
        """From now on the stream is never paused, because whoever reads wants all of it."""
        self.capacity = float("inf")
        self._drained()

    def discard(self) -> None:
        """Nobody will read any more: drop what is unread and what comes, but for the End."""
        self.is_deserted = True
        self._tokens.clear()

    def take_waiters(self) -> Iterable[_Waiter]:
        """Whoever sleeps on this channel, each once."""
        for waiters in (self._waiters,) if self.end is None else (self._waiters, self._end_waiters):
            while waiters:
                try:
                    yield waiters.popleft()
                except IndexError:  # another thread took the last
                    break

    def _drained(self) -> None:
        self.is_paused = False
        if self._on_drain is not None:
            self._on_drain()


def _forget(waiters: deque[_Waiter], waiter: _Waiter) -> None:
    """Take somebody off the list who has given up waiting, if he was not woken meanwhile."""
    with contextlib.suppress(ValueError):
        waiters.remove(waiter)


def wake(channels: Iterable[Channel]) -> None:
    """Wake whoever sleeps on these channels, with one call per event loop."""
    tasks: dict[asyncio.AbstractEventLoop, list[_Waiter]] | None = None
    for channel in channels:
        for waiter in channel.take_waiters():
            if waiter.loop is None:
                waiter.rouse()
            else:
                tasks = tasks or {}
                tasks.setdefault(waiter.loop, []).append(waiter)
    for loop, waiters in (tasks or {}).items():
        try:
            loop.call_soon_threadsafe(_rouse_all, waiters)
        except RuntimeError:
            # The loop was closed with a reader still asleep on it: nobody is left to be told.
            continue


def _rouse_all(waiters: list[_Waiter]) -> None:
    for waiter in waiters:
        waiter.rouse()
