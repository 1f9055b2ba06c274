"""Server-sent events over ASGI: one write per step of the engine, at the pace of the socket, until somebody leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from headrace.server.http.disconnect import until_disconnect

__all__ = ["EventStream", "Source", "event"]

Source = AsyncGenerator[Sequence[bytes], None]

# One line break, not two: a blank line after it would make clients that have seen an `id:` dispatch an empty event.
_PING = b": ping\n"


def event(data: str | bytes, *, name: str | None = None) -> bytes:
    """One event with this JSON as its data."""
    text = data.encode() if isinstance(data, str) else data
    return b"event: %b\ndata: %b\n\n" % (name.encode(), text) if name else b"data: %b\n\n" % text


class EventStream(Response):
    """An ASGI response that sends events as they come.

    The headers leave at once. Where the socket takes no more, `source` is not asked for more, so that whatever feeds it
    feels the pace of the client.

    Args:
        source: the events, a batch for each write; closed when the response is over.
        on_leave: told "disconnect" or "stall" where the client was gone before the last event.
        headers: more headers.
        ping_interval: seconds without an event after which a comment is sent.
        stall_timeout: seconds for which the client may take nothing, before the connection is cut; 0 for no limit.
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
        """Send it all."""
        keeper = asyncio.ensure_future(self._keep(send))
        body = asyncio.ensure_future(self._send_all(send))
        leaving = asyncio.ensure_future(until_disconnect(receive))
        tasks = (body, keeper, leaving)
        is_stalled = False
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            is_stalled = keeper.done() and not body.done()
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

    async def _send_all(self, send: Send) -> None:
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

    async def _keep(self, send: Send) -> None:
        """Send comments while nothing else is sent; return where the client takes nothing any more."""
        time = asyncio.get_running_loop().time
        self._last_sent = time()
        while True:
            since = self._sending_since
            if since is None:
                wait = self._last_sent + self._ping_interval - time()
                if wait <= 0:
                    try:
                        async with asyncio.timeout(self._stall_timeout or None):
                            await send({"type": "http.response.body", "body": _PING, "more_body": True})
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
            # It is not told when a write begins, so it looks again before either time could have passed unseen.
            await asyncio.sleep(max(0.01, min(wait, self._stall_timeout / 4 or wait, self._ping_interval)))


def _abort(scope: Scope) -> None:
    """Drop the connection with what waits in its buffer: nobody will read that any more."""
    abort: Callable[[], None] | None = scope.get("extensions", {}).get("headrace", {}).get("abort")
    if abort is None:
        raise TimeoutError("the client takes nothing any more")  # the server closes the connection of a failed response
    abort()
