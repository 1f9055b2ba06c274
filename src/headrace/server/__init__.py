"""The server: the engine behind OpenAI's HTTP endpoints and a WebSocket; install it with `headrace[server]`."""

from headrace.server.app import create_app
from headrace.server.settings import Settings

__all__ = ["Settings", "create_app"]
