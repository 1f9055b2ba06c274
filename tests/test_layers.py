"""Reads every import statement of the package; fails on one that points up, round, or sideways where it must not.

A room is a folder of the package. `docs/architecture.md` says what each is for, and has a picture of them.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
sys.path.insert(0, str(SCRIPTS))
from draw_rooms import PICTURE, drawing  # noqa: E402
from read_imports import PACKAGE, floors, imports_of, modules_of, room_graph, room_of, top_room_of  # noqa: E402

# The rooms at the top of the package, by layer; "" is the package itself, with what it exports and its `__main__`.
LAYERS = {
    0: ["values"],
    1: ["chat", "llama", "store", "structured", "text"],
    2: ["engine"],
    3: ["api", "bench"],
    4: ["", "cli", "server", "web"],
}
LAYER_OF = {room: layer for layer, rooms in LAYERS.items() for room in rooms}
# The rooms of these layers do not import one another.
SEPARATE = (1, 4)
# But what a conversation may answer, and the arguments of its tools, have schemas.
BESIDE = {("chat", "structured")}
# The command `serve` runs the server: it makes its settings of the flags, and logs as it does.
EXCEPTIONS = {
    ("headrace.__main__", "headrace.cli"),
    ("headrace.cli.serve", "headrace.server.serve"),
    ("headrace.cli.serve", "headrace.server.serving.logs"),
    ("headrace.cli.serve", "headrace.server.serving.settings"),
}
# What decides needs no model to be tested: it knows no backend.
POLICY = ("headrace.engine.kv", "headrace.engine.scheduler", "headrace.engine.tuning.tuner")
MOST_FLOORS = 9
MOST_LINES = 400
REASON = "Longer than 400 lines: "
# All that is written by hand: not what others made, and not the bundle of the JavaScript client.
WRITTEN = sorted(
    path
    for ending in ("py", "js", "css", "html")
    for path in PACKAGE.rglob(f"*.{ending}")
    if "vendor" not in path.parts and not path.is_symlink()
)


def breaches(package: Path) -> list[str]:
    """What is wrong with the imports of the modules in a package folder; the folder's name is the package's."""
    modules = modules_of(package)
    found: list[str] = []
    imports: dict[str, set[str]] = {}
    rooms: dict[str, set[str]] = defaultdict(set)
    for module in modules:
        if _layer(module) is None:
            found.append(f"{module}: belongs to no layer")
            continue
        ones = [one for one in imports_of(module, modules) if one.module != module]
        found += [
            f"{module}:{one.line}: imports {one.module}: {why}"
            for one in ones
            if (why := _breach(module, one.module, package.name))
        ]
        imports[module] = {one.module for one in ones if one.module in modules}
        here = room_of(module, modules)
        rooms[here] |= {room_of(other, modules) for other in imports[module]} - {here}
    # The package itself is the door to all rooms, and none of them: what it imports makes no circle of rooms.
    rooms.pop(package.name, None)
    for what, graph in (("modules", imports), ("rooms", rooms)):
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            found.append(f"a circle of {what}: {' <- '.join(error.args[1])}")
    return found


def _layer(module: str) -> int | None:
    return LAYER_OF.get(top_room_of(module))


def _breach(module: str, imported: str, package: str) -> str | None:
    """Why this module may not import that one."""
    here = _layer(module)
    if imported.split(".")[0] == "llama_cpp":
        return None if top_room_of(module) == "llama" else "only llama/ may"
    if imported.split(".")[0] != package:
        return None
    there = _layer(imported)
    if here is None or there is None:
        return "it belongs to no layer"
    if there > here:
        return f"layer {there} is above layer {here}"
    pair = (top_room_of(module), top_room_of(imported))
    if here == there and here in SEPARATE and pair[0] != pair[1]:
        return None if pair in BESIDE or (module, imported) in EXCEPTIONS else f"layer {here} is one of separate rooms"
    if module.startswith(POLICY) and pair[1] == "llama":
        return "policy knows no backend"
    return None


def test_headrace_keeps_its_layers() -> None:
    assert len(list(PACKAGE.rglob("*.py"))) > 10
    assert breaches(PACKAGE) == []


def test_headrace_has_few_floors() -> None:
    heights = floors(room_graph(PACKAGE))
    assert "cli" in heights
    assert max(heights.values()) <= MOST_FLOORS


def test_the_picture_is_what_the_imports_give() -> None:
    assert PICTURE.read_text("utf-8") == drawing(PACKAGE), "run: python scripts/draw_rooms.py"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("__init__.py")), ids=lambda path: str(path.parent.name))
def test_every_room_says_what_it_is(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    summary = " ".join(docstring.partition("\n\n")[0].split())
    assert len(summary) > 30
    assert summary.endswith(".")
    assert summary.count(". ") <= 1  # a sentence or two


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_is_long_without_a_reason(path: Path) -> None:
    lines = path.read_text("utf-8").splitlines()
    assert len(lines) <= MOST_LINES or any(REASON in line for line in lines[:20]), f"{len(lines)} lines"


# The checker itself, on made-up trees: one that keeps every rule, and one change each that breaks one.

GOOD = {
    "__init__.py": "from headrace.api.model import Model\nfrom headrace.values import errors",
    "__main__.py": "from headrace.cli import main",
    "values/__init__.py": "",
    "values/errors.py": "import typing\nif typing.TYPE_CHECKING:\n    from headrace.values.results import Usage",
    "values/results.py": "import enum",
    "text/__init__.py": "from headrace.text.stops import StopMatcher",
    "text/stops.py": "from ..values import errors",
    "structured/__init__.py": "",
    "structured/schema.py": "from headrace.values import errors",
    "chat/__init__.py": "",
    "chat/tools.py": "from headrace.structured.schema import Schema",
    "llama/__init__.py": "",
    "llama/library.py": "import llama_cpp.llama_cpp as c\nfrom headrace.values import errors",
    "engine/__init__.py": "",
    "engine/scheduler.py": "from headrace.text import StopMatcher\nfrom .kv.cache import Cache",
    "engine/runner.py": "def run():\n    from headrace.llama import library\n    from .scheduler import Scheduler",
    "engine/kv/__init__.py": "",
    "engine/kv/cache.py": "from headrace.values.errors import HeadraceError",
    "api/__init__.py": "",
    "api/model.py": "from headrace.engine.runner import run",
    "api/stream.py": "from .model import Model",
    "server/__init__.py": "from headrace.server.app import app",
    "server/app.py": "from headrace.api.model import Model\nfrom headrace.server.openai.chat import chat",
    "server/openai/__init__.py": "",
    "server/openai/chat.py": "",
    "cli/__init__.py": "",
    "cli/serve.py": "from headrace.server.serve import serve\nimport numpy",
    "server/serve.py": "",
}


def tree(folder: Path, **changes: str) -> Path:
    package = folder / "headrace"
    for name, source in (GOOD | changes).items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return package


def test_a_tree_that_keeps_every_rule_passes(tmp_path: Path) -> None:
    assert breaches(tree(tmp_path)) == []


def test_floors_are_counted(tmp_path: Path) -> None:
    heights = floors(room_graph(tree(tmp_path)))
    assert heights["values"] == 1
    assert heights["structured"] == 2
    assert heights["chat"] == 3
    assert heights["cli"] == 1 + heights["server"] == 2 + heights["api"] == 3 + heights["engine"]


@pytest.mark.parametrize(
    ("file", "source", "breach"),
    [
        (
            "values/errors.py",
            "import headrace.api.model",
            "headrace.values.errors:1: imports headrace.api.model: layer 3 is above layer 0",
        ),
        ("values/errors.py", "from headrace import Model", "imports headrace: layer 4 is above layer 0"),
        ("text/stops.py", "from ..engine import runner", "imports headrace.engine.runner: layer 2 is above layer 1"),
        ("text/stops.py", "def f():\n    import headrace.api", "headrace.text.stops:2: imports headrace.api"),
        ("text/stops.py", "class C:\n  try:\n    import headrace.api\n  except E: pass", "layer 3 is above layer 1"),
        (
            "engine/runner.py",
            "import typing\nif typing.TYPE_CHECKING:\n    from headrace.api.stream import TokenStream",
            "headrace.engine.runner:3: imports headrace.api.stream: layer 3 is above layer 2",
        ),
        ("api/model.py", "import headrace.cli.serve", "layer 4 is above layer 3"),
        ("__main__.py", "import headrace.server.app", "layer 4 is one of separate rooms"),
        ("__init__.py", "from headrace.cli import serve", "layer 4 is one of separate rooms"),
        ("server/app.py", "from headrace import Model", "imports headrace: layer 4 is one of separate rooms"),
        ("api/model.py", "from headrace import Model", "imports headrace: layer 4 is above layer 3"),
        ("text/stops.py", "from headrace.llama import library", "layer 1 is one of separate rooms"),
        ("structured/schema.py", "import headrace.chat.tools", "layer 1 is one of separate rooms"),
        ("store/__init__.py", "import headrace.text", "layer 1 is one of separate rooms"),
        ("cli/run.py", "from headrace.server.app import app", "layer 4 is one of separate rooms"),
        ("cli/serve.py", "from headrace.server import x", "layer 4 is one of separate rooms"),
        ("cli/serve.py", "from headrace.server.app import app", "layer 4 is one of separate rooms"),
        ("server/app.py", "import headrace.cli.serve", "layer 4 is one of separate rooms"),
        ("engine/runner.py", "import llama_cpp", "imports llama_cpp: only llama/ may"),
        ("text/stops.py", "from llama_cpp import llama_cpp", "imports llama_cpp: only llama/ may"),
        ("engine/scheduler.py", "from headrace.llama.library import f", "policy knows no backend"),
        ("engine/kv/cache.py", "from headrace.llama.library import f", "policy knows no backend"),
        ("utils.py", "", "headrace.utils: belongs to no layer"),
        ("tools/__init__.py", "", "headrace.tools: belongs to no layer"),
        ("api/model.py", "import headrace.tools", "imports headrace.tools: it belongs to no layer"),
        (
            "api/model.py",
            "from headrace.api.stream import T",
            "circle of modules: headrace.api.model <- headrace.api.st",
        ),
        ("api/model.py", "def f():\n    from . import stream", "a circle of modules: headrace.api.model <-"),
        (
            "values/results.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from headrace.values.errors import E",
            "a circle of modules: headrace.values.errors <- headrace.values.results",
        ),
        ("text/stops.py", "from headrace.text import StopMatcher", "a circle of modules: headrace.text <-"),
        (
            "engine/kv/cache.py",
            "import typing\nif typing.TYPE_CHECKING:\n    from headrace.engine.live import Live",
            "a circle of rooms: headrace.engine <- headrace.engine.kv",
        ),
        (
            "server/openai/chat.py",
            "def f():\n    from headrace.server.pages import page",
            "a circle of rooms: headrace.server <- headrace.server.openai",
        ),
    ],
)
def test_every_breach_is_found(tmp_path: Path, file: str, source: str, breach: str) -> None:
    package = tree(tmp_path, **{file: source, "engine/live.py": "", "server/pages.py": ""})
    found = breaches(package)
    # A circle may be told from any of its members on.
    turned = " <- ".join(reversed(breach.partition(": ")[2].split(" <- "))) if "circle" in breach else breach
    assert any(breach in one or turned in one for one in found), found
