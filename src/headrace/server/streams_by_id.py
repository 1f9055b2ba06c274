"""`/v1/streams/{id}`: cancel a generation by its id, or resume a resumable stream."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from headrace.server.http.errors import ApiError
from headrace.server.http.routes import router_of
from headrace.server.serving.exchange import event_stream
from headrace.server.serving.service import Service

__all__ = ["streams_router"]


def streams_router(service: Service) -> APIRouter:
    """Returns the routes, to be included in an app."""
    router = router_of(service.keys, "Streams")

    @router.delete("/v1/streams/{id:path}")
    async def cancel(id: str) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """Cancel the generation of the request with this X-Request-Id. A generation that has ended is left as it is."""
        is_cancelled = service.cancel(id)
        if not is_cancelled and service.event_logs.find(id) is None:
            raise _not_found(id)
        return {"id": id, "object": "stream", "cancelled": is_cancelled}

    @router.get("/v1/streams/{id:path}")
    async def follow(id: str, request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Resume a resumable stream: send the events after Last-Event-ID, and then new events as they come."""
        after = _event_number(request.headers.get("last-event-id", "0"))
        log = service.event_logs.find(id)
        if log is None:
            raise _not_found(id)
        log.check_follow(after)
        return event_stream(service, log.follow(after))

    return router


def _event_number(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        message = f"Last-Event-ID is {text[:100]!r}; allowed: the id of an event of this stream, a whole number"
        raise ApiError(400, message, param="Last-Event-ID", code="invalid_value")
    return int(text)


def _not_found(id: str) -> ApiError:
    message = f"there is no stream {id[:140]!r}; allowed: the id of a running stream, or of a resumable one"
    return ApiError(404, message, param="id", code="stream_not_found")
