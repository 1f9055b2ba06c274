"""`GET /v1/models`: the served models."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from headrace.server.http.routes import router_of
from headrace.server.openai.answer_schema import Model, ModelList
from headrace.server.serving.served_model import ServedModel
from headrace.server.serving.service import Service

__all__ = ["models_router"]


def models_router(service: Service) -> APIRouter:
    """Returns the routes, to be included in an app."""
    router = router_of(service.keys, "OpenAI")

    @router.get("/v1/models", responses={200: {"model": ModelList}})
    async def models() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """All models."""
        return {"object": "list", "data": [_model(served) for served in service.served.values()]}

    @router.get("/v1/models/{id:path}", responses={200: {"model": Model}})
    async def model(id: str) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """One model."""
        return _model(service.find(id))

    return router


def _model(served: ServedModel) -> dict[str, Any]:
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "headrace",
        "context_length": served.max_tokens,
    }
