"""A line to a server that can break in the middle of whatever it carries, and come back."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from harness import PATIENCE

from page.serving import Site


class Line:
    """A TCP line to a server, which can break and come back; it lives on a thread of its own.

    Args:
        to: the server's port.

    Attributes:
        port: where to connect.
    """

    def __init__(self, to: int) -> None:
        self.port = 0
        self._to = to
        self._ends: set[asyncio.StreamWriter] = set()
        self._listening: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.mend()

    def cut(self, *, reset: bool = True) -> None:
        """Break all connections, and refuse new ones until `mend`; by RST, or by FIN as a proxy ends them."""
        self._do(self._cut(reset))

    def mend(self) -> None:
        """Take connections again."""
        self._do(self._listen())

    def close(self) -> None:
        """End it all."""
        self._do(self._cut(reset=True))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    def _do(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE)

    async def _listen(self) -> None:
        self._listening = await asyncio.start_server(self._connect, "127.0.0.1", self.port)
        self.port = self._listening.sockets[0].getsockname()[1]

    async def _cut(self, reset: bool) -> None:
        if self._listening is not None:
            self._listening.close()
        for end in list(self._ends):
            if reset and not end.transport.is_closing():
                end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.transport.abort() if reset else end.close()
        while self._ends:
            await asyncio.sleep(0.001)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        self._ends |= {writer, far_writer}
        try:
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        finally:
            for end in (writer, far_writer):
                end.close()
                self._ends.discard(end)


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Carry bytes until one side ends, and then end the other."""
    try:
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
    except OSError:
        target.transport.abort()
    finally:
        target.close()


@contextmanager
def line(to: Site) -> Iterator[tuple[Line, str]]:
    """A line to a site, and the page's URL over it."""
    one = Line(to.port)
    try:
        yield one, to.url.replace(str(to.port), str(one.port))
    finally:
        one.close()
