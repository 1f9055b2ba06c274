"""A server on a real socket, in a thread of this process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import uvicorn
from harness import PATIENCE

from headrace.server.http.protocol import Connection
from headrace.server.websocket.protocol import WebSocketConnection


@contextmanager
def live(app: Any, *, stall_timeout: float = 60) -> Iterator[int]:
    """Serve an app as `headrace serve` does. Yields the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        access_log=False,
        http=cast("Any", partial(Connection, stall_timeout=stall_timeout)),
        lifespan="off",
        log_config=None,
        ws=WebSocketConnection,
        ws_max_size=2 * 1024 * 1024,
        ws_per_message_deflate=False,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive(), "the server did not stop"
