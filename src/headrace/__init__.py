"""headrace: streams text from local language models with llama.cpp, many streams at once from one model."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from headrace.values.config import StreamConfig
from headrace.values.errors import (
    ContextOverflowError,
    EngineClosedError,
    GenerationError,
    HeadraceError,
    InvalidRequestError,
    ModelLoadError,
    ModelNotFoundError,
    QueueFullError,
    StreamTimeoutError,
)
from headrace.values.pricing import Pricing
from headrace.values.results import GenerationResult, Metrics, Part, Token, ToolCall, ToolCallDelta, Usage
from headrace.values.version import VERSION

if TYPE_CHECKING:
    from headrace.api.context import Context
    from headrace.api.conversation import ConversationManager
    from headrace.api.model import AsyncModel, Model
    from headrace.api.stream import AsyncTokenStream, StreamResult, TokenStream
    from headrace.chat.template import Message
    from headrace.chat.tool_loop import ToolRun

__version__ = VERSION

__all__ = [
    "AsyncModel",
    "AsyncTokenStream",
    "Context",
    "ContextOverflowError",
    "ConversationManager",
    "EngineClosedError",
    "GenerationError",
    "GenerationResult",
    "HeadraceError",
    "InvalidRequestError",
    "Message",
    "Metrics",
    "Model",
    "ModelLoadError",
    "ModelNotFoundError",
    "Part",
    "Pricing",
    "QueueFullError",
    "StreamConfig",
    "StreamResult",
    "StreamTimeoutError",
    "Token",
    "TokenStream",
    "ToolCall",
    "ToolCallDelta",
    "ToolRun",
    "Usage",
]

# Imported on first use, because they import the engine and jinja2, which `headrace --help` does not need.
_LAZY = {
    "AsyncModel": "headrace.api.model",
    "AsyncTokenStream": "headrace.api.stream",
    "Context": "headrace.api.context",
    "ConversationManager": "headrace.api.conversation",
    "Message": "headrace.chat.template",
    "Model": "headrace.api.model",
    "StreamResult": "headrace.api.stream",
    "TokenStream": "headrace.api.stream",
    "ToolRun": "headrace.chat.tool_loop",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_LAZY[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
