"""The HTTP/1.1 protocol of a connection: uvicorn's, with bounds, and so that no client can leave unnoticed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
from typing import Any, Literal, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from headrace.server.http.errors import ApiError

__all__ = ["Connection", "make_room"]

_logger = logging.getLogger("headrace.server")

# Bytes of a request's line and headers, and how many headers there may be.
_MAX_HEAD = 32 * 1024
_MAX_HEADERS = 100
# Seconds that the head of a request may take, and for which its body may stand still.
_PATIENCE = 30.0
# Seconds for which one whose request was refused may go on sending it; cut off sooner, it would not see why.
_LINGER = 2.0
# Bytes of requests that a client may send ahead of an answer.
_MAX_AHEAD = 64 * 1024

# What may wait for a client that does not read, in bytes: so little, that its stream soon feels it.
_SEND_BUFFER = 32 * 1024  # the system's; Linux makes it twice as much
_WRITE_BUFFER = 16 * 1024  # ours
# The system's where a client shall get what is left although this process is about to end.
_LAST_SEND_BUFFER = 1024 * 1024
# Seconds after which an idle client is asked whether it is still there, and between two such questions.
_KEEPALIVE = (30, 10)


class Connection(HttpToolsProtocol):
    """One client's connection.

    What uvicorn's protocol does not do: a client that stops reading is felt after little more than a hundred
    kilobytes; heads are bounded in size and time; what is no HTTP gets an error in JSON; and the end of a connection is
    seen at once, also behind requests that were sent ahead. Those are kept here unparsed, so that reading never has to
    be paused while an answer is on its way: a paused socket does not tell that its other end has gone.

    Args:
        stall_timeout: seconds for which the client may take nothing; 0 for no limit.
        kwargs: uvicorn's.
    """

    def __init__(self, *, stall_timeout: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._stall_timeout = stall_timeout
        self._running: RequestResponseCycle | None = None  # whose answer is on its way, or was the last
        self._ahead = bytearray()
        self._stage: Literal["between", "head", "body"] = "between"  # where in a request the client is
        self._fed = 0  # bytes of this request that came
        self._head_size = 0  # bytes of its head that were parsed
        self._refusal: ApiError | None = None
        self._is_refused = False
        self._awaited_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_answering(self) -> bool:
        """Whether an answer is on its way."""
        running = self._running
        return running is not None and not running.more_body and not running.response_complete

    # From the transport.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody is there."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=_WRITE_BUFFER)
        _bound(transport.get_extra_info("socket"), self._stall_timeout)
        self._await()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is there any more: tell it to the request that is being answered, not only to the last that came."""
        running = self._running
        if running is not None and not running.response_complete:
            running.disconnected = True
            running.message_event.set()
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def eof_received(self) -> None:
        """The client sends no more, which is all that one learns of most that leave: so it has left."""
        if self._running is not None and not self._running.response_complete:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Some bytes of a request, or of several."""
        if self._is_refused:
            return
        if self.is_answering:
            self._keep(data)
            return
        self._unset_keepalive_if_required()
        self._fed += len(data)
        try:
            self._parse(data)
        except httptools.HttpParserError as error:
            self._refuse(self._refusal or _not_http(error))
        else:
            self._received()

    def _parse(self, data: bytes) -> None:
        assert self.parser is not None
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self.parser.get_method() == b"CONNECT":
                raise httptools.HttpParserError("CONNECT is for proxies") from None
            if not self._should_upgrade():
                self._parse(self._without_upgrade() + data[upgrade.args[0] :])
            elif self.is_answering:
                self.transport.abort()  # a WebSocket that is asked for before an answer has come
            else:
                self.handle_websocket_upgrade()

    def _without_upgrade(self) -> bytes:
        """The head of a request that asks for a protocol that is not spoken here, as if it did not, for a new parser.

        The old one takes everything that follows, a body too, for that protocol. Java's HttpClient asks like that.
        """
        assert self.parser is not None
        head = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        headers = [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return b"".join([head, *headers, b"\r\n"])

    # From the parser.

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._stage = "head"
        self._head_size = 0
        cast("dict[str, Any]", self.scope)["extensions"] = {"headrace": {"abort": self.transport.abort}}

    def on_url(self, url: bytes) -> None:
        """A part of its line."""
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or what stands after a body in chunks and says nothing here."""
        if self._stage == "head":
            super().on_header(name, value)
            self._count(len(name) + len(value) + 4)

    def on_headers_complete(self) -> None:
        """Its head is there."""
        assert self.parser is not None
        if not self.parser.should_upgrade() or self._should_upgrade():
            super().on_headers_complete()
        self._stage = "body"

    def on_message_complete(self) -> None:
        """All of it is there."""
        assert self.parser is not None
        if not self.parser.should_upgrade() or self._should_upgrade():
            super().on_message_complete()
        self._stage = "between"
        self._fed = 0
        self._awaited_since = None

    # From the request that is being answered.

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """The answer was written: on to the next request, if there is one."""
        super().on_response_complete()
        ahead = bytes(self._ahead)
        self._ahead.clear()
        if self.transport.is_closing():
            return
        if ahead:
            self.data_received(ahead)
        elif self._stage != "between":
            self._received()

    # What follows from it.

    def _keep(self, data: bytes) -> None:
        self._ahead += data
        if len(self._ahead) > _MAX_AHEAD:
            self.transport.abort()

    def _received(self) -> None:
        if self.is_answering:
            self._awaited_since = None
        elif self._stage == "head" and self._fed > _MAX_HEAD:
            self._refuse(_too_large())
        elif self._stage == "body" or (self._stage == "head" and self._awaited_since is None):
            self._await()
        elif self._stage == "between" and self._running is not None and self.timeout_keep_alive_task is None:
            # The request was answered before all of it was there; only now it may be followed by another.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _count(self, size: int) -> None:
        self._head_size += size
        if self._head_size > _MAX_HEAD or len(self.headers) > _MAX_HEADERS:
            self._refusal = _too_large()
            raise ValueError("the head is too large")  # ends the parser's work

    def _refuse(self, error: ApiError) -> None:
        """Answer what cannot be handed to the app, and close; an answer that is on its way goes first, and alone."""
        self._is_refused = True  # nothing more is read of it
        running = self._running
        if self.is_answering and running is not None:
            running.keep_alive = False
            return
        if running is not None and not running.response_complete:  # a body that is garbage
            running.disconnected = True
            running.message_event.set()
            if running.response_started:
                self.transport.abort()
                return
        fields = {"status": error.status, "code": error.code}
        _logger.info("refused", extra={"fields": fields})
        body = error.json()
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[error.status] + head + body)
        self.transport.write_eof()
        self._close_in(_LINGER)

    # Time.

    def _close_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, self.transport.close)

    def _await(self) -> None:
        """From now on, the client owes us the rest of a request."""
        self._awaited_since = self.loop.time()
        if self._timer is None:
            self._timer = self.loop.call_later(_PATIENCE, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._awaited_since is None:
            return
        left = self._awaited_since + _PATIENCE - self.loop.time()
        if left <= 0 and not self.transport.is_closing():
            self.transport.abort()
        elif left > 0:
            self._timer = self.loop.call_later(left, self._look)


def make_room(transport: asyncio.Transport) -> None:
    """Let the system take what is still to be written, so that it arrives although nobody reads it yet."""
    sock = transport.get_extra_info("socket")
    if sock is not None and not transport.is_closing():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LAST_SEND_BUFFER)


def _bound(sock: socket.socket | None, stall_timeout: float) -> None:
    """Set what the system shall do for a connection."""
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    options = [
        (socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    ]
    if sys.platform == "linux":
        options.append((socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE[0]))
        options.append((socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE[1]))
        if stall_timeout:  # a little later than we ourselves, who know better why
            milliseconds = min(int((stall_timeout + 5) * 1000), 2**31 - 1)
            options.append((socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds))
    with contextlib.suppress(OSError):  # it may have been closed already
        for level, option, value in options:
            sock.setsockopt(level, option, value)


def _too_large() -> ApiError:
    message = f"the head of the request is too large; allowed: {_MAX_HEAD} bytes, {_MAX_HEADERS} headers"
    return ApiError(431, message, code="head_too_large")


def _not_http(error: httptools.HttpParserError) -> ApiError:
    reason = "" if isinstance(error, httptools.HttpParserCallbackError) else f": {error}"
    return ApiError(400, f"this is no request of HTTP/1.1 that can be read{reason}", code="invalid_http")
