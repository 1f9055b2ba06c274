"""The tests of the JavaScript client, which run in Node against these servers."""

from __future__ import annotations

from pathlib import Path

import pytest
from clients.serving import Server

from javascript.conftest import PACKAGE, node

FILES = sorted(path.name for path in (PACKAGE / "test").glob("*.test.js"))


# A file, and each how many bytes it cuts streams, if it does.
RUNS = [*((file, 7) for file in FILES), pytest.param("splits.test.js", 1, marks=pytest.mark.long)]


@pytest.mark.parametrize(("file", "cut_every"), RUNS)
def test_in_node(
    file: str, cut_every: int, real: Server, parrot_url: str, guarded_url: str, forgetful_url: str, log: Path
) -> None:
    node(
        "node",
        "--test",
        f"test/{file}",
        CUT_EVERY=str(cut_every),
        REAL_URL=real.url,
        REAL_LOG=str(real.log),
        PARROT_URL=parrot_url,
        GUARDED_URL=guarded_url,
        FORGETFUL_URL=forgetful_url,
        PARROT_LOG=str(log),
    )
