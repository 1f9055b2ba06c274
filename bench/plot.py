"""Draws the sweep of bench/server.py as SVG: throughput and worst gap by number of streams, a line for each server.

    python bench/plot.py server.json > sweep.svg

The SVG needs no other file, follows the reader's light or dark theme, and is the same whenever the figures are.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

__all__ = ["Panel", "drawing", "sweep_svg"]

OURS = "headrace"
# Okabe and Ito's colours, which colour-blind people can tell apart: headrace's first, then the others in their order.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#777777")
DASHES = ("", "6 3", "2 3", "8 3 2 3", "4 2", "1 2", "10 4")
WIDTH, HEIGHT = 380, 270
LEFT, TOP, GAP, RIGHT, BOTTOM = 62, 56, 78, 24, 92
STYLE = """
  svg { color: #1f2328; background: #ffffff; font: 12px system-ui, sans-serif }
  text { fill: currentColor } .title { font-size: 14px; font-weight: 600 } .faint { opacity: .75 }
  .grid { stroke: currentColor; opacity: .15 } .axis { stroke: currentColor; opacity: .6 }
  @media (prefers-color-scheme: dark) { svg { color: #e6edf3; background: #0d1117 } }
"""

# For each server, the figure at each number of streams; None if there is none.
Lines = Mapping[str, Mapping[int, float | None]]


@dataclass(frozen=True)
class Panel:
    """One of the two diagrams.

    Args:
        title: the heading.
        axis: the label of the vertical axis.
        lines: the figures.
        is_log: whether the vertical axis is logarithmic.
    """

    title: str
    axis: str
    lines: Lines
    is_log: bool = False


def sweep_svg(report: Mapping[str, Any]) -> str:
    """Return the drawing of a report of bench/server.py.

    Raises:
        KeyError: the report has no sweep.
    """
    metrics = report["workloads"]["sweep"]["metrics"]

    def lines(name: str) -> Lines:
        found: dict[str, dict[int, float | None]] = {server: {} for server in report["servers"]}
        for metric, values in metrics.items():
            kind, _, at_once = metric.partition(", ")
            if kind == name:
                for server, value in values["servers"].items():
                    found[server][int(at_once.split()[0])] = value["median"]
        return found

    title = f"{report['model']}: streams at once, over HTTP, median of {report['rounds']} rounds"
    speeds = Panel("Throughput (more is better)", "tokens/s, all streams together", lines("tok/s"))
    gaps = Panel("Worst gap (less is better)", "seconds between two tokens, log", lines("worst gap"), is_log=True)
    return drawing(title, [speeds, gaps])


def drawing(title: str, panels: Sequence[Panel]) -> str:
    """Return diagrams side by side, with one legend."""
    width = LEFT + len(panels) * (WIDTH + GAP) - GAP + RIGHT
    height = TOP + HEIGHT + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img">',
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        f'<text class="title" x="{LEFT}" y="22">{escape(title)}</text>',
    ]
    for index, panel in enumerate(panels):
        parts += _panel(panel, LEFT + index * (WIDTH + GAP), TOP)
    x = LEFT
    for index, name in enumerate(panels[0].lines):
        y = TOP + HEIGHT + 68
        parts.append(f'<line x1="{x}" y1="{y - 4}" x2="{x + 26}" y2="{y - 4}" {_look(index, name)}/>')
        parts.append(f'<text x="{x + 32}" y="{y}">{escape(name)}</text>')
        x += 32 + 7 * len(name) + 30
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, left: int, top: int) -> list[str]:
    values = [value for line in panel.lines.values() for value in line.values() if value]
    streams = sorted({at for line in panel.lines.values() for at in line})
    if not values or not streams:
        return [f'<text x="{left}" y="{top}">{escape(panel.title)}: nothing was measured</text>']
    ticks = _decades(min(values), max(values)) if panel.is_log else _steps(max(values))
    place: Callable[[float], float] = math.log if panel.is_log else float
    low, high = place(ticks[0]), place(ticks[-1])
    bottom = top + HEIGHT
    step = WIDTH / max(1, len(streams) - 1)
    across = {at: left + index * step for index, at in enumerate(streams)}

    def up(value: float) -> float:
        return bottom - (place(value) - low) / (high - low) * HEIGHT

    parts = [f'<text x="{left}" y="{top - 12}">{escape(panel.title)}</text>']
    for tick in ticks:
        y = up(tick)
        parts.append(f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{left + WIDTH}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for at, x in across.items():
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{at}</text>')
    parts.append(f'<path class="axis" fill="none" d="M{left} {top}V{bottom}H{left + WIDTH}"/>')
    middle = left + WIDTH / 2
    parts.append(f'<text class="faint" x="{middle:.0f}" y="{bottom + 38}" text-anchor="middle">streams at once</text>')
    x, y = left - 46, top + HEIGHT / 2
    parts.append(
        f'<text class="faint" x="{x}" y="{y:.0f}" text-anchor="middle" transform="rotate(-90 {x} {y:.0f})">'
        f"{escape(panel.axis)}</text>"
    )
    for index, (name, line) in enumerate(panel.lines.items()):
        points = [(across[at], up(value)) for at, value in sorted(line.items()) if value]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline fill="none" {_look(index, name)} points="{path}"/>')
        colour = COLOURS[index % len(COLOURS)]
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
    return parts


def _look(index: int, name: str) -> str:
    """Return the colour, width and dashes of a server's line."""
    dash = DASHES[index % len(DASHES)]
    width = 3 if name == OURS else 1.75
    return f'stroke="{COLOURS[index % len(COLOURS)]}" stroke-width="{width}"' + (
        f' stroke-dasharray="{dash}"' * bool(dash)
    )


def _steps(most: float) -> list[float]:
    """Return about five round values, from 0 to above the largest value."""
    size = 10 ** math.floor(math.log10(most))
    step = next(size * share for share in (0.1, 0.2, 0.25, 0.5, 1, 2) if size * share * 6 >= most)
    return [index * step for index in range(math.ceil(most / step) + 1)]


def _decades(least: float, most: float) -> list[float]:
    """Return ticks 1, 3, 10, 30 and so on, from below the smallest value to above the largest."""
    ticks = [factor * 10.0**power for power in range(-7, 8) for factor in (1, 3)]
    first = max((tick for tick in ticks if tick <= least), default=ticks[0])
    last = min((tick for tick in ticks if tick >= most and tick > first), default=ticks[-1])
    return [tick for tick in ticks if first <= tick <= last]


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    sys.stdout.write(sweep_svg(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
