"""`Connection`: uvicorn's HTTP/1.1 protocol, with limits and small buffers, which notices every disconnect at once."""

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

__all__ = ["Connection", "enlarge_send_buffer"]

_logger = logging.getLogger("headrace.server")

# Limits of a request's head: bytes of its line and headers, and number of headers.
_MAX_HEAD = 32 * 1024
_MAX_HEADERS = 100
# Seconds that the head of a request may take, and for which its body may not move on.
_PATIENCE = 30.0
# Seconds for which a client may go on sending a refused request. Cut off sooner, it would not see the error.
_LINGER = 2.0
# Bytes of further requests that a client may send before an answer is complete.
_MAX_PIPELINED = 64 * 1024

# Bytes that may wait for a client that does not read. Small, so that its stream is soon paused.
_SEND_BUFFER = 32 * 1024  # in the system; Linux doubles it
_WRITE_BUFFER = 16 * 1024  # in this process
# Bytes of the system's buffer when this process is about to end, so that all that is left fits.
_LAST_SEND_BUFFER = 1024 * 1024
# TCP keep-alive: seconds before the first probe of an idle connection, and between two probes.
_TCP_KEEPALIVE = (30, 10)


class Connection(HttpToolsProtocol):
    """One client's connection.

    It adds to uvicorn's protocol:

    - Backpressure begins after little more than a hundred kilobytes that the client has not read.
    - The head of a request is limited in size and time.
    - Bytes that are not HTTP are answered with an error in JSON.
    - A disconnect is noticed at once, even behind pipelined requests. These are kept unparsed, so that reading is never
      paused during an answer: a paused socket does not report that its other end has gone.

    Args:
        stall_timeout: seconds after which a client that takes no data is cut off; 0 for no limit.
        kwargs: arguments of uvicorn's protocol.
    """

    def __init__(self, *, stall_timeout: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._stall_timeout = stall_timeout
        self._running: RequestResponseCycle | None = None  # the request being answered, or the last one answered
        self._pipelined = bytearray()
        self._stage: Literal["between", "head", "body"] = "between"  # the part of a request that the client is sending
        self._num_received = 0  # bytes of this request
        self._head_size = 0  # bytes of its head, as parsed
        self._refusal: ApiError | None = None
        self._is_refused = False
        self._awaited_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_answering(self) -> bool:
        """Whether a request is being answered."""
        running = self._running
        return running is not None and not running.more_body and not running.response_complete

    # Called by the transport.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Set the buffers of a new connection, and begin to wait for a request."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=_WRITE_BUFFER)
        _set_socket_options(transport.get_extra_info("socket"), self._stall_timeout)
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the disconnect to the request being answered. uvicorn reports it only to the last request."""
        running = self._running
        if running is not None and not running.response_complete:
            running.disconnected = True
            running.message_event.set()
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def eof_received(self) -> None:
        """Treat the end of the input as a disconnect, which is the only sign that most leaving clients give."""
        if self._running is not None and not self._running.response_complete:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take bytes of one request or of several."""
        if self._is_refused:
            return
        if self.is_answering:
            self._keep_pipelined(data)
            return
        self._unset_keepalive_if_required()
        self._num_received += len(data)
        try:
            self._parse(data)
        except httptools.HttpParserError as error:
            self._refuse(self._refusal or _not_http(error))
        else:
            self._check_progress()

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
                self.transport.abort()  # a WebSocket handshake behind a request that is not answered yet
            else:
                self.handle_websocket_upgrade()

    def _without_upgrade(self) -> bytes:
        """Replace the parser. Returns the head of a request for an unknown protocol, without its Upgrade header.

        The old parser would take all further bytes, a body too, for that protocol. Java's HttpClient sends such a
        header.
        """
        assert self.parser is not None
        head = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        headers = [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return b"".join([head, *headers, b"\r\n"])

    # Called by the parser.

    def on_message_begin(self) -> None:
        """Begin a request, and give the app a function that aborts the connection."""
        super().on_message_begin()
        self._stage = "head"
        self._head_size = 0
        cast("dict[str, Any]", self.scope)["extensions"] = {"headrace": {"abort": self.transport.abort}}

    def on_url(self, url: bytes) -> None:
        """Count bytes of the request line."""
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count and keep a header; ignore trailers after a chunked body."""
        if self._stage == "head":
            super().on_header(name, value)
            self._count(len(name) + len(value) + 4)

    def on_headers_complete(self) -> None:
        """Go on to the body."""
        assert self.parser is not None
        if not self.parser.should_upgrade() or self._should_upgrade():
            super().on_headers_complete()
        self._stage = "body"

    def on_message_complete(self) -> None:
        """End the request."""
        assert self.parser is not None
        if not self.parser.should_upgrade() or self._should_upgrade():
            super().on_message_complete()
        self._stage = "between"
        self._num_received = 0
        self._awaited_since = None

    # Called by the request that is being answered.

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """Go on to the next request, if the client has sent one."""
        super().on_response_complete()
        ahead = bytes(self._pipelined)
        self._pipelined.clear()
        if self.transport.is_closing():
            return
        if ahead:
            self.data_received(ahead)
        elif self._stage != "between":
            self._check_progress()

    # Limits and refusals.

    def _keep_pipelined(self, data: bytes) -> None:
        self._pipelined += data
        if len(self._pipelined) > _MAX_PIPELINED:
            self.transport.abort()

    def _check_progress(self) -> None:
        if self.is_answering:
            self._awaited_since = None
        elif self._stage == "head" and self._num_received > _MAX_HEAD:
            self._refuse(_too_large())
        elif self._stage == "body" or (self._stage == "head" and self._awaited_since is None):
            self._await_request()
        elif self._stage == "between" and self._running is not None and self.timeout_keep_alive_task is None:
            # The request was answered before its end came. Only now the connection is idle.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _count(self, size: int) -> None:
        self._head_size += size
        if self._head_size > _MAX_HEAD or len(self.headers) > _MAX_HEADERS:
            self._refusal = _too_large()
            raise ValueError("the head is too large")  # stops the parser

    def _refuse(self, error: ApiError) -> None:
        """Answer bytes that cannot be handed to the app with an error, and close.

        If an answer is being sent, the connection is closed behind it, without this error.
        """
        self._is_refused = True  # further bytes are ignored
        running = self._running
        if self.is_answering and running is not None:
            running.keep_alive = False
            return
        if running is not None and not running.response_complete:  # its body is not valid HTTP
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

    # Timers.

    def _close_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, self.transport.close)

    def _await_request(self) -> None:
        """Begin to wait for the rest of a request."""
        self._awaited_since = self.loop.time()
        if self._timer is None:
            self._timer = self.loop.call_later(_PATIENCE, self._check_patience)

    def _check_patience(self) -> None:
        self._timer = None
        if self._awaited_since is None:
            return
        left = self._awaited_since + _PATIENCE - self.loop.time()
        if left <= 0 and not self.transport.is_closing():
            self.transport.abort()
        elif left > 0:
            self._timer = self.loop.call_later(left, self._check_patience)


def enlarge_send_buffer(transport: asyncio.Transport) -> None:
    """Enlarge the system's send buffer, so that all that is still to be written fits, even if nobody reads yet."""
    sock = transport.get_extra_info("socket")
    if sock is not None and not transport.is_closing():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LAST_SEND_BUFFER)


def _set_socket_options(sock: socket.socket | None, stall_timeout: float) -> None:
    """Set the options of a TCP connection."""
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    options = [
        (socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    ]
    if sys.platform == "linux":
        options.append((socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _TCP_KEEPALIVE[0]))
        options.append((socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _TCP_KEEPALIVE[1]))
        if stall_timeout:  # a little later than our own timeout, which can log the reason
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
    return ApiError(400, f"this is not a valid HTTP/1.1 request{reason}", code="invalid_http")
