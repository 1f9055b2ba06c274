"""Every path that a document names in backticks exists, and every link leads to a file and a heading that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "headrace"
# A document names a path from its own folder, from the root, from the package, or from one of these rooms.
FOLDERS = (ROOT, ROOT / "src", PACKAGE, PACKAGE / "engine", PACKAGE / "server", PACKAGE / "web")
# The changelog names old paths, too.
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "bench/*.md", "examples/*.md", "clients/js/*.md")
    for path in ROOT.glob(pattern)
    if path.name != "CHANGELOG.md"
)
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
PATH = re.compile(r"\.?[\w-]+(?:/[\w.-]+)*/?")
# Paths in other programs.
ABSENT = {"examples/server/server.py"}
LINK = re.compile(r"\]\((?!https?:)([^)\s]*)\)")


def prose(document: Path) -> str:
    """Return the document without its code blocks."""
    return FENCE.sub("", document.read_text(encoding="utf-8"))


def named_paths(document: Path) -> list[str]:
    """Return each path in backticks: a folder such as `engine/kv/`, or a file of this repository."""
    names = [name for code in CODE.findall(prose(document)) for name in code.split()]
    return [
        name
        for name in names
        if PATH.fullmatch(name) and (name.endswith("/") or ("/" in name and name.endswith((".py", ".js", ".md"))))
    ]


def anchors(document: Path) -> set[str]:
    """Return the anchors of the document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_documents_name_paths() -> None:
    assert "engine/tuning/cost.py" in named_paths(ROOT / "docs" / "performance.md")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_named_paths_exist(document: Path) -> None:
    folders = (document.parent, *FOLDERS)
    missing = [
        name
        for name in named_paths(document)
        if name not in ABSENT and not any((folder / name).exists() for folder in folders)
    ]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for link in LINK.findall(prose(document)):
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
