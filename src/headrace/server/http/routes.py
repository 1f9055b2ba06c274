"""`Route` and `router_of`: routes whose responses carry the request's id, and whose errors are JSON."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from headrace.server.http.api_keys import Keys
from headrace.server.http.errors import ApiError, ErrorBody, error_response
from headrace.server.http.request_ids import check_id, id_of

__all__ = ["Route", "router_of"]

_logger = logging.getLogger("headrace.server")
_ERRORS: dict[int | str, dict[str, Any]] = {"4XX": {"model": ErrorBody}, "5XX": {"model": ErrorBody}}


class Route(APIRoute):
    """A route whose responses carry the request's id, and whose errors are JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Returns the route's endpoint, wrapped."""
        handle = super().get_route_handler()

        async def handle_with_id(request: Request) -> Response:
            given, id = request.headers.get("x-request-id"), id_of(request)
            request.state.request_id = id
            try:
                if given is not None and request.method == "POST":  # other methods start nothing to name by the id
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


def router_of(keys: Keys, tag: str, *, guarded: bool = True) -> APIRouter:
    """Returns a router whose routes are of the class `Route`.

    Args:
        keys: the server's API keys.
        tag: heading of the routes in the API documentation.
        guarded: whether the routes ask for an API key, where the server has keys.
    """
    dependencies = [Depends(keys.require)] if guarded else []
    return APIRouter(route_class=Route, tags=[tag], dependencies=dependencies, responses=_ERRORS)


def _log_refusal(request: Request, id: str, error: ApiError) -> None:
    # Without the error's message: it may quote the request, and so a prompt.
    path = getattr(request.scope.get("route"), "path", None)
    fields = {"id": id, "path": path, "status": error.status, "code": error.code, "param": error.known_param}
    _logger.info("refused", extra={"fields": fields})
