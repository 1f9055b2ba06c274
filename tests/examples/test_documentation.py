"""Every Python example of the documentation runs as it is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from headrace import EngineClosedError

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LIKE_PYTHON = re.compile(r"^[ \t>]*(?:```+|~~~+)[ \t]*\{?\.?(?:py\w*).*$", re.MULTILINE | re.IGNORECASE)


def blocks(page: Path) -> list[tuple[int, str]]:
    """The Python examples of a page, each with the line at which it starts."""
    text = page.read_text(encoding="utf-8")
    return [(text.count("\n", 0, found.start(1)), found[1]) for found in PYTHON.finditer(text)]


def run(page: Path) -> dict[str, object]:
    """Run the examples of a page as one program; a traceback names the line of the page."""
    names: dict[str, object] = {"__name__": "__main__"}
    for line, source in blocks(page):
        exec(compile("\n" * line + source, str(page), "exec", dont_inherit=True), names)
    return names


WITH_EXAMPLES = [page for page in PAGES if blocks(page)]


def test_the_pages_that_promise_examples_have_some() -> None:
    assert {"README.md", "conversations.md", "examples.md"} <= {page.name for page in WITH_EXAMPLES}


def test_no_example_hides_under_another_name() -> None:
    """A fence that names Python in any other way would not be run."""
    for page in PAGES:
        fences = LIKE_PYTHON.findall(page.read_text(encoding="utf-8"))
        assert fences == ["```python"] * len(blocks(page)), page.name


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: page.name)
def test_the_examples_run(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = run(page)
    assert capsys.readouterr().out.strip(), "the examples printed nothing"
    if "context" in names:
        with pytest.raises(EngineClosedError):  # the page leaves nothing open
            names["context"].generate("Hi")
