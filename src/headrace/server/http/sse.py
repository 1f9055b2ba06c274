"""`EventStream`: a response of server-sent events, with keep-alive comments, backpressure and a stall timeout."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from headrace.server.http.disconnect import wait_for_disconnect

__all__ = ["EventStream", "Source", "event"]

Source = AsyncGenerator[Sequence[bytes], None]

# The keep-alive comment. A blank line after it would make a client that has seen an `id:` dispatch an empty event.
_KEEP_ALIVE = b": ping\n"


def event(data: str | bytes, *, name: str | None = None) -> bytes:
    """Returns one event with this JSON as its data."""
    text = data.encode() if isinstance(data, str) else data
    return b"event: %b\ndata: %b\n\n" % (name.encode(), text) if name else b"data: %b\n\n" % text


class EventStream(Response):
    """An ASGI response that sends events as they come. The headers are sent at once.

    Backpressure: while the socket takes no more data, nothing is read from `source`, so the engine pauses the stream.

    Args:
        source: the events, a batch for each write. It is closed at the end of the response.
        on_leave: called with "disconnect" or "stall" if the client was gone before the last event.
        headers: more headers of the response.
        ping_interval: seconds without an event after which a keep-alive comment is sent.
        stall_timeout: seconds after which a client that takes no data is cut off; 0 for no limit.
    """

    def __init__(
        self,
        source: Source,
        *,
        on_leave: Callable[[str], None],
        headers: Mapping[str, str],
        ping_interval: float,
        stall_timeout: float,
    ) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers(
            {
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-cache",
                "X-Accel-Buffering": "no",
                **headers,
            }
        )
        self._source = source
        self._on_leave = on_leave
        self._ping_interval = ping_interval
        self._stall_timeout = stall_timeout
        self._sending_since: float | None = None
        self._last_sent = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        keep_alive = asyncio.ensure_future(self._send_keep_alives(send))
        body = asyncio.ensure_future(self._send_events(send))
        leaving = asyncio.ensure_future(wait_for_disconnect(receive))
        tasks = (body, keep_alive, leaving)
        is_stalled = False
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            is_stalled = keep_alive.done() and not body.done()
            if not body.done() or body.exception() is not None:
                self._on_leave("stall" if is_stalled else "disconnect")
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._source.aclose()
        if is_stalled:
            _abort(scope)
        elif not body.cancelled() and (error := body.exception()) is not None and not isinstance(error, OSError):
            raise error

    async def _send_events(self, send: Send) -> None:
        await self._send(send, {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for events in self._source:
            if events:
                await self._send(send, {"type": "http.response.body", "body": b"".join(events), "more_body": True})
        await self._send(send, {"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, message: dict[str, Any]) -> None:
        time = asyncio.get_running_loop().time
        self._sending_since = time()
        await send(message)
        self._sending_since = None
        self._last_sent = time()

    async def _send_keep_alives(self, send: Send) -> None:
        """Send keep-alive comments while no events are sent. Returns when the client has stalled."""
        time = asyncio.get_running_loop().time
        self._last_sent = time()
        while True:
            since = self._sending_since
            if since is None:
                wait = self._last_sent + self._ping_interval - time()
                if wait <= 0:
                    try:
                        async with asyncio.timeout(self._stall_timeout or None):
                            await send({"type": "http.response.body", "body": _KEEP_ALIVE, "more_body": True})
                    except TimeoutError:
                        return
                    self._last_sent = time()
                    continue
            elif self._stall_timeout:
                wait = since + self._stall_timeout - time()
                if wait <= 0:
                    return
            else:
                wait = self._ping_interval
            # Nothing wakes this task when a write begins, so it wakes itself often enough to notice both timeouts.
            await asyncio.sleep(max(0.01, min(wait, self._stall_timeout / 4 or wait, self._ping_interval)))


def _abort(scope: Scope) -> None:
    """Drop the connection and its write buffer, which nobody will read."""
    abort: Callable[[], None] | None = scope.get("extensions", {}).get("headrace", {}).get("abort")
    if abort is None:
        raise TimeoutError("the client takes no more data")  # the server closes the connection of a failed response
    abort()
