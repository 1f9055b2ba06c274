"""`create_app`: the ASGI app with all routes, the API documentation, CORS and error handlers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from headrace.api.model import AsyncModel, Model
from headrace.server.http.errors import ApiError, error_response
from headrace.server.http.request_ids import id_of
from headrace.server.http.routes import router_of
from headrace.server.page import page_router
from headrace.server.routers import openai_router, operations_router, streams_router
from headrace.server.serving.service import Service
from headrace.server.serving.settings import Settings
from headrace.server.websocket.route import websocket_router
from headrace.values.version import VERSION

__all__ = ["app_of", "create_app"]


def create_app(models: Mapping[str, Model | AsyncModel], settings: Settings | None = None) -> FastAPI:
    """Returns an app that serves these models, for uvicorn or any other ASGI server.

    Args:
        models: the models, by the names that clients use. Closing them is left to whoever loaded them.
        settings: the server's settings; None takes the `HEADRACE_*` variables and the defaults.
    """
    service = Service(settings or Settings())
    for name, model in models.items():
        service.add(name, model)
    return app_of(service)


def app_of(service: Service) -> FastAPI:
    """Returns the app of a service."""
    app = FastAPI(title="headrace", version=VERSION, docs_url=None, redoc_url=None, openapi_url=None)
    for make_router in (openai_router, streams_router, operations_router):
        app.include_router(make_router(service))
    if service.settings.websocket:
        app.include_router(websocket_router(service))
    if service.settings.page:
        app.include_router(page_router(service))
    _add_documentation(app, service)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _internal_error)
    if service.settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=service.settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    app.state.service = service
    return app


def _add_documentation(app: FastAPI, service: Service) -> None:
    # FastAPI's own routes for these pages would not ask for an API key.
    router = router_of(service.keys, "Documentation")

    @router.get("/openapi.json", include_in_schema=False)
    async def openapi() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return app.openapi()

    @router.get("/docs", include_in_schema=False)
    async def docs() -> Response:  # pyright: ignore[reportUnusedFunction]
        return get_swagger_ui_html(openapi_url="openapi.json", title="headrace")

    app.include_router(router)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path[:200]}: {error.detail}"
    code = "not_found" if error.status_code == 404 else None
    headers = {**(error.headers or {}), "X-Request-Id": id_of(request)}
    return error_response(ApiError(error.status_code, message, code=code, headers=headers))


async def _internal_error(request: Request, error: Exception) -> Response:
    # The ASGI server gets the exception too, and logs it.
    headers = {"X-Request-Id": id_of(request)}
    return error_response(
        ApiError(500, "the server failed", type="server_error", code="internal_error", headers=headers)
    )
