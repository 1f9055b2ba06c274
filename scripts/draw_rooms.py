"""Draws the rooms of the package from its imports into docs/rooms.svg; with --check only compares.

Each room stands above all rooms that it imports. Arrows that follow from others are left out: where `cli` imports
`api` and `api` imports `values`, `cli` may import `values`, too, without an arrow of its own.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from textwrap import wrap
from xml.sax.saxutils import escape

from read_imports import PACKAGE, Graph, floors, room_graph

__all__ = ["drawing"]

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "rooms.svg"
WIDTH, MARGIN, GAP = 1180, 20, 24
LINE, PADDING, BETWEEN = 16, 12, 40
# A room is as wide as its text needs, in columns of letters of this width.
LETTER = 6.4
COLUMNS = 30
STYLE = """
  svg { color: #1f2328; background: #ffffff; font: 12px system-ui, sans-serif }
  text { fill: currentColor; text-anchor: middle } .name { font-size: 15px; font-weight: 600 } .faint { opacity: .75 }
  .room { fill: #eaf2f9; stroke: #0072b2 } .arrow { fill: none; stroke: currentColor; opacity: .45 }
  .head { fill: currentColor; opacity: .6 }
  @media (prefers-color-scheme: dark) { svg { color: #e6edf3; background: #0d1117 } .room { fill: #13212e } }
"""


def drawing(package: Path) -> str:
    """The picture of a package folder, as SVG; it follows a reader's light or dark theme."""
    graph = room_graph(package)
    rows = _rows(graph)
    texts = {room: _text(package / room) for room in graph}
    boxes, height = _boxes(rows, texts)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>The rooms of {escape(package.name)}; an arrow points from a room to one that it imports</title>",
        f"<style>{STYLE}</style>",
        '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path class="head" d="M0 0 8 4 0 8z"/></marker>',
    ]
    for room, other in sorted(_needed_arrows(graph)):
        parts.append(_arrow(boxes[room], boxes[other]))
    for room, (x, y, width, tall) in sorted(boxes.items()):
        parts.append(f'<rect class="room" x="{x}" y="{y}" width="{width}" height="{tall}" rx="8"/>')
        for number, line in enumerate([f"{room}/", *texts[room]]):
            kind = "faint" if number else "name"
            at = y + PADDING + 13 + number * LINE
            parts.append(f'<text class="{kind}" x="{x + width // 2}" y="{at}">{escape(line)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _rows(graph: Graph) -> list[list[str]]:
    """The rooms of each floor, the highest first, each near those that import it."""
    by_floor: dict[int, list[str]] = defaultdict(list)
    for room, floor in sorted(floors(graph).items()):
        by_floor[floor].append(room)
    rows = [by_floor[floor] for floor in sorted(by_floor, reverse=True)]
    for above, row in pairwise(rows):
        places = {room: place for place, room in enumerate(above)}

        def middle(room: str, places: dict[str, int] = places) -> float:
            users = [place for other, place in places.items() if room in graph[other]]
            return sum(users) / len(users) if users else 0.0

        row.sort(key=middle)
    return rows


def _needed_arrows(graph: Graph) -> set[tuple[str, str]]:
    """The imports that do not follow from others."""

    def reach(room: str) -> set[str]:
        return graph[room] | {far for other in graph[room] for far in reach(other)}

    return {
        (room, other) for room in graph for other in graph[room] if not any(other in reach(via) for via in graph[room])
    }


def _text(room: Path) -> list[str]:
    """What stands in a room's box: its inner rooms, and the first sentence of its docstring."""
    inner = sorted(path.parent.name for path in room.glob("*/__init__.py"))
    docstring = ast.get_docstring(ast.parse((room / "__init__.py").read_text("utf-8"))) or ""
    sentence = " ".join(docstring.partition("\n\n")[0].split()).partition(". ")[0].rstrip(".")
    return [*([" ".join(f"{name}/" for name in inner)] if inner else []), *wrap(sentence.replace("`", ""), COLUMNS)]


def _boxes(rows: list[list[str]], texts: dict[str, list[str]]) -> tuple[dict[str, tuple[int, int, int, int]], int]:
    """Where each room is drawn (left, top, width, height), and the height of the picture."""
    boxes: dict[str, tuple[int, int, int, int]] = {}
    top = MARGIN
    for row in rows:
        widths = [round(max(len(line) for line in (room, *texts[room])) * LETTER) + 2 * PADDING + 8 for room in row]
        left = (WIDTH - sum(widths) - GAP * (len(row) - 1)) // 2
        tall = max(len(texts[room]) + 1 for room in row) * LINE + 2 * PADDING
        for room, width in zip(row, widths, strict=True):
            boxes[room] = left, top, width, tall
            left += width + GAP
        top += tall + BETWEEN
    return boxes, top - BETWEEN + MARGIN


def _arrow(start: tuple[int, int, int, int], end: tuple[int, int, int, int]) -> str:
    x, y = start[0] + start[2] // 2, start[1] + start[3]
    to_x, to_y = end[0] + end[2] // 2, end[1] - 2
    bend = (to_y - y) // 2
    path = f"M{x} {y}C{x} {y + bend} {to_x} {to_y - bend} {to_x} {to_y}"
    return f'<path class="arrow" d="{path}" marker-end="url(#head)"/>'


def main() -> int:
    picture = drawing(PACKAGE)
    if PICTURE.exists() and PICTURE.read_text("utf-8") == picture:
        return 0
    if "--check" in sys.argv[1:]:
        print("docs/rooms.svg is not what the imports give; run: python scripts/draw_rooms.py", file=sys.stderr)
        return 1
    PICTURE.write_text(picture, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
