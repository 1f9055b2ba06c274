"""`Channel`: the bounded buffer of tokens between the engine and one reader; the engine never waits on it."""

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

_GetNowait = Callable[[], TokenEvent | End | None]


class _Waiter(Protocol):
    """A thread or a task that sleeps until the channel gets a token or the End."""

    loop: asyncio.AbstractEventLoop | None

    def rouse(self) -> None: ...


class _ThreadWaiter:
    """A thread that sleeps on a lock. This happens for every token, and a lock is cheaper than a condition."""

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
    """A task that sleeps on a future of its event loop."""

    __slots__ = ("future", "loop")

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.loop: asyncio.AbstractEventLoop | None = loop
        self.future: asyncio.Future[None] = loop.create_future()

    def rouse(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class Channel:
    """Carries the tokens of one stream from the engine thread to its reader, and then exactly one End.

    The engine checks `is_full` and pauses the sequence; it never waits. Each operation is one atomic operation on a
    deque or an attribute. So neither side holds a lock, and the garbage collector may drop a reader at any point.

    Args:
        capacity: the most unread tokens before the sequence is paused.
        on_drain: called on the reader's thread when a paused sequence can resume.

    Attributes:
        end: the End; None before.
        is_paused: whether the engine has paused the sequence.
        num_read: tokens that were read.
        is_deserted: whether the reader has left.
    """

    def __init__(self, capacity: int, on_drain: Callable[[], None] | None = None) -> None:
        self.capacity: float = capacity
        self.end: End | None = None
        self.is_paused = False
        self.num_read = 0
        self.is_deserted = False
        self._ending = _thread.allocate_lock()  # held by the thread that has set `end`
        self._on_drain = on_drain
        self._tokens: deque[TokenEvent] = deque()
        self._waiters: deque[_Waiter] = deque()
        self._end_waiters: deque[_Waiter] = deque()

    def __len__(self) -> int:
        return len(self._tokens)

    # Called by the engine.

    @property
    def is_full(self) -> bool:
        """Whether the buffer is full, so that the sequence must pause."""
        return len(self._tokens) >= self.capacity

    @property
    def can_resume(self) -> bool:
        """Whether a paused sequence can resume: less than half of the buffer is unread."""
        return len(self._tokens) * 2 < self.capacity

    def bind(self, on_drain: Callable[[], None]) -> None:
        """Set the function to call when a paused sequence can resume."""
        self._on_drain = on_drain

    def put(self, token: TokenEvent) -> None:
        """Add a token. Call `wake` afterwards."""
        if not self.is_deserted:
            self._tokens.append(token)

    def finish(self, end: End) -> bool:
        """Set the End; False if there is one already. Call `wake` afterwards."""
        if not self._ending.acquire(blocking=False):
            return False
        self.end = end
        return True

    # Called by the reader.

    def get_nowait(self) -> TokenEvent | End | None:
        """Returns the next token; None if there is none yet. After the last token, every call returns the End."""
        tokens = self._tokens
        try:
            # Mostly the deque is empty, and testing that is cheaper than an exception.
            token = tokens.popleft() if tokens else None
        except IndexError:  # another thread took the last token
            token = None
        if token is None:
            # The engine sets the End after the last token, so look for a token again after reading `end`.
            end = self.end
            return self.get_nowait() if end is not None and tokens else end
        self.num_read += 1
        if self.is_paused and self.can_resume:
            self._drained()
        return token

    def peek(self, index: int) -> TokenEvent | None:
        """Returns the unread token at this index without taking it; None if there is none yet."""
        try:
            return self._tokens[index]
        except IndexError:
            return None

    def unread(self) -> tuple[TokenEvent, ...]:
        """Returns all unread tokens without taking them."""
        return tuple(self._tokens.copy())  # copy() is atomic; iterating is not

    def get(self, timeout: float | None = None, look: _GetNowait | None = None) -> TokenEvent | End:
        """Wait for the next event and return it.

        Args:
            timeout: the most seconds to wait; None for no limit.
            look: returns the next event or None, for a reader that shares the channel; None for `get_nowait`.

        Raises:
            TimeoutError: nothing came within `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        look = look or self.get_nowait
        while (event := look()) is None:
            waiter = _ThreadWaiter()
            self._waiters.append(waiter)
            # Look again: an event that came before the waiter was on the list did not wake it.
            if (event := look()) is not None:
                return event
            if not waiter.sleep(deadline):
                _forget(self._waiters, waiter)
                raise TimeoutError
        return event

    async def aget(self, look: _GetNowait | None = None) -> TokenEvent | End:
        """Wait for the next event without blocking the event loop. See `get`."""
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
        """Wait for the End, even if tokens are unread; None if it did not come within `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.end is None:
            waiter = _ThreadWaiter()
            self._end_waiters.append(waiter)
            if self.end is None and not waiter.sleep(deadline):
                _forget(self._end_waiters, waiter)
                return None
        return self.end

    async def await_end(self) -> End:
        """Wait for the End without blocking the event loop."""
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
        """Never pause the stream from now on, because its reader waits for the whole result."""
        self.capacity = float("inf")
        self._drained()

    def discard(self) -> None:
        """Drop unread and future tokens, but not the End: the reader has left."""
        self.is_deserted = True
        self._tokens.clear()

    def take_waiters(self) -> Iterable[_Waiter]:
        """Yields the waiters that are to be woken, and removes them from the channel."""
        for waiters in (self._waiters,) if self.end is None else (self._waiters, self._end_waiters):
            while waiters:
                try:
                    yield waiters.popleft()
                except IndexError:  # another thread took the last waiter
                    break

    def _drained(self) -> None:
        self.is_paused = False
        if self._on_drain is not None:
            self._on_drain()


def _forget(waiters: deque[_Waiter], waiter: _Waiter) -> None:
    """Remove a waiter that gave up, unless it was woken meanwhile."""
    with contextlib.suppress(ValueError):
        waiters.remove(waiter)


def wake(channels: Iterable[Channel]) -> None:
    """Wake the readers that sleep on these channels, with one call per event loop."""
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
            # The loop was closed while a reader slept on it, so there is no reader any more.
            continue


def _rouse_all(waiters: list[_Waiter]) -> None:
    for waiter in waiters:
        waiter.rouse()
