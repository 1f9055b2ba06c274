"""`/v1/streams/{id}`: cancel a generation by name, and come back to a resumable one."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from headrace.server.http.errors import ApiError
from headrace.server.http.routes import router_of
from headrace.server.serving.exchange import event_stream
from headrace.server.serving.service import Service

__all__ = ["streams_router"]


def streams_router(service: Service) -> APIRouter:
    """The routes, to be included in an app."""
    router = router_of(service.keys, "Streams")

    @router.delete("/v1/streams/{id:path}")
    async def cancel(id: str) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """Cancel a generation, by the X-Request-Id of its request; one that has ended stays as it is."""
        is_cancelled = service.cancel(id)
        if not is_cancelled and service.event_logs.find(id) is None:
            raise _not_found(id)
        return {"id": id, "object": "stream", "cancelled": is_cancelled}

    @router.get("/v1/streams/{id:path}")
    async def follow(id: str, request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Follow a resumable stream: what came after the event named in Last-Event-ID, and then what comes."""
        after = _number(request.headers.get("last-event-id", "0"))
        log = service.event_logs.find(id)
        if log is None:
            raise _not_found(id)
        log.check_has(after)
        return event_stream(service, log.follow(after))

    return router


def _number(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        message = f"Last-Event-ID is {text[:100]!r}; allowed: the id of an event of this stream, a whole number"
        raise ApiError(400, message, param="Last-Event-ID", code="invalid_value")
    return int(text)


def _not_found(id: str) -> ApiError:
    message = f"there is no stream {id[:140]!r}; only those that run, or that were asked for as resumable, have a name"
    return ApiError(404, message, param="id", code="stream_not_found")
