"""`Socket`: an accepted WebSocket. It reads the client's frames, and sends the tokens of many streams."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Receive, Send

from headrace.api.caller import Caller
from headrace.api.job import Job
from headrace.server.http.errors import ApiError, as_api_error
from headrace.server.serving.generation import Generation
from headrace.server.serving.service import Service
from headrace.server.serving.settings import Settings
from headrace.server.websocket.frames import Generate
from headrace.server.websocket.session import Cancel, Proceed, Reply, Session, Start
from headrace.values.checks import as_float
from headrace.values.errors import HeadraceError
from headrace.values.results import GenerationResult

__all__ = ["CLIENT_LISTENS", "Socket", "log_refusal"]

_logger = logging.getLogger("headrace.server")

# A key in a `websocket.disconnect` message: the client has sent a Close, but listens until the app closes the socket.
CLIENT_LISTENS = "headrace.listens"

# Tokens that a stream sends before the other streams get their turn.
_MAX_TOKENS_PER_TURN = 32
# Finish reasons of streams whose unread tokens are dropped. None stands for a failure.
_CUT_SHORT = (None, "cancelled", "timeout")


class _SocketClosedError(Exception):
    """No frame can be sent any more: the client has left, or the socket is closed."""


@dataclass
class _Relay:
    """Sends the tokens of one stream from the engine to the socket.

    Attributes:
        request: the client's `generate` frame.
        beginning: the task that starts the generation.
        may_go_on: set when the relay should stop waiting for an ack: an ack came, or the stream ended.
        is_cancelled: whether `cancel` was called.
    """

    request: Generate
    beginning: asyncio.Task[Generation]
    may_go_on: asyncio.Event = field(default_factory=asyncio.Event)
    is_cancelled: bool = False

    @property
    def generation(self) -> Generation | None:
        """The generation; None if it has not begun, or could not begin."""
        beginning = self.beginning
        has_begun = beginning.done() and not beginning.cancelled() and beginning.exception() is None
        return beginning.result() if has_begun else None

    def cancel(self, reason: str) -> None:
        """Cancel the stream, whether it has begun or not; see `Generation.cancel`."""
        self.is_cancelled = True
        if (generation := self.generation) is not None:
            generation.cancel(reason)
        else:
            self.beginning.cancel()


class Socket:
    """An accepted WebSocket.

    One task reads frames. For each stream, one task writes frames. The writing tasks take turns in the order in which
    they ask. A task that waits for its turn does not read from its stream. So a socket that takes no more data pauses
    all its streams.

    Args:
        service: the models and the generations.
        name: the socket's id. A stream's request id is this name and the stream's own id.
        flow: the client's flow in the engine's fair queue, which all its streams share.
        receive: the ASGI channel from the client, after the handshake.
        send: the ASGI channel to the client.
    """

    def __init__(self, service: Service, name: str, flow: Hashable, receive: Receive, send: Send) -> None:
        self._service = service
        self._name = name
        self._flow = flow
        self._receive = receive
        self._send = send
        self._session = Session()
        self._relays: dict[str, _Relay] = {}  # of the session's live streams
        self._tasks: dict[str, asyncio.Task[None]] = {}  # of these, and of ended streams whose ids are still in use
        self._writing = asyncio.Lock()
        self._sending_since: float | None = None
        self._is_closed = False

    async def run(self) -> str:
        """Serve the socket to its end.

        Returns:
            "disconnect", or "stall" if the client took no data for too long.
        """
        reading = asyncio.ensure_future(self._read())
        watching = asyncio.ensure_future(self._wait_for_stall())
        reason = "disconnect"
        try:
            await asyncio.wait((reading, watching), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                reason = "stall"
        finally:
            self._is_closed = True
            for relay in self._relays.values():
                relay.cancel(reason)
            tasks = [reading, watching, *self._tasks.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if not reading.cancelled():
            reading.result()
        return reason

    async def _wait_for_stall(self) -> None:
        """Return when a write has waited for longer than the stall timeout."""
        limit = self._service.settings.stall_timeout_ms / 1000
        if not limit:
            await asyncio.get_running_loop().create_future()  # forever
        time = asyncio.get_running_loop().time
        while True:
            since = self._sending_since
            left = limit if since is None else since + limit - time()
            if left <= 0:
                return
            # Nothing wakes this task when a write begins, so it wakes itself often enough to notice a stall.
            await asyncio.sleep(max(0.01, min(left, limit / 4)))

    # Frames of the client.

    async def _read(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "websocket.receive":
                text: str | None = message.get("text")
                with contextlib.suppress(_SocketClosedError):  # the next message will be the disconnect
                    await self._act(text if text is not None else message.get("bytes") or b"")
                await asyncio.sleep(0)  # a client that sends many frames at once must not hold up the others
            elif message.get(CLIENT_LISTENS):
                self._session.end_input()
                await self._close_if_over()
            else:
                return

    async def _act(self, frame: str | bytes) -> None:
        action = self._session.receive(frame)
        if isinstance(action, Reply):
            if action.error is not None:
                log_refusal(self._name, action.error)
            await self._write([action.frame])
        elif isinstance(action, Start):
            self._start(action.request)
        elif isinstance(action, Cancel):
            self._relays[action.id].cancel("request")
        elif isinstance(action, Proceed):
            self._relays[action.id].may_go_on.set()

    def _start(self, request: Generate) -> None:
        id = request.id
        relay = _Relay(request, asyncio.ensure_future(self._begin(request, self._tasks.get(id))))
        task = asyncio.ensure_future(self._relay(relay))
        self._relays[id], self._tasks[id] = relay, task
        task.add_done_callback(lambda task: self._tasks.pop(id) if self._tasks[id] is task else None)

    async def _begin(self, request: Generate, previous: asyncio.Task[None] | None) -> Generation:
        if previous is not None:
            await asyncio.wait((previous,))  # an earlier stream has sent its last frame, but may still use the id

        def make_jobs(caller: Caller) -> Sequence[Job]:
            return [request.job(caller, _limited(request.settings(), self._service.settings))]

        served = self._service.find(request.model)
        return await self._service.begin(served, make_jobs, id=f"{self._name}:{request.id}", flow=self._flow)

    # Frames of the server.

    async def _relay(self, relay: _Relay) -> None:
        """Send a stream's frames. The service counts the stream as running until its last frame is sent."""
        id, session = relay.request.id, self._session
        try:
            try:
                last = session.done(id, await self._send_tokens(relay, await relay.beginning))
            except asyncio.CancelledError:
                if not relay.is_cancelled or self._is_closed:
                    raise
                last = session.done(id, GenerationResult("", "cancelled"))  # the generation has never begun
            except _SocketClosedError:
                relay.cancel("disconnect")
                return
            except Exception as error:
                last = session.failed(id, self._api_error(relay, error))
            del self._relays[id]
            with contextlib.suppress(_SocketClosedError):
                await self._write([last])
        finally:
            generation = relay.generation
            ending = None if generation is None else generation.end()
        await self._close_if_over(is_stopping=generation is not None and generation.cancelled_by == "shutdown")
        if ending is not None:
            await asyncio.wait((ending,))

    async def _send_tokens(self, relay: _Relay, generation: Generation) -> GenerationResult:
        """Send a stream's tokens until its end, or until it is cancelled. Returns its result."""
        id, session, stream = relay.request.id, self._session, generation.streams[0]
        generation.on_cancel = relay.may_go_on.set
        await self._write([session.started(id)])
        ending: asyncio.Future[bool] | None = None
        try:
            while generation.cancelled_by is None and not stream.is_read:
                room = session.room(id)
                if room == 0:
                    if ending is None:
                        ending = asyncio.ensure_future(stream.wait_end())
                        ending.add_done_callback(lambda _: relay.may_go_on.set())
                    if ending.done() and stream.finish_reason in _CUT_SHORT:
                        break
                    await self._wait_for_ack(relay, is_generated=ending.done())
                    continue
                limit = _MAX_TOKENS_PER_TURN if room is None else min(room, _MAX_TOKENS_PER_TURN)
                tokens = await stream.read(limit)
                await self._write(session.tokens(id, tokens))
                if len(tokens) == _MAX_TOKENS_PER_TURN:
                    await asyncio.sleep(0)  # more tokens may be waiting; the other streams come first
        finally:
            if ending is not None:
                ending.cancel()
        result = await stream.result()
        if generation.cancelled_by is not None and not stream.is_read:
            # The client does not get all tokens, even if the engine has generated all of them.
            result = dataclasses.replace(result, finish_reason="cancelled")
            generation.outcome = "cancelled"
        return result if generation.cancelled_by == "request" else generation.checked(result)

    async def _wait_for_ack(self, relay: _Relay, *, is_generated: bool) -> None:
        limit: float = _limited(relay.request.settings(), self._service.settings)["stall_timeout_ms"]
        relay.may_go_on.clear()
        try:
            # While the stream runs, the engine applies the stall timeout. After the end, this timeout does.
            async with asyncio.timeout(limit / 1000 if limit and is_generated else None):
                await relay.may_go_on.wait()
        except TimeoutError:
            message = f"the stream spent more than {limit:.15g} ms waiting for an ack (stall_timeout_ms)"
            raise ApiError(504, message, type="timeout_error", code="timeout") from None

    def _api_error(self, relay: _Relay, error: Exception) -> ApiError:
        """Returns the error that the client gets. Stores it in the generation, or logs it if there is none."""
        if isinstance(error, HeadraceError):
            error = as_api_error(error, relay.request.names)
        elif not isinstance(error, ApiError):
            _logger.error("unexpected", exc_info=error)
            error = ApiError(500, "the server failed", type="server_error", code="internal_error")
        if (generation := relay.generation) is not None:
            generation.error = error
        else:
            log_refusal(f"{self._name}:{relay.request.id}", error)
        return error

    async def _write(self, frames: Sequence[str]) -> None:
        """Wait for this task's turn, then send frames.

        Raises:
            _SocketClosedError: the frames can no longer be sent.
        """
        async with self._writing:
            for frame in frames:
                if self._is_closed:
                    raise _SocketClosedError
                await self._send_message({"type": "websocket.send", "text": frame})

    async def _close_if_over(self, *, is_stopping: bool = False) -> None:
        """Close the socket if no stream runs, and the client sends no more or the server is stopping."""
        if self._session.has_live or self._is_closed or not (is_stopping or not self._session.has_input):
            return
        code, reason = (1012, "the server is shutting down") if is_stopping else (1000, "")
        async with self._writing:
            if not self._is_closed:
                self._is_closed = True
                with contextlib.suppress(_SocketClosedError):
                    await self._send_message({"type": "websocket.close", "code": code, "reason": reason})

    async def _send_message(self, message: dict[str, Any]) -> None:
        self._sending_since = asyncio.get_running_loop().time()
        try:
            await self._send(message)
        except (OSError, RuntimeError) as error:
            # RuntimeError: the ASGI server has closed the socket itself, for example because no pong came.
            raise _SocketClosedError from error
        finally:
            self._sending_since = None


def _limited(changes: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Returns a stream's settings with the server's deadlines as defaults and as upper limits."""
    for name, most in (("timeout_ms", settings.timeout_ms), ("stall_timeout_ms", settings.stall_timeout_ms)):
        if name not in changes:
            changes[name] = most
        elif most:
            as_float(name, changes[name], 0, most, above=True)
    return changes


def log_refusal(id: str, error: ApiError) -> None:
    """Log that a handshake or a frame was refused, without the message, which may quote a prompt."""
    fields = {"id": id, "path": "/ws", "status": error.status, "code": error.code, "param": error.known_param}
    _logger.info("refused", extra={"fields": fields})
