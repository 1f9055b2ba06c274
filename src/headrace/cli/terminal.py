"""Standard error: lines for people, and on a terminal what the command is waiting for."""

from __future__ import annotations

import contextlib
import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

__all__ = ["Thought", "Waiting", "is_terminal", "one_line", "say"]

# Whatever is over sooner, in seconds, is not worth a flicker.
_MOMENT = 0.3


def say(line: str) -> None:
    """Write a line to standard error; where that is closed, nobody wants to know."""
    if sys.stderr is not None:  # pyright: ignore[reportUnnecessaryComparison]
        with contextlib.suppress(OSError):
            print(line, file=sys.stderr, flush=True)


def one_line(text: str) -> str:
    """The text without line breaks, and with control characters, which a file name may have, as escapes."""
    line = " ".join(text.split())
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)


def is_terminal(stream: object) -> bool:
    """Whether a standard stream is one; a closed one, which Python has as None, is not."""
    return stream is not None and stream.isatty()  # pyright: ignore


class Thought:
    """What a model thinks before it answers, on standard error: faint where that is a terminal."""

    def __init__(self) -> None:
        self._is_open = False
        is_faint = is_terminal(sys.stderr)
        self._begin, self._end = ("\x1b[2m", "\x1b[0m") if is_faint else ("", "")

    def write(self, text: str) -> None:
        """Add to it; where standard error is closed, nobody wants to know."""
        if text and sys.stderr is not None:  # pyright: ignore[reportUnnecessaryComparison]
            with contextlib.suppress(OSError):
                print(f"{self._begin}{text}{self._end}", end="", file=sys.stderr, flush=True)
            self._is_open = True

    def end(self) -> None:
        """The answer begins, or nothing more comes. Any number of times."""
        if self._is_open:
            self._is_open = False
            say("")


class Waiting:
    """In a `with`, shows on a terminal what is waited for, once it takes longer than a moment, and wipes it after.

    What draws it is imported by the timer's thread, so that nobody waits for that.

    Args:
        text: what is waited for.
        measured: whether `update` will be called.
        console: where to show it; None takes standard error, if that is a terminal.
        moment: seconds until it is shown.
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
        """How much of it is done, 0 to 1, and, where that has changed, what is waited for."""
        self._fraction = fraction
        self._text = self._text if text is None else text
        if self._display is not None:
            self._display.update(self._task, completed=fraction, description=self._text)

    def stop(self) -> None:
        """Wipe it, or never show it. Any number of times."""
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
