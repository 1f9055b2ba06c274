"""`headrace`: version, help, and completion in shells."""

from __future__ import annotations

import sys

import pytest

from cli.commands import ROOT, headrace
from headrace import StreamConfig


def test_version():
    from headrace import __version__

    process = headrace("--version")
    assert (process.returncode, process.stdout) == (0, f"headrace {__version__}\n".encode())


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["run", "--help"]])
def test_help_is_quick_because_it_imports_little(arguments):
    code = (
        "import sys\n"
        "from headrace.cli import main\n"
        "try: main()\n"
        "finally: print(*sys.modules, sep='\\n', file=sys.stderr)\n"
    )
    process = headrace(*arguments, command=[sys.executable, "-c", code])
    assert process.returncode == 0
    modules = set(process.stderr.decode().split())
    assert "headrace.cli" in modules
    assert not {"jinja2", "llama_cpp", "numpy"} & modules


def test_help_shows_the_defaults():
    page = " ".join(headrace("run", "--help", COLUMNS="80").stdout.decode().split())
    defaults = StreamConfig()
    for flag, value in [
        ("--max-tokens", defaults.max_tokens),
        ("--temperature", defaults.temperature),
        ("--top-k", defaults.top_k),
        ("--top-p", defaults.top_p),
        ("--min-p", defaults.min_p),
        ("--timeout", 0),
    ]:
        assert page.partition(f"{flag} ")[2].partition("[default: ")[2].startswith(f"{value}]")


def test_the_help_pages_in_the_documents_are_current():
    process = headrace("--check", command=[sys.executable, ROOT / "scripts" / "update_docs.py"])
    assert process.returncode == 0, process.stderr


def test_the_shell_completes_names_and_flags():
    def complete(words):
        environment = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
        return headrace(_HEADRACE_COMPLETE="complete_bash", **environment).stdout.decode().split()

    assert complete("headrace run smo") == ["smollm2"]
    assert complete("headrace mo") == ["models"]
    assert complete("headrace run smollm2 --max") == ["--max-tokens"]
