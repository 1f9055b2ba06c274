"""Put the `--help` pages of the command into docs/cli.md; with --check only say whether they are there already."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
# Between these two lines of the document, a page.
PAGE = re.compile(r"(?P<head><!-- headrace(?P<command>[ \w]*) --help -->\n).*?(?=<!-- end -->\n)", re.DOTALL)
# The pages must not depend on who makes them.
FIXED = {"COLUMNS": "80", "LC_ALL": "C.UTF-8", "NO_COLOR": "1", "TERM": "dumb"}


def help_page(command: str) -> str:
    """What `headrace COMMAND --help` prints."""
    arguments = [sys.executable, "-m", "headrace", *command.split(), "--help"]
    return subprocess.run(arguments, env=os.environ | FIXED, check=True, capture_output=True, text=True).stdout


def main() -> int:
    before = DOCUMENT.read_text(encoding="utf-8")
    after = PAGE.sub(lambda match: f"{match['head']}\n```text\n{help_page(match['command'])}```\n\n", before)
    if after == before:
        return 0
    if "--check" in sys.argv[1:]:
        print("docs/cli.md is behind the command; run: python scripts/update_docs.py", file=sys.stderr)
        return 1
    DOCUMENT.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
