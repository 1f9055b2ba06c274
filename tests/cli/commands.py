"""Runs the command in processes and on terminals, for the tests of the command."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

COMMAND = [sys.executable, "-m", "headrace"]
ROOT = Path(__file__).resolve().parents[2]
# One thread, because two that wait for each other are slow where others compute as well.
HELLO = ("run", "smollm2", "Say hello.", "--temperature", "0", "--threads", "1")
PATIENCE = 120  # seconds; nothing here should take that long


def headrace(*arguments, stdin=b"", command=COMMAND, **environment):
    """Run the command to its end."""
    return subprocess.run(
        [*command, *arguments],
        input=stdin,
        capture_output=True,
        timeout=PATIENCE,
        env=os.environ | environment,
    )


@contextlib.contextmanager
def start(*arguments, **options):
    """Start the command, and end it at the latest with the `with`; its standard streams are pipes unless told."""
    # A child of a background job would ignore Ctrl-C; with a handler here, the child gets the default.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*COMMAND, *arguments], **(pipes | options)) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(condition):
    """Look again and again whether something has happened."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def objects(output):
    """The JSON lines of an output: tokens, and the last one."""
    *tokens, last = (json.loads(line) for line in output.splitlines())
    assert {token["type"] for token in tokens} <= {"token"}
    return tokens, last


def assert_error(process, code, *parts):
    """One line on standard error that says what is wrong, nothing on standard output."""
    message = process.stderr.decode()
    assert process.returncode == code, message
    assert process.stdout == b""
    assert message.startswith("headrace: ")
    assert message.count("\n") == 1
    for part in parts:
        assert part in message


class Terminal:
    """The far end of a pseudo-terminal, where what a program shows can be read."""

    def __init__(self):
        self.master, self.slave = pty.openpty()
        termios.tcsetwinsize(self.slave, (24, 200))
        self.shown = b""

    def read_until(self, wanted):
        """What was shown, when `wanted` was."""
        wait_until(lambda: self._read(0.1) and wanted in self.shown)

    def read_all(self):
        """What was shown, when every program has closed it."""
        os.close(self.slave)
        wait_until(lambda: not self._read(0.1))
        return self.shown

    def _read(self, seconds):
        if select.select([self.master], [], [], seconds)[0]:
            try:
                data = os.read(self.master, 65536)
            except OSError:  # how Linux says that the other end is closed
                data = b""
            if not data:
                return False
            self.shown += data
        return True
