"""headrace: many streams at once from one local language model, each at its reader's pace."""

from __future__ import annotations

from headrace.config import StreamConfig
from headrace.errors import (
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
from headrace.model import AsyncModel, Context, Model
from headrace.results import GenerationResult, Metrics, Token, Usage
from headrace.stream import AsyncTokenStream, StreamResult, TokenStream
from headrace.text.template import Message

__version__ = "0.1.0"

__all__ = [
    "AsyncModel",
    "AsyncTokenStream",
    "Context",
    "ContextOverflowError",
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
    "QueueFullError",
    "StreamConfig",
    "StreamResult",
    "StreamTimeoutError",
    "Token",
    "TokenStream",
    "Usage",
]
