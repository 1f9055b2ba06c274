"""`message` and `exit_code`: how the command reports an exception."""

from __future__ import annotations

from headrace.cli.terminal import one_line
from headrace.values.errors import (
    ContextOverflowError,
    HeadraceError,
    InvalidRequestError,
    ModelLoadError,
    ModelNotFoundError,
    StreamTimeoutError,
)

__all__ = ["exit_code", "message"]

_INTERNAL, _USAGE, _MODEL, _GENERATION = 1, 2, 3, 4
_FLAGS = {
    "config": "--config",
    "draft": "--draft",
    "kv_type": "--kv-type",
    "max_queue": "--max-queue",
    "max_streams": "--max-streams",
    "max_tokens": "--max-tokens",
    "min_p": "--min-p",
    "model": "MODEL",
    "n_ctx": "--n-ctx",
    "n_gpu_layers": "--gpu-layers",
    "n_threads": "--threads",
    "prefix_cache_mb": "--prefix-cache-mb",
    "prompt": "the prompt",
    "prompt_tokens": "--prompt-tokens",
    "rounds": "--rounds",
    "seed": "--seed",
    "stop_sequences": "--stop",
    "streams": "--streams",
    "system_prompt": "--system",
    "temperature": "--temperature",
    "timeout_ms": "--timeout",
    "tokens": "--tokens",
    "top_k": "--top-k",
    "top_p": "--top-p",
}


def exit_code(error: Exception) -> int:
    """Return the exit code for an exception; the package's docstring lists them."""
    if isinstance(error, InvalidRequestError):
        return _USAGE
    if isinstance(error, (ModelNotFoundError, ModelLoadError)):
        return _MODEL
    return _GENERATION if isinstance(error, HeadraceError) else _INTERNAL


def message(error: Exception) -> str:
    """Return the message for an exception in one line, with the command's flags in place of the names of arguments."""
    text = str(error)
    if isinstance(error, (ContextOverflowError, StreamTimeoutError)):  # these quote nothing that the user wrote
        for field in ("n_ctx", "timeout_ms"):
            text = text.replace(field, _FLAGS[field])
    elif isinstance(error, InvalidRequestError) and text.startswith(f"{error.field} "):
        text = _FLAGS.get(error.field, error.field) + text.removeprefix(error.field)
    elif isinstance(error, OSError):
        text = error.strerror or text
    elif not isinstance(error, HeadraceError):
        text = f"{type(error).__name__}: {error}; this is a bug in headrace: set HEADRACE_DEBUG=1 to see the traceback"
    return one_line(text)
