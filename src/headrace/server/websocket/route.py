"""`websocket_router`: the route `/ws`."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from headrace.server.http.errors import ApiError
from headrace.server.http.request_ids import check_id
from headrace.server.serving.service import Service
from headrace.server.websocket.handshake import SUBPROTOCOL, check_origin, key_of, refuse
from headrace.server.websocket.socket import Socket, log_refusal

__all__ = ["websocket_router"]


def websocket_router(service: Service) -> APIRouter:
    """Returns the route `/ws`, to be included in an app."""
    router = APIRouter()
    endpoint: Any = _Endpoint(service)  # an ASGI app, which `add_websocket_route` accepts too
    router.add_websocket_route("/ws", endpoint, name="websocket")
    return router


class _Endpoint:
    """The route as an ASGI app.

    Args:
        service: the models and the generations.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one socket from its handshake to its end."""
        with contextlib.suppress(OSError):  # the client left during the handshake
            socket = await self._accept(scope, receive, send)
            if socket is not None and await socket.run() == "stall":
                abort: Callable[[], None] | None = scope.get("extensions", {}).get("headrace", {}).get("abort")
                if abort is not None:
                    abort()  # drops the write buffer too, which nobody will read

    async def _accept(self, scope: Scope, receive: Receive, send: Send) -> Socket | None:
        headers = Headers(scope=scope)
        offered: list[str] = scope.get("subprotocols", [])
        name = headers.get("x-request-id") or f"ws-{secrets.token_hex(8)}"
        key = key_of(headers, offered)
        await receive()  # the handshake
        try:
            check_origin(headers, self._service.settings.cors_origins)
            client = self._service.keys.check(key)
            check_id(name)
        except ApiError as error:
            log_refusal(name[:140], error)
            await refuse(error, scope, receive, send)
            return None
        answer: dict[str, Any] = {"type": "websocket.accept", "headers": [(b"x-request-id", name.encode())]}
        if SUBPROTOCOL in offered:
            answer["subprotocol"] = SUBPROTOCOL
        await send(answer)
        host = scope["client"][0] if scope.get("client") else None
        return Socket(self._service, name, (client, host), receive, send)
