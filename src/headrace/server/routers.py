"""The routers of all endpoints, to be included in this package's app or in another one."""

from __future__ import annotations

from fastapi import APIRouter

from headrace.server.openai.chat import chat_router
from headrace.server.openai.completions import completions_router
from headrace.server.openai.models import models_router
from headrace.server.openai.responses import responses_router
from headrace.server.operations import operations_router
from headrace.server.serving.service import Service
from headrace.server.streams_by_id import streams_router

__all__ = ["openai_router", "operations_router", "streams_router"]


def openai_router(service: Service) -> APIRouter:
    """Returns OpenAI's endpoints: chat, completions, responses, models."""
    router = APIRouter()
    for make_router in (chat_router, completions_router, responses_router, models_router):
        router.include_router(make_router(service))
    return router
