"""The app: all routes, and what stands before them."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

import headrace
from headrace.model import AsyncModel, Model
from headrace.server.chat import chat_router
from headrace.server.completions import completions_router
from headrace.server.endpoint import error_response
from headrace.server.errors import ApiError
from headrace.server.models import models_router
from headrace.server.operations import operations_router
from headrace.server.service import Service
from headrace.server.settings import Settings
from headrace.server.streams import streams_router

__all__ = ["app_of", "create_app"]


def create_app(models: Mapping[str, Model | AsyncModel], settings: Settings | None = None) -> FastAPI:
    """An app that serves these models, for uvicorn or any other ASGI server.

    Args:
        models: the models by the names that clients use; whoever loaded them closes them.
        settings: how to behave; None takes the defaults and the `HEADRACE_*` variables.
    """
    service = Service(settings or Settings())
    for name, model in models.items():
        service.add(name, model)
    return app_of(service)


def app_of(service: Service) -> FastAPI:
    """The app of a service."""
    app = FastAPI(title="headrace", version=headrace.__version__)
    for make_router in (chat_router, completions_router, models_router, streams_router, operations_router):
        app.include_router(make_router(service))
    app.add_exception_handler(HTTPException, _http_error)
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


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path[:200]}: {error.detail}"
    return error_response(ApiError(error.status_code, message, code="not_found" if error.status_code == 404 else None))
