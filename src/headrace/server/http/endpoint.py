"""Routes: each response carries the id of its request, and each error is JSON."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from headrace.server.http.errors import ApiError, ErrorBody
from headrace.server.http.keys import Keys

__all__ = ["Route", "check_id", "error_response", "id_of", "router_of"]

_logger = logging.getLogger("headrace.server")
_ID = re.compile(r"[A-Za-z0-9._:=+@-]{1,128}")
_ERRORS: dict[int | str, dict[str, Any]] = {"4XX": {"model": ErrorBody}, "5XX": {"model": ErrorBody}}


class Route(APIRoute):
    """A route whose responses carry the request's id, and whose errors look as the wire wants them."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The route's endpoint, wrapped."""
        handle = super().get_route_handler()

        async def handle_with_id(request: Request) -> Response:
            given, id = request.headers.get("x-request-id"), id_of(request)
            request.state.request_id = id
            try:
                if given is not None and request.method == "POST":  # others start nothing that would have this name
                    check_id(given)
                response = await handle(request)
            except ApiError as error:
                response = error_response(error)
                _log_refusal(request, id, error)
            except ClientDisconnect:
                response = Response(status_code=499)  # nobody will read it
            response.headers["X-Request-Id"] = id
            return response

        return handle_with_id


def check_id(id: str) -> None:
    """Raise ApiError, 400, where this cannot be the id of a request."""
    if _ID.fullmatch(id) is None:
        allowed = "1 to 128 letters, digits and . _ : = + @ -"
        message = f"X-Request-Id is {id[:140]!r}; allowed: {allowed}"
        raise ApiError(400, message, param="X-Request-Id", code="invalid_value")


def id_of(request: Request) -> str:
    """The id that a request came with, if it can be one, or a new one."""
    given = request.headers.get("x-request-id")
    return secrets.token_hex(12) if given is None or _ID.fullmatch(given) is None else given


def router_of(keys: Keys, tag: str, *, guarded: bool = True) -> APIRouter:
    """A router whose routes are of the class `Route`.

    Args:
        keys: the server's.
        tag: its heading in the documentation.
        guarded: whether it asks for an API key, where the server has any.
    """
    dependencies = [Depends(keys.require)] if guarded else []
    return APIRouter(route_class=Route, tags=[tag], dependencies=dependencies, responses=_ERRORS)


def error_response(error: ApiError) -> Response:
    """An error as an HTTP response."""
    return Response(error.json(), error.status, error.headers, "application/json")


def _log_refusal(request: Request, id: str, error: ApiError) -> None:
    # The message may show what was given, and so a part of a prompt: it is for the client alone.
    path = getattr(request.scope.get("route"), "path", None)
    fields = {"id": id, "path": path, "status": error.status, "code": error.code, "param": error.known_param}
    _logger.info("refused", extra={"fields": fields})
