"""headrace: many streams at once from one local language model, each at its reader's pace."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

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
from headrace.results import GenerationResult, Metrics, Token, Usage

if TYPE_CHECKING:
    from headrace.model import AsyncModel, Context, Model
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

# Imported when first asked for, because they bring the engine and jinja2: `headrace --help` needs neither.
_LATER = {
    "AsyncModel": "headrace.model",
    "AsyncTokenStream": "headrace.stream",
    "Context": "headrace.model",
    "Message": "headrace.text.template",
    "Model": "headrace.model",
    "StreamResult": "headrace.stream",
    "TokenStream": "headrace.stream",
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_LATER[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
