"""headrace: many streams at once from one local language model, each at its reader's pace."""

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

if TYPE_CHECKING:
    from headrace.chat.template import Message
    from headrace.chat.tool_loop import ToolRun
    from headrace.conversation import ConversationManager
    from headrace.model import AsyncModel, Context, Model
    from headrace.stream import AsyncTokenStream, StreamResult, TokenStream

__version__ = "0.1.0"

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

# Imported when first asked for, because they bring the engine and jinja2: `headrace --help` needs neither.
_LATER = {
    "AsyncModel": "headrace.model",
    "AsyncTokenStream": "headrace.stream",
    "Context": "headrace.model",
    "ConversationManager": "headrace.conversation",
    "Message": "headrace.chat.template",
    "Model": "headrace.model",
    "StreamResult": "headrace.stream",
    "TokenStream": "headrace.stream",
    "ToolRun": "headrace.chat.tool_loop",
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_LATER[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
