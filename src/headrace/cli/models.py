"""`headrace models`: lists the models that can be run by name."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from headrace.cli.output import write
from headrace.cli.terminal import is_terminal

if TYPE_CHECKING:
    from headrace.store import ModelEntry

__all__ = ["complete_model", "models"]


def models() -> None:
    """List the models that can be run by name, and how to install missing ones.

    Any other .gguf file can be run by its path. If standard output is not a terminal, each model is one line, with
    tabs between its fields: name, size, "installed" or the command that installs it, place, description.
    """
    from headrace.store import available

    entries = available()
    write(_table(entries) if is_terminal(sys.stdout) else _lines(entries))


def complete_model(incomplete: str) -> list[tuple[str, str]]:
    """Return the names that begin like this, with their descriptions, for the shell's completion."""
    from headrace.store import available

    return [(entry.name, entry.description) for entry in available() if entry.name.startswith(incomplete)]


def _fields(entry: ModelEntry) -> tuple[str, str, str, str, str]:
    size = f"{entry.size / 1e6:.0f} MB"
    return entry.name, size, entry.install or "installed", entry.source, entry.description


def _lines(entries: list[ModelEntry]) -> str:
    return "".join("\t".join(_fields(entry)) + "\n" for entry in entries)


def _table(entries: list[ModelEntry]) -> str:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("Name", "Size", "Status", "Where", "What", box=None, pad_edge=False)
    for entry in entries:
        table.add_row(*(Text(field, overflow="fold") for field in _fields(entry)))
    console = Console()
    with console.capture() as capture:
        console.print(table)
    return capture.get()
