"""Reads every import statement of the package; fails on one that points up, round, or sideways where it must not."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "headrace"

MOVING = ["calls", "conversation", "lane", "model", "stream", "tee", "views"]

LAYERS = {
    0: ["values"],
    1: ["chat", "llama", "store", "structured", "text"],
    2: ["engine"],
    3: ["api", "bench", *MOVING],
    4: ["__main__", "cli", "scale", "server", "web"],
}
LAYER_OF = {part: layer for layer, parts in LAYERS.items() for part in parts}
API = 3
# The parts of these layers do not import one another.
SEPARATE = (1, 4)
# But what a conversation may answer, and the arguments of its tools, have schemas.
BESIDE = {("chat", "structured")}
# The command `serve` is what runs the server: it makes its settings of the flags, and logs as it does.
EXCEPTIONS = {
    ("headrace.__main__", "headrace.cli"),
    ("headrace.cli.serve", "headrace.server.serving.logs"),
    ("headrace.cli.serve", "headrace.server.logs"),
    ("headrace.cli.serve", "headrace.server.serve"),
    ("headrace.cli.serve", "headrace.server.serving.settings"),
    ("headrace.cli.serve", "headrace.server.settings"),
}


@dataclass(frozen=True)
class Import:
    """One imported module; `typing_only` where it stands under `if TYPE_CHECKING`."""

    module: str
    line: int
    typing_only: bool


def breaches(package: Path) -> list[str]:
    """What is wrong with the imports of the modules in a package folder; the folder's name is the package's."""
    modules = {_module_name(path, package): path for path in sorted(package.rglob("*.py"))}
    found: list[str] = []
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        if _layer(module) is None:
            found.append(f"{module}: belongs to no layer")
            continue
        imports = list(_imports(path, module, modules))
        found += [
            f"{module}:{one.line}: imports {one.module}: {why}"
            for one in imports
            if (why := _breach(module, one.module, package.name))
        ]
        # A class may name another in its annotations, and the other way round; only what runs makes a circle.
        graph[module] = {one.module for one in imports if not one.typing_only and one.module in modules} - {module}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append(f"a circle: {' <- '.join(error.args[1])}")
    return found


def _module_name(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _part(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def _layer(module: str) -> int | None:
    # What the package itself exports is the API, and so are the helpers that lie beside the API's modules.
    part = _part(module)
    return LAYER_OF.get(part, API if part == "" or part.startswith("_") else None)


def _breach(module: str, imported: str, package: str) -> str | None:
    """Why this module may not import that one."""
    here = _layer(module)
    if imported.split(".")[0] == "llama_cpp":
        return None if _part(module) == "llama" else "only llama/ may"
    if imported.split(".")[0] != package:
        return None
    there = _layer(imported)
    if here is None or there is None:
        return "it belongs to no layer"
    if there > here:
        return f"layer {there} is above layer {here}"
    separate = here == there and here in SEPARATE and _part(module) != _part(imported)
    if separate and (module, imported) not in EXCEPTIONS and (_part(module), _part(imported)) not in BESIDE:
        return f"the parts of layer {here} do not import one another"
    if module.endswith(".engine.scheduler") and _part(imported) == "llama":
        return "policy knows no backend"
    return None


def _imports(path: Path, module: str, modules: dict[str, Path]) -> Iterator[Import]:
    """Every import in a file, wherever it stands: `from a import b` is of a.b where that is a module, and of a else."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node, typing_only in _statements(ast.parse(path.read_text("utf-8")), typing_only=False):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, typing_only)
        else:
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield Import(inner if inner in modules else base, node.lineno, typing_only)


def _statements(node: ast.AST, *, typing_only: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        yield node, typing_only
    elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        for child in node.body:
            yield from _statements(child, typing_only=True)
        for child in node.orelse:
            yield from _statements(child, typing_only=typing_only)
    else:
        for child in ast.iter_child_nodes(node):
            yield from _statements(child, typing_only=typing_only)


def test_headrace_keeps_its_layers() -> None:
    assert len(list(PACKAGE.rglob("*.py"))) > 10
    assert breaches(PACKAGE) == []


# The checker itself, on made-up trees: one that keeps every rule, and one change each that breaks one.

GOOD = {
    "__init__.py": "from headrace.model import Model\nfrom headrace.values import errors",
    "values/errors.py": "import typing\nif typing.TYPE_CHECKING:\n    from headrace.values.results import Usage",
    "values/results.py": "from headrace.values.errors import HeadraceError",
    "text/__init__.py": "from headrace.text.stops import StopMatcher",
    "text/stops.py": "from ..values import errors",
    "llama/__init__.py": "",
    "llama/library.py": "import llama_cpp.llama_cpp as c\nfrom headrace.values import errors",
    "engine/__init__.py": "",
    "engine/scheduler.py": "from headrace.text import StopMatcher",
    "engine/runner.py": "def run():\n    from headrace.llama import library\n    from .scheduler import Scheduler",
    "_threads.py": "",
    "model.py": "from headrace.engine.runner import run\nfrom headrace._threads import x",
    "stream.py": "from headrace.model import Model",
    "server/app.py": "from headrace import Model",
    "__main__.py": "from headrace.cli import main",
    "cli/__init__.py": "",
    "cli/serve.py": "from headrace.server.serve import serve\nimport numpy",
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


@pytest.mark.parametrize(
    ("file", "source", "breach"),
    [
        (
            "values/errors.py",
            "import headrace.model",
            "headrace.values.errors:1: imports headrace.model: layer 3 is above layer 0",
        ),
        ("values/errors.py", "from headrace import Model", "imports headrace: layer 3 is above layer 0"),
        ("text/stops.py", "from ..engine import runner", "imports headrace.engine.runner: layer 2 is above layer 1"),
        ("text/stops.py", "def f():\n    import headrace.model", "headrace.text.stops:2: imports headrace.model"),
        ("text/stops.py", "class C:\n  try:\n    import headrace.model\n  except E: pass", "layer 3 is above layer 1"),
        (
            "engine/runner.py",
            "import typing\nif typing.TYPE_CHECKING:\n    from headrace.stream import TokenStream",
            "headrace.engine.runner:3: imports headrace.stream: layer 3 is above layer 2",
        ),
        ("_threads.py", "import headrace.cli.serve", "layer 4 is above layer 3"),
        ("__main__.py", "import headrace.server.app", "the parts of layer 4 do not import one another"),
        ("__init__.py", "from headrace.cli import serve", "layer 4 is above layer 3"),
        ("text/stops.py", "from headrace.llama import library", "the parts of layer 1 do not import one another"),
        ("store/__init__.py", "import headrace.text", "the parts of layer 1 do not import one another"),
        ("cli/run.py", "from headrace.server.app import app", "the parts of layer 4 do not import one another"),
        ("cli/serve.py", "from headrace.server import x", "the parts of layer 4 do not import one another"),
        ("cli/serve.py", "from headrace.server.app import app", "the parts of layer 4 do not import one another"),
        ("server/app.py", "import headrace.cli.serve", "the parts of layer 4 do not import one another"),
        ("engine/runner.py", "import llama_cpp", "imports llama_cpp: only llama/ may"),
        ("text/stops.py", "from llama_cpp import llama_cpp", "imports llama_cpp: only llama/ may"),
        ("engine/scheduler.py", "from headrace.llama.library import f", "policy knows no backend"),
        ("utils.py", "", "headrace.utils: belongs to no layer"),
        ("tools/__init__.py", "", "headrace.tools: belongs to no layer"),
        ("model.py", "import headrace.tools", "imports headrace.tools: it belongs to no layer"),
        ("model.py", "from headrace.stream import TokenStream", "a circle: headrace.model <- headrace.stream"),
        ("model.py", "def f():\n    from . import stream", "a circle: headrace.model <- headrace.stream"),
        ("text/stops.py", "from headrace.text import StopMatcher", "a circle: headrace.text <- headrace.text.stops"),
        ("model.py", "from headrace import Model", "a circle: headrace <- headrace.model"),
    ],
)
def test_every_breach_is_found(tmp_path: Path, file: str, source: str, breach: str) -> None:
    assert any(breach in one for one in breaches(tree(tmp_path, **{file: source})))
