"""Reads the import statements of the package: which module imports which, which room imports which, on which floor.

A room is a folder of the package. `tests/test_layers.py` checks what is found, and `draw_rooms.py` draws it.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

__all__ = ["PACKAGE", "Import", "floors", "imports_of", "modules_of", "room_graph", "room_of", "top_room_of"]

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "headrace"

Graph = Mapping[str, set[str]]


@dataclass(frozen=True)
class Import:
    """One imported module, and the line of the statement."""

    module: str
    line: int


def modules_of(package: Path) -> dict[str, Path]:
    """The files of a package folder, by the dotted names of their modules; the folder's name is the package's."""

    def name(path: Path) -> str:
        parts = path.relative_to(package.parent).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    return {name(path): path for path in sorted(package.rglob("*.py"))}


def imports_of(module: str, modules: Mapping[str, Path]) -> Iterator[Import]:
    """Every import in a module, wherever it stands: inside functions and under TYPE_CHECKING, too.

    `from a import b` imports a.b where that is a module, and a otherwise.
    """
    package = room_of(module, modules)
    for node in ast.walk(ast.parse(modules[module].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield Import(inner if inner in modules else base, node.lineno)


def room_of(module: str, modules: Mapping[str, Path]) -> str:
    """The package in which a module lies; a package lies in itself."""
    return module if modules[module].name == "__init__.py" else module.rpartition(".")[0]


def top_room_of(module: str) -> str:
    """The room at the top of the package in which a module lies; "" for the package itself and its `__main__`."""
    _, _, rest = module.partition(".")
    return "" if rest == "__main__" else rest.split(".")[0]


def room_graph(package: Path) -> dict[str, set[str]]:
    """Which rooms at the top of the package import which; the package itself is no room."""
    modules = modules_of(package)
    graph: dict[str, set[str]] = defaultdict(set)
    for module in modules:
        here = top_room_of(module)
        if here:
            others = {top_room_of(one.module) for one in imports_of(module, modules) if one.module in modules}
            graph[here] |= others - {here, ""}
    return dict(graph)


def floors(graph: Graph) -> dict[str, int]:
    """The floor of each room: 1 for a room that imports no other, otherwise one above the highest that it imports.

    Raises:
        graphlib.CycleError: rooms import each other in a circle.
    """
    heights: dict[str, int] = {}
    for room in TopologicalSorter(graph).static_order():
        heights[room] = 1 + max((heights[other] for other in graph.get(room, ())), default=0)
    return heights
