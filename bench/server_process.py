"""Starts servers as processes of their own, waits until they answer, and stops them."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["PATIENCE", "free_port", "started"]

# Seconds that a server has for loading its model, and for a workload.
PATIENCE = 120
# Seconds that a server has to end before it is killed.
_LAST_WORDS = 10


def free_port() -> int:
    """Return a port of this machine on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def started(name: str, command: Sequence[str | Path], port: int, ready: str) -> Iterator[str]:
    """Start a server, wait until a GET of the path `ready` answers 200, yield its URL, and stop it in the end.

    Raises:
        SystemExit: the server ended or did not answer in time; the message has the end of its log.
    """
    url = f"http://127.0.0.1:{port}"
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as process,
    ):
        try:
            deadline = time.monotonic() + PATIENCE
            while not _answers(url + ready):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise SystemExit(f"{name} is not ready: {log.read()[-3000:]}")
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(_LAST_WORDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except (OSError, urllib.error.URLError):
        return False
