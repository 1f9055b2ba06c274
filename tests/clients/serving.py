"""`headrace serve` as a process with a real model, for the clients to talk to, and what its log and metrics say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["HERE", "PATIENCE", "Server", "beside_python", "wait_until", "with_node"]

HERE = Path(__file__).parent
HEADRACE = HERE.parents[1] / ".venv" / "bin" / "headrace"
PATIENCE = 60.0
"""Seconds to wait for what must happen; no test measures time."""


class Server:
    """One `headrace serve smollm2` on a free port; made when it is ready.

    Args:
        log: where its output goes.
        flags: more flags of the command.

    Attributes:
        url: its address.
        api: the address of its OpenAI-compatible endpoints.
    """

    def __init__(self, log: Path, *flags: str) -> None:
        self.log = log
        # One compute thread is slower, but other processes that want the cores cannot stall it.
        command = [str(HEADRACE), "serve", "smollm2", "--port", "0", "--threads", "1", "--log-json", *flags]
        with log.open("wb") as output:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            self.url: str = self._wait_for(lambda record: record.get("event") == "ready")["url"]
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        self.api = f"{self.url}/v1"

    def records(self, request_id: str) -> list[dict[str, Any]]:
        """What the log says about a request."""
        return [record for record in self._log() if record.get("id") == request_id]

    def end_of(self, request_id: str) -> dict[str, Any]:
        """What the log says about the end of a stream; waits for it."""
        return self._wait_for(lambda record: record.get("id") == request_id and "finish_reason" in record)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        request = urllib.request.Request(f"{self.url}/metrics", headers={"Authorization": "Bearer secret"})
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            lines = answer.read().decode().splitlines()
        samples = [line for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
        samples = [line for line in samples if all(f'{key}="{value}"' in line for key, value in labels.items())]
        assert samples, f"there is no metric {name}"
        return sum(float(line.rpartition(" ")[2]) for line in samples)

    def close(self) -> None:
        """End it as a user would; it must end well."""
        self.process.terminate()
        try:
            code = self.process.wait(PATIENCE)
        finally:
            self.process.kill()
        assert code == 0, f"exit code {code}:\n{self.log.read_text()}"

    def _log(self) -> list[dict[str, Any]]:
        whole_lines = self.log.read_text().rpartition("\n")[0].splitlines()
        return [json.loads(line) for line in whole_lines if line.startswith("{")]

    def _wait_for(self, is_wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first line of the log that is wanted."""
        found: list[dict[str, Any]] = []

        def is_there() -> bool:
            assert self.process.poll() is None, f"exit code {self.process.returncode}:\n{self.log.read_text()}"
            found[:] = filter(is_wanted, self._log())
            return found != []

        wait_until(is_there, "the server has logged it")
        return found[0]


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for what only another process can bring about."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE:.0f} s in vain until {what}"
        time.sleep(0.02)


def with_node(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in node/, with a Node that is new enough first on the PATH."""
    return subprocess.run(
        [str(HERE.parents[1] / "scripts" / "with-node"), *command],
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
