"""Runs the clients in JavaScript: each file of tests in node/ with `node --test`, against the same servers."""

from __future__ import annotations

import pytest
from serving import HERE, Server, with_node


@pytest.mark.parametrize("file", sorted(path.name for path in (HERE / "node").glob("*.test.mjs")))
def test_in_node(server: Server, narrow: Server, file: str) -> None:
    command = ["node", "--test", "--test-reporter=spec", file]
    done = with_node(*command, SERVER=server.url, NARROW=narrow.url, SERVER_LOG=str(server.log))
    assert done.returncode == 0, done.stdout + done.stderr
