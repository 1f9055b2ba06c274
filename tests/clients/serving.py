"""`headrace serve` as a process with a real model, for the clients to talk to, and what its log and metrics say."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["HERE", "PATIENCE", "Server", "beside_python", "wait_until", "with_node"]

HERE = Path(__file__).parent
HEADRACE = Path(os.environ.get("HEADRACE_TEMP") or HERE.parents[1] / ".venv" / "bin" / "headrace")
PATIENCE = 60.0
"""Seconds to wait for what must happen; no test measures time."""


class Server:
    """One `headrace serve smollm2` on a free port of 127.0.0.1.

    Args:
        log: where its output goes.
        flags: more flags of the command.
    """

    def __init__(self, log: Path, *flags: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.api = f"{self.url}/v1"
        self.log = log
        # One compute thread is slower, but other processes that want the cores cannot stall it.
        command = [str(HEADRACE), "serve", "--model", "smollm2", "--port", str(port), "--threads", "1", "--log-json"]
        with log.open("wb") as output:
            self.process = subprocess.Popen([*command, *flags], stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def wait_until_ready(self) -> None:
        wait_until(self._is_ready, "the server is ready")

    def _is_ready(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"headrace serve ended with {self.process.returncode}:\n{self.log.read_text()}")
        try:
            return self.get("/ready").status == 200
        except urllib.error.URLError:
            return False  # it does not listen yet, or answers 503: the model is being loaded

    def get(self, path: str, key: str = "secret") -> Any:
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {key}"})
        return urllib.request.urlopen(request, timeout=PATIENCE)

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        with self.get("/metrics") as answer:
            lines = answer.read().decode().splitlines()
        samples = [line for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
        assert samples, f"there is no metric {name}"
        return sum(float(line.rpartition(" ")[2]) for line in samples)

    def records(self, request_id: str) -> list[dict[str, Any]]:
        """What the log says about a request."""
        whole_lines = self.log.read_text().rpartition("\n")[0].splitlines()
        records = [json.loads(line) for line in whole_lines if line.startswith("{")]
        return [record for record in records if record.get("id") == request_id]

    def end_of(self, request_id: str) -> dict[str, Any]:
        """What the log says about the end of a stream; waits for it."""
        ends: list[dict[str, Any]] = []

        def has_ended() -> bool:
            ends[:] = [record for record in self.records(request_id) if "finish_reason" in record]
            return ends != []

        wait_until(has_ended, f"{request_id} has ended")
        return ends[0]

    def close(self) -> None:
        """End it as a user would; it must end well."""
        self.process.terminate()
        try:
            code = self.process.wait(PATIENCE)
        finally:
            self.process.kill()
        assert code == 0, f"exit code {code}:\n{self.log.read_text()}"


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for what only another process can bring about."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE:.0f} s in vain until {what}"
        time.sleep(0.02)


def with_node(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in node/, with a Node that is new enough first on the PATH."""
    return subprocess.run(
        [str(HERE / "node" / "with-node"), *command],
        cwd=HERE / "node",
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def beside_python(name: str) -> str:
    """A command of this environment."""
    return str(Path(sys.executable).with_name(name))
