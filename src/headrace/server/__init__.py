"""The HTTP server: OpenAI-compatible endpoints, a WebSocket and the chat page. Install it with `headrace[server]`."""

from headrace.server.app import create_app
from headrace.server.page import page_router
from headrace.server.routers import openai_router, operations_router, streams_router
from headrace.server.serving.service import Service
from headrace.server.serving.settings import Settings
from headrace.server.websocket.route import websocket_router

__all__ = [
    "Service",
    "Settings",
    "create_app",
    "openai_router",
    "operations_router",
    "page_router",
    "streams_router",
    "websocket_router",
]
