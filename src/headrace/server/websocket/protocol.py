"""The protocol of a WebSocket's connection: uvicorn's, but a client that only pipes text in gets its answer."""

from __future__ import annotations

import logging
from typing import Any, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from headrace.server.websocket.endpoint import LISTENS
from headrace.server.websocket.wire import is_plain

__all__ = ["WebSocketConnection"]

# Parts that a message may come in. Their bytes are limited by websockets, which does not count those that have none.
_MAX_PARTS = 16_384
# Bytes of a message that tell whether it is plain text.
_BEGINNING = 256


class WebSocketConnection(WebSocketsSansIOProtocol):
    """One client's WebSocket.

    A Close ends a socket at once, with one exception, for `echo "Hello!" | websocat URL`: whoever has sent nothing but
    plain text, and then a Close that gives no code, has come to the end of a pipe and is still listening. The app is
    told so, and the Close is answered when the app closes the socket.
    """

    conn: _Protocol

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = _Protocol(max_size=self.config.ws_max_size, logger=logging.getLogger("uvicorn.error"))

    def handle_connect(self, event: Request) -> None:
        """The client asks for a WebSocket."""
        super().handle_connect(event)
        if not self.close_sent:
            cast("dict[str, Any]", self.scope)["extensions"]["headrace"] = {"abort": self.transport.abort}

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone, and with it what came of a message."""
        super().connection_lost(exc)
        self.frames = []

    def handle_ping(self) -> None:
        """The client asks whether we are there: one that does not read what we say gets no answers to keep for it."""
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()

    def handle_cont(self, event: Frame) -> None:
        """A further part of a message."""
        super().handle_cont(event)
        if len(self.frames) > _MAX_PARTS:
            self.transport.abort()

    def handle_close(self, event: Frame) -> None:
        """The client says Close."""
        if not self.conn.is_held:
            super().handle_close(event)
            return
        self.stop_keepalive()  # it has said that it says nothing more
        message = {"type": "websocket.disconnect", "code": 1005, "reason": "", LISTENS: True}
        self.queue.put_nowait(cast("Any", message))

    async def send(self, message: Any) -> None:
        """What the app says."""
        if message["type"] == "websocket.close" and self.conn.is_held:
            self.conn.release()
            self.handle_events()
        else:
            await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True  # it was refused, which uvicorn 0.54 would log as a fault of the app


class _Protocol(ServerProtocol):
    """websockets' state machine; it can leave a Close unanswered for a while."""

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
        """A frame has come."""
        if self._held is not None:
            return  # nothing counts after a Close
        if frame.opcode is Opcode.TEXT and is_plain(bytes(frame.data[:_BEGINNING]).decode(errors="replace")):
            self._has_text = True
        elif frame.opcode in (Opcode.TEXT, Opcode.BINARY):
            self._has_other = True
        is_end_of_pipe = self._has_text and not self._has_other and self.current_size is None
        if frame.opcode is Opcode.CLOSE and not frame.data and is_end_of_pipe:
            self._held = frame
            self.events.append(frame)
        else:
            super().recv_frame(frame)
