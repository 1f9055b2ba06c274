"""What the wheel and the source package bring along for the browser."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WEB = ROOT / "src" / "headrace" / "web"


def build(target: str, source: Path, folder: Path) -> Path:
    """A package built by the locked backend, as `make dist` does."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
    environment = {**os.environ, "PYTHONWARNINGS": "default"}
    subprocess.run(command, cwd=source, check=True, capture_output=True, env=environment)
    (package,) = folder.iterdir()
    return package


@pytest.fixture(scope="module")
def source_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


def files_of(wheel: Path) -> dict[str, bytes]:
    """The files of a wheel for the browser, by their paths below web/."""
    prefix = "headrace/web/"
    with zipfile.ZipFile(wheel) as archive:
        return {name.removeprefix(prefix): archive.read(name) for name in archive.namelist() if name.startswith(prefix)}


def test_a_wheel_has_the_page_and_the_client(tmp_path: Path) -> None:
    files = files_of(build("wheel", ROOT, tmp_path))
    assert files["headrace.js"] == (ROOT / "clients" / "js" / "headrace.js").read_bytes()
    expected = {path.relative_to(WEB).as_posix() for path in (WEB / "page").iterdir()}
    assert expected < set(files)
    assert {"index.html", "vendor/marked.js", "vendor/dompurify.js"} < set(files)
    assert {"vendor/LICENSE-marked", "vendor/LICENSE-dompurify"} < set(files)
    assert not [
        name for name in files if name.endswith((".json", ".d.ts", ".md", ".gitignore")) or "node_modules" in name
    ]


def test_a_wheel_made_of_the_source_package_has_them_too(source_package: Path, tmp_path: Path) -> None:
    with tarfile.open(source_package) as archive:
        names = archive.getnames()
        archive.extractall(tmp_path / "source", filter="data")
    assert not [name for name in names if "node_modules" in name]
    (source,) = (tmp_path / "source").iterdir()
    files = files_of(build("wheel", source, tmp_path / "wheel"))
    assert files["headrace.js"] == (ROOT / "clients" / "js" / "headrace.js").read_bytes()
    assert {"index.html", "page/main.js", "vendor/marked.js"} < set(files)
