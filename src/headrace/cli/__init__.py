"""The command `headrace`: one line on standard error for whatever goes wrong, and an exit code that says what kind.

0    done
1    an error inside headrace, or standard output could not be written
2    usage: a flag, a value or a prompt that cannot be used
3    the model could not be found or loaded
4    the generation failed, or ran into a deadline
130  stopped by Ctrl-C
141  whoever read standard output has left, as after `| head -1`
"""

from __future__ import annotations

import os
import signal
import sys
import traceback

import typer

from headrace.cli.app import app
from headrace.cli.terminal import one_line, say
from headrace.errors import (
    ContextOverflowError,
    HeadraceError,
    InvalidRequestError,
    ModelLoadError,
    ModelNotFoundError,
    StreamTimeoutError,
)

__all__ = ["main"]

_INTERNAL, _USAGE, _MODEL, _GENERATION, _INTERRUPTED = 1, 2, 3, 4, 130
_FLAGS = {
    "max_tokens": "--max-tokens",
    "min_p": "--min-p",
    "model": "MODEL",
    "n_ctx": "--n-ctx",
    "n_gpu_layers": "--gpu-layers",
    "n_threads": "--threads",
    "prompt": "the prompt",
    "seed": "--seed",
    "stop_sequences": "--stop",
    "system_prompt": "--system",
    "temperature": "--temperature",
    "timeout_ms": "--timeout",
    "top_k": "--top-k",
    "top_p": "--top-p",
}


def main() -> None:
    """Run the command with the arguments of this process, and exit."""
    code = _run()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # one more Ctrl-C must not break into the interpreter's shutdown
    sys.exit(code)


def _run() -> int:
    try:
        return app(prog_name="headrace", standalone_mode=False) or 0
    except typer.TyperException as error:  # what typer finds wrong with the arguments
        say(f"headrace: {one_line(error.format_message())}")
        return error.exit_code
    except HeadraceError as error:
        say(f"headrace: {one_line(_message(error))}")
        return _exit_code(error)
    except (KeyboardInterrupt, typer.Abort):
        return _INTERRUPTED
    except OSError as error:
        return _unexpected(error, error.strerror or str(error))
    except Exception as error:
        return _unexpected(error, f"{type(error).__name__}: {error}; this is a bug, HEADRACE_DEBUG=1 shows where")


def _exit_code(error: HeadraceError) -> int:
    if isinstance(error, InvalidRequestError):
        return _USAGE
    return _MODEL if isinstance(error, (ModelNotFoundError, ModelLoadError)) else _GENERATION


def _message(error: HeadraceError) -> str:
    """The error in the words of the command: flags instead of the names that Python callers know."""
    message = str(error)
    if isinstance(error, (ContextOverflowError, StreamTimeoutError)):  # nothing in these was written by the user
        for field in ("n_ctx", "timeout_ms"):
            message = message.replace(field, _FLAGS[field])
    elif isinstance(error, InvalidRequestError) and message.startswith(f"{error.field} "):
        message = _FLAGS.get(error.field, error.field) + message.removeprefix(error.field)
    return message


def _unexpected(error: Exception, message: str) -> int:
    if os.environ.get("HEADRACE_DEBUG", "0") not in ("", "0"):
        traceback.print_exception(error)
    say(f"headrace: {one_line(message)}")
    return _INTERNAL
