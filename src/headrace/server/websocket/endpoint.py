"""`/ws`: many streams on one WebSocket, each at the pace of the socket, and within the window that its client gave."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import logging
import secrets
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from headrace.api.caller import Caller
from headrace.api.job import Job
from headrace.server.http.errors import ApiError, as_api_error, error_response
from headrace.server.http.request_ids import check_id
from headrace.server.serving.generation import Generation
from headrace.server.serving.service import Service
from headrace.server.serving.settings import Settings
from headrace.server.websocket.wire import Cancel, Generate, Proceed, Reply, Session, Start
from headrace.values.checks import as_float
from headrace.values.errors import HeadraceError
from headrace.values.results import GenerationResult

__all__ = ["LISTENS", "websocket_router"]

_logger = logging.getLogger("headrace.server")

# In a `websocket.disconnect`: the client has said Close, but goes on listening until the app closes the socket.
LISTENS = "headrace.listens"

# What browsers offer as subprotocols, since they can send a key in no other way: this, and the key in base64url.
_SUBPROTOCOL = "headrace"
_KEY_SUBPROTOCOL = "headrace.key."
# Tokens that a stream sends before it lets others have their turn.
_TURN = 32
# How streams end whose unread tokens are of no use any more; None is a failure.
_CUT_SHORT = (None, "cancelled", "timeout")


def websocket_router(service: Service) -> APIRouter:
    """The route, to be included in an app."""
    router = APIRouter()
    endpoint: Any = _Endpoint(service)  # an ASGI app, which this takes as well
    router.add_websocket_route("/ws", endpoint, name="websocket")
    return router


class _Endpoint:
    """The route as an ASGI app.

    Args:
        service: what is behind it.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Carry one socket from its handshake to its end."""
        with contextlib.suppress(OSError):  # the client left during the handshake
            socket = await self._accept(scope, receive, send)
            if socket is not None and await socket.carry() == "stall":
                abort: Callable[[], None] | None = scope.get("extensions", {}).get("headrace", {}).get("abort")
                if abort is not None:
                    abort()  # with what waits in the buffer: nobody will read that any more

    async def _accept(self, scope: Scope, receive: Receive, send: Send) -> _Socket | None:
        headers = Headers(scope=scope)
        offered: list[str] = scope.get("subprotocols", [])
        name = headers.get("x-request-id") or f"ws-{secrets.token_hex(8)}"
        key = _key_of(headers, offered)
        await receive()  # the handshake
        try:
            _check_origin(headers, self._service.settings.cors_origins)
            client = self._service.keys.check(key)
            check_id(name)
        except ApiError as error:
            _log_refusal(name[:140], error)
            await _refuse(error, scope, receive, send)
            return None
        answer: dict[str, Any] = {"type": "websocket.accept", "headers": [(b"x-request-id", name.encode())]}
        if _SUBPROTOCOL in offered:
            answer["subprotocol"] = _SUBPROTOCOL
        await send(answer)
        host = scope["client"][0] if scope.get("client") else None
        return _Socket(self._service, name, (client, host), receive, send)


class _Gone(Exception):
    """The client takes no more, since it has left, or the socket was closed."""


@dataclass
class _Relay:
    """One stream on its way from the engine to the socket."""

    ask: Generate
    beginning: asyncio.Task[Generation]
    may_go_on: asyncio.Event = field(default_factory=asyncio.Event)  # it waited for an ack: that came, or the end
    is_cancelled: bool = False

    @property
    def generation(self) -> Generation | None:
        """None until it has begun, and where it could not."""
        beginning = self.beginning
        has_begun = beginning.done() and not beginning.cancelled() and beginning.exception() is None
        return beginning.result() if has_begun else None

    def cancel(self, reason: str) -> None:
        """End it, whatever stage it is in; see `Generation.cancel`."""
        self.is_cancelled = True
        if (generation := self.generation) is not None:
            generation.cancel(reason)
        else:
            self.beginning.cancel()


class _Socket:
    """An accepted WebSocket.

    One task reads from it. One for each stream writes to it; they take turns, in the order in which they come, and none
    reads its stream while it waits for its turn. So a socket that takes nothing pauses all its streams.

    Args:
        service: what is behind it.
        name: what the names of its streams begin with; their own ids follow.
        flow: the client, whose streams take turns with those of other clients in the engine's queue.
        receive: the ASGI channel; the handshake is over.
        send: the same, the other way.
    """

    def __init__(self, service: Service, name: str, flow: Hashable, receive: Receive, send: Send) -> None:
        self._service = service
        self._name = name
        self._flow = flow
        self._receive = receive
        self._send = send
        self._session = Session()
        self._relays: dict[str, _Relay] = {}  # of the session's living streams
        self._tasks: dict[str, asyncio.Task[None]] = {}  # theirs, and of those whose names are not free yet
        self._writing = asyncio.Lock()
        self._sending_since: float | None = None
        self._is_closed = False

    async def carry(self) -> str:
        """Do all there is to do, until the socket is gone: "disconnect", or has taken nothing for too long: "stall"."""
        reading = asyncio.ensure_future(self._read())
        keeping = asyncio.ensure_future(self._keep())
        reason = "disconnect"
        try:
            await asyncio.wait((reading, keeping), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                reason = "stall"
        finally:
            self._is_closed = True
            for relay in self._relays.values():
                relay.cancel(reason)
            tasks = [reading, keeping, *self._tasks.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if not reading.cancelled():
            reading.result()
        return reason

    async def _keep(self) -> None:
        """Return where the socket takes nothing any more."""
        limit = self._service.settings.stall_timeout_ms / 1000
        if not limit:
            await asyncio.get_running_loop().create_future()  # forever
        time = asyncio.get_running_loop().time
        while True:
            since = self._sending_since
            left = limit if since is None else since + limit - time()
            if left <= 0:
                return
            # It is not told when a write begins, so it looks again long before one could have waited for too long.
            await asyncio.sleep(max(0.01, min(left, limit / 4)))

    # What comes.

    async def _read(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "websocket.receive":
                text: str | None = message.get("text")
                with contextlib.suppress(_Gone):  # the next message says so
                    await self._act(text if text is not None else message.get("bytes") or b"")
                await asyncio.sleep(0)  # one that sends a lot at once must not keep the others waiting
            elif message.get(LISTENS):
                self._session.end_input()
                await self._close_if_over()
            else:
                return

    async def _act(self, frame: str | bytes) -> None:
        action = self._session.receive(frame)
        if isinstance(action, Reply):
            if action.error is not None:
                _log_refusal(self._name, action.error)
            await self._write([action.frame])
        elif isinstance(action, Start):
            self._start(action.ask)
        elif isinstance(action, Cancel):
            self._relays[action.id].cancel("request")
        elif isinstance(action, Proceed):
            self._relays[action.id].may_go_on.set()

    def _start(self, ask: Generate) -> None:
        relay = _Relay(ask, asyncio.ensure_future(self._begin(ask, self._tasks.get(ask.id))))
        task = asyncio.ensure_future(self._relay(relay))
        self._relays[ask.id], self._tasks[ask.id] = relay, task
        task.add_done_callback(lambda task: self._tasks.pop(ask.id) if self._tasks[ask.id] is task else None)

    async def _begin(self, ask: Generate, previous: asyncio.Task[None] | None) -> Generation:
        if previous is not None:
            await asyncio.wait((previous,))  # it has said its last word, but may still have its name

        def make_jobs(caller: Caller) -> Sequence[Job]:
            return [ask.job(caller, _limited(ask.settings(), self._service.settings))]

        served = self._service.find(ask.model)
        return await self._service.begin(served, make_jobs, id=f"{self._name}:{ask.id}", flow=self._flow)

    # What goes.

    async def _relay(self, relay: _Relay) -> None:
        """Send one stream, from its first frame to its last; until that has left, the service counts it as living."""
        id, session = relay.ask.id, self._session
        try:
            try:
                last = session.done(id, await self._send_tokens(relay, await relay.beginning))
            except asyncio.CancelledError:
                if not relay.is_cancelled or self._is_closed:
                    raise
                last = session.done(id, GenerationResult("", "cancelled"))  # it never began
            except _Gone:
                relay.cancel("disconnect")
                return
            except Exception as error:
                last = session.failed(id, self._failure(relay, error))
            del self._relays[id]
            with contextlib.suppress(_Gone):
                await self._write([last])
        finally:
            generation = relay.generation
            ending = None if generation is None else generation.end()
        await self._close_if_over(is_stopping=generation is not None and generation.cancelled_by == "shutdown")
        if ending is not None:
            await asyncio.wait((ending,))

    async def _send_tokens(self, relay: _Relay, generation: Generation) -> GenerationResult:
        """Send a stream's tokens as long as they are wanted; what it ended with."""
        id, session, stream = relay.ask.id, self._session, generation.streams[0]
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
                limit = _TURN if room is None else min(room, _TURN)
                tokens = await stream.read(limit)
                await self._write(session.tokens(id, tokens))
                if len(tokens) == _TURN:
                    await asyncio.sleep(0)  # there may be more, but others may have some, too
        finally:
            if ending is not None:
                ending.cancel()
        result = await stream.result()
        if generation.cancelled_by is not None and not stream.is_read:
            # Whatever the engine says: this client does not get all of it.
            result = dataclasses.replace(result, finish_reason="cancelled")
            generation.outcome = "cancelled"
        return result if generation.cancelled_by == "request" else generation.checked(result)

    async def _wait_for_ack(self, relay: _Relay, *, is_generated: bool) -> None:
        limit: float = _limited(relay.ask.settings(), self._service.settings)["stall_timeout_ms"]
        relay.may_go_on.clear()
        try:
            # While it runs, the engine keeps the time.
            async with asyncio.timeout(limit / 1000 if limit and is_generated else None):
                await relay.may_go_on.wait()
        except TimeoutError:
            message = f"the stream spent more than {limit:.15g} ms waiting for an ack (stall_timeout_ms)"
            raise ApiError(504, message, type="timeout_error", code="timeout") from None

    def _failure(self, relay: _Relay, error: Exception) -> ApiError:
        """What the client is told of an error, which is also noted or logged."""
        if isinstance(error, HeadraceError):
            error = as_api_error(error, relay.ask.names)
        elif not isinstance(error, ApiError):
            _logger.error("unexpected", exc_info=error)
            error = ApiError(500, "the server failed", type="server_error", code="internal_error")
        if (generation := relay.generation) is not None:
            generation.error = error
        else:
            _log_refusal(f"{self._name}:{relay.ask.id}", error)
        return error

    async def _write(self, frames: Sequence[str]) -> None:
        """Send frames when it is this task's turn.

        Raises:
            _Gone: they can no longer be sent.
        """
        async with self._writing:
            for frame in frames:
                if self._is_closed:
                    raise _Gone
                await self._send_now({"type": "websocket.send", "text": frame})

    async def _close_if_over(self, *, is_stopping: bool = False) -> None:
        """Close the socket where all was said: the client has no more questions, or the server stops."""
        if self._session.has_live or self._is_closed or not (is_stopping or not self._session.has_input):
            return
        code, reason = (1012, "the server is shutting down") if is_stopping else (1000, "")
        async with self._writing:
            if not self._is_closed:
                self._is_closed = True
                with contextlib.suppress(_Gone):
                    await self._send_now({"type": "websocket.close", "code": code, "reason": reason})

    async def _send_now(self, message: dict[str, Any]) -> None:
        self._sending_since = asyncio.get_running_loop().time()
        try:
            await self._send(message)
        except (OSError, RuntimeError) as error:
            # The latter where the ASGI server has closed the socket by itself, for one because no pong came.
            raise _Gone from error
        finally:
            self._sending_since = None


def _limited(changes: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """The settings of a stream, which may not take more time than the server gives to any."""
    for name, most in (("timeout_ms", settings.timeout_ms), ("stall_timeout_ms", settings.stall_timeout_ms)):
        if name not in changes:
            changes[name] = most
        elif most:
            as_float(name, changes[name], 0, most, above=True)
    return changes


def _key_of(headers: Headers, offered: Sequence[str]) -> str | None:
    """The API key, from the header, or from a subprotocol that was offered."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    for subprotocol in offered:
        if subprotocol.startswith(_KEY_SUBPROTOCOL):
            encoded = subprotocol.removeprefix(_KEY_SUBPROTOCOL)
            with contextlib.suppress(ValueError):
                return base64.b64decode(encoded + "=" * (-len(encoded) % 4), b"-_", validate=True).decode()
    return None


def _check_origin(headers: Headers, allowed: Sequence[str]) -> None:
    """Keep out the pages of other sites: browsers ask nobody before they open a WebSocket to another origin."""
    origin, host = headers.get("origin"), headers.get("host", "").lower()
    if origin is None or origin in allowed or "*" in allowed:
        return
    if origin.lower() not in (f"http://{host}", f"https://{host}"):
        message = f"Origin is {origin[:200]!r}; allowed: this server's own, and those that it was told to let in"
        raise ApiError(403, message, param="Origin", code="origin_not_allowed")


async def _refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    if "websocket.http.response" in scope.get("extensions", {}):
        await error_response(error)(scope, receive, send)
    else:
        await send({"type": "websocket.close"})  # before it was accepted this is a 403


def _log_refusal(id: str, error: ApiError) -> None:
    # Without the message, which may show a part of a prompt.
    fields = {"id": id, "path": "/ws", "status": error.status, "code": error.code, "param": error.known_param}
    _logger.info("refused", extra={"fields": fields})
