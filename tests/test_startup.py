"""What a start costs, by structure: which modules are imported for what, that weights are mapped and not read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.llama.model import LlamaModel
from headrace.store import resolve

# Each takes longer to import than all of `import headrace` does without it.
HEAVY = {"asyncio", "jinja2", "llama_cpp", "llguidance", "numpy", "pydantic", "rich", "typer"}


def imported_by(code: str, *arguments: str) -> set[str]:
    """The modules that a fresh interpreter has after this; of packages, their names."""
    script = f"import atexit, sys\natexit.register(lambda: print(*sys.modules, file=sys.stderr))\n{code}"
    command = [sys.executable, "-c", script, *arguments]
    process = subprocess.run(command, capture_output=True, timeout=120, check=True, stdin=subprocess.DEVNULL)
    modules = set(process.stderr.decode().split())
    return modules | {name.partition(".")[0] for name in modules}


def test_importing_headrace_imports_nothing_heavy() -> None:
    assert HEAVY & imported_by("import headrace") == set()


def test_what_headrace_exports_is_imported_when_it_is_asked_for() -> None:
    modules = imported_by("import headrace; headrace.Model")
    assert "headrace.api.model" in modules
    assert {"headrace.server", "llama_cpp", "llguidance", "pydantic", "rich", "typer"} & modules == set()


@pytest.mark.parametrize("arguments", [["--help"], ["models"], ["bench", "--help"]])
def test_a_command_that_runs_no_model_imports_no_engine(arguments: list[str]) -> None:
    modules = imported_by("from headrace.cli import main; main()", *arguments)
    assert "headrace.cli" in modules
    assert {"headrace.engine", "jinja2", "llama_cpp", "llguidance", "numpy"} & modules == set()


def test_run_imports_neither_the_server_nor_what_its_options_would_need() -> None:
    arguments = ("run", "smollm2", "hi", "--max-tokens", "1", "--threads", "1")
    modules = imported_by("from headrace.cli import main; main()", *arguments)
    assert "headrace.llama.model" in modules
    unwanted = {
        "fastapi",
        "headrace.bench",
        "headrace.server",
        "headrace.structured.schema",
        "headrace.structured.compiler",
        "llguidance",
    }
    assert unwanted & modules == set()
    assert "rich.progress" not in modules, "nothing is shown on a pipe"


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="tells what is mapped")
def test_weights_are_mapped() -> None:
    path = resolve("smollm2").path
    with LlamaModel.load(path) as model:
        name = os.path.realpath(path)
        mapped = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(name)]
        size = sum(int(end, 16) - int(begin, 16) for begin, end in (line[0].split("-") for line in mapped))
        assert size > 0.9 * model.size_bytes


@pytest.mark.parametrize("name", ["smollm2", "gemma3-270m"])
def test_the_tokens_that_end_a_text_are_those_that_llama_cpp_says(name: str) -> None:
    with LlamaModel.load(resolve(name).path) as model:
        is_eog, vocab = model._library.tiny.llama_vocab_is_eog, model._vocab
        assert model.eog_tokens == {token for token in range(model.n_vocab) if is_eog(vocab, token)}
