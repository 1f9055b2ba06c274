"""The tests of the JavaScript client, which run in Node against these servers."""

from __future__ import annotations

from pathlib import Path

import pytest
from clients.serving import Server

from javascript.conftest import PACKAGE, node

FILES = sorted(path.name for path in (PACKAGE / "test").glob("*.test.js"))


@pytest.mark.parametrize("file", FILES)
def test_in_node(file: str, real: Server, parrot_url: str, guarded_url: str, forgetful_url: str, log: Path) -> None:
    node(
        "node",
        "--test",
        f"test/{file}",
        REAL_URL=real.url,
        REAL_LOG=str(real.log),
        PARROT_URL=parrot_url,
        GUARDED_URL=guarded_url,
        FORGETFUL_URL=forgetful_url,
        PARROT_LOG=str(log),
    )
