"""`TextOutput` and `JsonOutput`: standard output as text only, or as JSON lines; UTF-8, written without delay."""

from __future__ import annotations

import json
import os
import select
import sys
from dataclasses import asdict
from typing import Any, Protocol

import typer

from headrace.cli.terminal import Thinking
from headrace.values.errors import GenerationError, HeadraceError, StreamTimeoutError
from headrace.values.results import GenerationResult, Token

__all__ = ["JsonOutput", "Output", "TextOutput", "write"]

_READER_LEFT = 141  # 128 + SIGPIPE, as shells report it of other programs


def write(text: str) -> None:
    """Write all of a text to standard output, as UTF-8 in any locale; blocks while nobody reads.

    No buffer is used, so that the interpreter's flush at exit cannot fail.

    Raises:
        typer.Exit: the reader has left.
        OSError: standard output is closed, or cannot be written.
    """
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]
        raise OSError("standard output is closed")
    file = sys.stdout.fileno()
    data = memoryview(text.encode())
    try:
        while data:
            try:
                data = data[os.write(file, data) :]
            except BlockingIOError:  # another process made it non-blocking
                select.select((), (file,), ())
    except BrokenPipeError:
        raise typer.Exit(_READER_LEFT) from None
    except OSError as error:
        raise OSError(error.errno, f"standard output cannot be written: {error.strerror}") from error


class Output(Protocol):
    """Writes the tokens of a run, and then its result or its error."""

    def token(self, token: Token) -> None:
        """Write one token."""

    def result(self, result: GenerationResult) -> None:
        """Write the result, after the last token."""

    def error(self, error: HeadraceError) -> None:
        """Write the error that ended the run."""


class TextOutput:
    """Writes the text to standard output, with a line break at the end on a terminal. Thinking goes to standard error.

    Args:
        at_end: whether to write everything at the end, instead of token by token.
        is_terminal: whether standard output is a terminal.
    """

    def __init__(self, *, at_end: bool, is_terminal: bool) -> None:
        self._at_end = at_end
        self._is_terminal = is_terminal
        self._thinking = Thinking()

    def token(self, token: Token) -> None:
        if self._at_end:
            return
        for part in token.parts:
            if part.kind == "thinking":
                self._thinking.write(part.text)
            else:
                self._thinking.end()
                write(part.text)

    def result(self, result: GenerationResult) -> None:
        if self._at_end:
            self._thinking.write(result.thinking or "")
        self._thinking.end()
        if self._at_end:
            write(result.text)
        if self._is_terminal and result.text and not result.text.endswith("\n"):
            write("\n")

    def error(self, error: HeadraceError) -> None:
        if isinstance(error, GenerationError) and error.partial is not None:
            self.result(error.partial)


class JsonOutput:
    """Writes one JSON object per line, whose `type` is "token", "result" or "error".

    Args:
        at_end: whether to leave out the tokens.
    """

    def __init__(self, *, at_end: bool) -> None:
        self._at_end = at_end

    def token(self, token: Token) -> None:
        if not self._at_end:
            fields = ("text", "id", "index", "timestamp", "kind", "is_last")
            values = {field: getattr(token, field) for field in fields}
            if token.rest:
                values["rest"] = [{"kind": part.kind, "text": part.text} for part in token.rest]
            self._write("token", values)

    def result(self, result: GenerationResult) -> None:
        self._write("result", _as_dict(result))

    def error(self, error: HeadraceError) -> None:
        values: dict[str, Any] = {"message": str(error)}
        if isinstance(error, StreamTimeoutError):
            values["which"] = error.which
        if isinstance(error, GenerationError) and error.partial is not None:
            values["partial"] = _as_dict(error.partial)
        self._write("error", values)

    def _write(self, type: str, values: dict[str, Any]) -> None:
        write(json.dumps({"type": type} | values, ensure_ascii=False) + "\n")


def _as_dict(result: GenerationResult) -> dict[str, Any]:
    return {
        "text": result.text,
        "thinking": result.thinking,
        "finish_reason": result.finish_reason,
        "stop_sequence": result.stop_sequence,
        "usage": asdict(result.usage) | {"total_tokens": result.usage.total_tokens},
        "metrics": asdict(result.metrics),
        "model": result.model,
    }
