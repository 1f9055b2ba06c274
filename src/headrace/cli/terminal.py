"""Standard error: messages, the model's thinking, and on a terminal a display of what the command waits for."""

from __future__ import annotations

import contextlib
import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

__all__ = ["Thinking", "Waiting", "is_terminal", "one_line", "say"]

# A wait that ends within this many seconds is not displayed.
_MOMENT = 0.3


def say(line: str) -> None:
    """Write a line to standard error; if that is closed, do nothing."""
    if sys.stderr is not None:  # pyright: ignore[reportUnnecessaryComparison]
        with contextlib.suppress(OSError):
            print(line, file=sys.stderr, flush=True)


def one_line(text: str) -> str:
    """Return the text in one line, with control characters, which may come from a file name, as escapes."""
    line = " ".join(text.split())
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)


def is_terminal(stream: object) -> bool:
    """Return whether a standard stream is a terminal. A closed one, for which Python has None, is not."""
    return stream is not None and stream.isatty()  # pyright: ignore


class Thinking:
    """Writes the model's thinking to standard error; on a terminal, in a faint color."""

    def __init__(self) -> None:
        self._is_open = False
        is_faint = is_terminal(sys.stderr)
        self._begin, self._end = ("\x1b[2m", "\x1b[0m") if is_faint else ("", "")

    def write(self, text: str) -> None:
        """Write more of it; if standard error is closed, do nothing."""
        if text and sys.stderr is not None:  # pyright: ignore[reportUnnecessaryComparison]
            with contextlib.suppress(OSError):
                print(f"{self._begin}{text}{self._end}", end="", file=sys.stderr, flush=True)
            self._is_open = True

    def end(self) -> None:
        """End it with a line break, before the answer begins. May be called again."""
        if self._is_open:
            self._is_open = False
            say("")


class Waiting:
    """Displays on a terminal what a `with` block waits for, if that takes longer than a moment.

    A timer's thread imports rich and draws the display, so that the block need not wait for the import.

    Args:
        text: what the block waits for.
        measured: whether to display a bar, because `update` will be called.
        console: where to display it; None takes standard error, if that is a terminal.
        moment: seconds until it is displayed.
    """

    def __init__(
        self, text: str, *, measured: bool = False, console: Console | None = None, moment: float = _MOMENT
    ) -> None:
        self._text = text
        self._measured = measured
        self._console = console
        self._fraction = 0.0
        self._lock = threading.Lock()
        self._is_over = False
        self._display: Progress | None = None
        self._timer: threading.Timer | None = None
        if console is not None or is_terminal(sys.stderr):
            self._timer = threading.Timer(moment, self._show)
            self._timer.daemon = True

    def update(self, fraction: float, text: str | None = None) -> None:
        """Display the fraction that is done, 0 to 1, and a new text if one is given."""
        self._fraction = fraction
        self._text = self._text if text is None else text
        if self._display is not None:
            self._display.update(self._task, completed=fraction, description=self._text)

    def stop(self) -> None:
        """Remove the display, or do not show it at all. May be called again."""
        if self._timer is None or self._is_over:
            return
        with self._lock:
            self._is_over = True
            self._timer.cancel()
            if self._display is not None:
                self._display.stop()

    def __enter__(self) -> Waiting:
        if self._timer is not None:
            self._timer.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _show(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            *([BarColumn()] if self._measured else []),
        )
        console = self._console if self._console is not None else Console(stderr=True)
        display = Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
        with self._lock:
            if self._is_over:
                return
            self._task = display.add_task(self._text, total=1.0, completed=self._fraction)  # pyright: ignore
            self._display = display
            display.start()
