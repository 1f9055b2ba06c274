"""Standard output: the text and nothing else, or JSON lines; always UTF-8, each piece written at once."""

from __future__ import annotations

import json
import os
import select
import sys
from dataclasses import asdict
from typing import Any, Protocol

import typer

from headrace.cli.terminal import Thought
from headrace.values.errors import GenerationError, HeadraceError, StreamTimeoutError
from headrace.values.results import GenerationResult, Token

__all__ = ["JsonOutput", "Output", "TextOutput", "write"]

_NOBODY_READS = 141  # 128 + SIGPIPE, what a shell reports of other programs then


def write(text: str) -> None:
    """Write all of it to standard output, as UTF-8 whatever the locale; blocks while nobody reads.

    Nothing is left in a buffer, so the interpreter has nothing to flush, and to fail at, when it exits.

    Raises:
        typer.Exit: whoever read has left.
        OSError: it cannot be written.
    """
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]
        raise OSError("standard output is closed")
    file = sys.stdout.fileno()
    data = memoryview(text.encode())
    try:
        while data:
            try:
                data = data[os.write(file, data) :]
            except BlockingIOError:  # somebody else made it non-blocking
                select.select((), (file,), ())
    except BrokenPipeError:
        raise typer.Exit(_NOBODY_READS) from None
    except OSError as error:
        raise OSError(error.errno, f"standard output cannot be written: {error.strerror}") from error


class Output(Protocol):
    """Where the tokens of a run go."""

    def token(self, token: Token) -> None:
        """One more."""

    def result(self, result: GenerationResult) -> None:
        """All of them, at the end."""

    def error(self, error: HeadraceError) -> None:
        """What went wrong instead."""


class TextOutput:
    """The text; on a terminal it ends with a line break. A thought goes to standard error.

    Args:
        at_end: whether to keep it until it is complete.
        is_terminal: whether standard output is one.
    """

    def __init__(self, *, at_end: bool, is_terminal: bool) -> None:
        self._at_end = at_end
        self._is_terminal = is_terminal
        self._thought = Thought()

    def token(self, token: Token) -> None:
        if self._at_end:
            return
        for part in token.parts:
            if part.kind == "thinking":
                self._thought.write(part.text)
            else:
                self._thought.end()
                write(part.text)

    def result(self, result: GenerationResult) -> None:
        if self._at_end:
            self._thought.write(result.thinking or "")
        self._thought.end()
        if self._at_end:
            write(result.text)
        if self._is_terminal and result.text and not result.text.endswith("\n"):
            write("\n")

    def error(self, error: HeadraceError) -> None:
        if isinstance(error, GenerationError) and error.partial is not None:
            self.result(error.partial)


class JsonOutput:
    """One object a line, whose `type` is "token", "result" or "error".

    Args:
        at_end: whether to leave the tokens out.
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
