"""Routes for operators: `/health`, `/ready` and `/metrics`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from headrace.server.http.routes import router_of
from headrace.server.serving.service import Service

__all__ = ["operations_router"]


def operations_router(service: Service) -> APIRouter:
    """Returns the routes, to be included in an app."""
    router = APIRouter()
    open_to_all, guarded = router_of(service.keys, "Operations", guarded=False), router_of(service.keys, "Operations")

    @open_to_all.get("/health")
    async def health() -> dict[str, str]:  # pyright: ignore[reportUnusedFunction]
        """Answers while the process is alive."""
        return {"status": "ok"}

    @open_to_all.get(
        "/ready", responses={503: {"description": "No model is loaded yet, or the server is shutting down."}}
    )
    async def ready() -> Response:  # pyright: ignore[reportUnusedFunction]
        """Answers with 200 if requests are served, otherwise with 503."""
        status: dict[str, Any] = {"status": "ready" if service.is_ready else service.state}
        return JSONResponse(status, 200 if service.is_ready else 503)

    @guarded.get("/metrics")
    async def metrics() -> Response:  # pyright: ignore[reportUnusedFunction]
        """Returns counters, gauges and histograms in Prometheus' text format."""
        content, media_type = service.exposition()
        return Response(content, headers={"Content-Type": media_type})

    router.include_router(open_to_all)
    router.include_router(guarded)
    return router
