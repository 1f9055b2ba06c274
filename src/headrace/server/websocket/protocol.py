"""`WebSocketConnection`: uvicorn's WebSocket protocol, which can also answer a client whose input has ended."""

from __future__ import annotations

import logging
from typing import Any, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from headrace.server.websocket.frames import is_plain
from headrace.server.websocket.socket import CLIENT_LISTENS

__all__ = ["WebSocketConnection"]

# WebSocket frames that one message may consist of. websockets limits their bytes, but not the number of empty ones.
_MAX_PARTS = 16_384
# Bytes of a message that are enough to tell whether it is plain text.
_BEGINNING = 256


class WebSocketConnection(WebSocketsSansIOProtocol):
    """One client's WebSocket.

    A Close frame ends the socket at once, with one exception, for `echo "Hello!" | websocat URL`. If a client has sent
    only plain text, and then a Close without a code, its input has ended, but it still listens. The app gets a message
    that says so (`CLIENT_LISTENS`), and the Close is answered when the app closes the socket.
    """

    conn: _Protocol

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = _Protocol(max_size=self.config.ws_max_size, logger=logging.getLogger("uvicorn.error"))

    def handle_connect(self, event: Request) -> None:
        """Pass `abort` to the app, which needs it to close the connection of a stalled client."""
        super().handle_connect(event)
        if not self.close_sent:
            cast("dict[str, Any]", self.scope)["extensions"]["headrace"] = {"abort": self.transport.abort}

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop the parts of an unfinished message."""
        super().connection_lost(exc)
        self.frames = []

    def handle_ping(self) -> None:
        """Answer a ping. A client that does not read gets no pong, because pongs would pile up in the write buffer."""
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()

    def handle_cont(self, event: Frame) -> None:
        """Add a part to a message. Abort the connection if a message has too many parts."""
        super().handle_cont(event)
        if len(self.frames) > _MAX_PARTS:
            self.transport.abort()

    def handle_close(self, event: Frame) -> None:
        """Handle a Close of the client."""
        if not self.conn.is_held:
            super().handle_close(event)
            return
        self.stop_keepalive()  # the client sends no more, so it will not answer pings
        message = {"type": "websocket.disconnect", "code": 1005, "reason": "", CLIENT_LISTENS: True}
        self.queue.put_nowait(cast("Any", message))

    async def send(self, message: Any) -> None:
        """Send a message of the app."""
        if message["type"] == "websocket.close" and self.conn.is_held:
            self.conn.release()
            self.handle_events()
        else:
            await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True  # the handshake was refused; otherwise uvicorn 0.54 logs an error


class _Protocol(ServerProtocol):
    """websockets' state machine, which can hold a Close back before it is answered."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._held: Frame | None = None
        self._has_text = False
        self._has_other = False

    @property
    def is_held(self) -> bool:
        """Whether a Close waits for its answer."""
        return self._held is not None

    def release(self) -> None:
        """Answer the Close."""
        held, self._held = self._held, None
        assert held is not None
        super().recv_frame(held)

    def recv_frame(self, frame: Frame) -> None:
        """Handle a frame. Hold it back if it is a Close of a client that still listens."""
        if self._held is not None:
            return  # frames after a Close are ignored
        if frame.opcode is Opcode.TEXT and is_plain(bytes(frame.data[:_BEGINNING]).decode(errors="replace")):
            self._has_text = True
        elif frame.opcode in (Opcode.TEXT, Opcode.BINARY):
            self._has_other = True
        sent_only_text = self._has_text and not self._has_other and self.current_size is None
        if frame.opcode is Opcode.CLOSE and not frame.data and sent_only_text:
            self._held = frame
            self.events.append(frame)
        else:
            super().recv_frame(frame)
