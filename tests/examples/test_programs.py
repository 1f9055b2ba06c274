"""The programs in examples/ run as their users have them: with the real model, sockets and terminals."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cli.commands import Terminal
from harness import PATIENCE, Gate, ids, scripted, wait_until
from rich.console import Console
from server.harness import TEMPLATE
from websockets.sync.client import connect

from headrace import Model

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
PROGRAMS = sorted(path.stem for path in EXAMPLES.glob("*.py"))
SLOW = 120  # seconds that a program with a real model may take


# As their users have them
# ------------------------


@contextmanager
def one_core() -> Iterator[None]:
    """What is started in here computes with one thread: two that wait for each other are slow where others compute."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(cores)[os.getpid() % len(cores)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


# Shown, so that a model that is not closed is seen; but llama_cpp opens /dev/null and never closes it.
WARNINGS = ["-W", "default", "-W", "ignore:unclosed file:ResourceWarning"]


def command(name: str, *arguments: str) -> list[str]:
    """How an example is started."""
    return [sys.executable, *WARNINGS, str(EXAMPLES / f"{name}.py"), *arguments]


def output(name: str, *arguments: str) -> str:
    """What an example prints, run to its end, without a word of complaint."""
    with one_core():
        process = subprocess.run(command(name, *arguments), capture_output=True, text=True, timeout=SLOW, cwd=ROOT)
    assert (process.returncode, process.stderr) == (0, "")
    return process.stdout


def test_the_index_names_every_example() -> None:
    """Each has a line in the README, and says in its first lines how it is run."""
    named = re.findall(r"^\| \[`(\w+)\.py`\]\(\1\.py\) \|", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    assert sorted(named) == PROGRAMS
    for name in PROGRAMS:
        head = (EXAMPLES / f"{name}.py").read_text().split('"""')[1]
        assert f"python examples/{name}.py [model]" in head


def test_threads() -> None:
    printed = output("threads")
    for question in ("What is a river?", "What is the moon?", "What is bread?", "What is a violin?"):
        assert re.search(re.escape(question) + r" \w", printed), "the question has no answer"
    tokens, steps = map(int, re.findall(r"(\d+) tokens in (\d+) steps", printed)[0])
    assert steps < tokens, "they were not computed together"


def test_progress() -> None:
    printed = output("progress")
    read, of = re.findall(r"reading .* (\d+)/(\d+)", printed)[-1]
    written, _ = re.findall(r"writing .* (\d+)/(\d+)", printed)[-1]
    assert read == of
    assert f"{read} tokens read in " in printed
    assert f"{written} tokens written in " in printed


def test_early_stopping() -> None:
    printed = output("early_stopping")
    sections = dict(re.findall(r"--- (\w+)\n(.*?)\n\n", printed, re.DOTALL))
    assert [line[:2] for line in sections["after_three_items"].splitlines()] == ["- "] * 3
    assert re.match(r"\[cancelled after \d+ ms\]\n[^.!?]+[.!?]", sections["after_the_first_sentence"])
    assert sections["before_a_string"] == "[stop_sequence: '\\n']\nParis"
    generated = int(re.findall(r"\[cancelled: (\d+) tokens\]", sections["when_told_to"])[0])
    assert 21 <= generated <= 21 + 4 + 2, "it went on after the cancel"


def test_thinking() -> None:
    found = re.fullmatch(r"(.+?)\n\n(.+)\n\n(\d+) of (\d+) tokens were thought\n", output("thinking"), re.DOTALL)
    assert found is not None
    assert found[1].strip()
    assert found[2].strip()
    assert 16 <= int(found[3]) < int(found[4]) <= 80


def test_form_filling() -> None:
    last = output("form_filling").splitlines()[-1]
    assert re.match(r"Person\(name='.+', age=\d+, profession='\w+', city='.+', likes=\[.*\]\)", last)


def test_tools() -> None:
    """Whether the arguments are good and what it makes of the results is SmolLM2's business."""
    printed = output("tools")
    assert re.match(r"\[temperature in (Cairo|Lima|Oslo)\]|\[[\d.]+ degrees in (fahrenheit|kelvin)\]", printed)
    rounds, messages = map(int, re.findall(r"\n\[(\d) rounds, (\d+) messages\]\n$", printed)[0])
    assert (1 <= rounds <= 3, messages) == (True, 2 + 2 * rounds)


@dataclass
class Process:
    """A server that was started as a program."""

    process: subprocess.Popen[bytes]
    address: str
    log: Path


@contextmanager
def serving(name: str, tmp_path: Path) -> Iterator[Process]:
    """Start a server, and stop it as a supervisor does; nothing may be left, and nothing may have gone wrong."""
    log = tmp_path / "log"
    with log.open("wb") as stderr, one_core():
        environment = os.environ | {"PORT": "0"}
        process = subprocess.Popen(command(name, "smollm2"), stderr=stderr, stdout=stderr, env=environment, cwd=ROOT)
    with process:
        try:
            running = re.compile(r"running on http://(127\.0\.0\.1:\d+)")
            wait_until(lambda: running.search(log.read_text()) or process.poll() is not None)
            assert process.poll() is None, log.read_text()
            yield Process(process, running.findall(log.read_text())[0], log)
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)
        finally:
            process.kill()
    text = log.read_text()
    assert "Application shutdown complete" in text
    assert not re.search("error|warning|traceback", text, re.IGNORECASE), text


def test_sse_with_a_real_client(tmp_path: Path) -> None:
    with serving("fastapi_sse", tmp_path) as server, httpx2.Client(base_url=f"http://{server.address}") as client:
        question = {"prompt": "Tell me a story.", "max_tokens": 12}
        with client.stream("POST", "/generate", json=question, timeout=SLOW) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            lines = list(response.iter_lines())
        assert set(lines[::3]) == {"event: message", "event: done"}
        assert set(lines[2::3]) == {""}
        *pieces, done = (json.loads(line.removeprefix("data: ")) for line in lines[1::3])
        assert "".join(piece["text"] for piece in pieces).strip()
        assert done == {"finish_reason": "length", "tokens": 12}

        with client.stream("POST", "/generate", json=question | {"max_tokens": 1000}, timeout=SLOW) as response:
            next(response.iter_lines())  # then it leaves, and the server goes on to answer others
        refusal = client.post("/generate", json=question | {"temperature": -1})
        assert refusal.status_code == 400
        assert "temperature" in refusal.json()["error"]


def test_websocket_with_a_real_client(tmp_path: Path) -> None:
    with (
        serving("fastapi_websocket", tmp_path) as server,
        connect(f"ws://{server.address}/ws", compression=None) as socket,
    ):
        frames: list[dict[str, Any]] = []
        for id in ("a", "b"):
            socket.send(json.dumps({"type": "generate", "id": id, "prompt": "Tell me a story.", "max_tokens": 8}))
        while sum(frame["type"] == "done" for frame in frames) < 2:
            frames.append(json.loads(socket.recv(SLOW)))
        for id in ("a", "b"):
            *tokens, done = (frame for frame in frames if frame["id"] == id)
            assert "".join(token["text"] for token in tokens).strip()
            assert done == {"type": "done", "id": id, "finish_reason": "length", "tokens": len(tokens)}


# A terminal of its own, in which Ctrl-C is a signal to the program.
IN_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, sys.argv[1:])
"""


def test_terminal_chat() -> None:
    terminal = Terminal()
    with one_core():
        process = subprocess.Popen(
            [sys.executable, "-c", IN_TERMINAL, *command("terminal_chat")],
            stdin=terminal.slave,
            stdout=terminal.slave,
            stderr=terminal.slave,
            cwd=ROOT,
        )

    def type_in(text: bytes, wanted: bytes) -> bytes:
        """Type, wait until something that matches is shown, and give what was shown until then."""
        terminal.shown = b""
        os.write(terminal.master, text)
        wait_until(lambda: terminal._read(0.1) and re.search(wanted, terminal.shown))
        return terminal.shown

    with process:
        try:
            type_in(b"", rb"> $")
            type_in(b"Tell me a long story.\r", rb"story\.\r\n[^>]{10}")  # an answer has begun, behind the echo
            assert b"[stopped]" in type_in(b"\x03", rb"\n> $")
            stats = type_in(b"/stats\r", rb"\}\r\n> $")
            assert b"'total_messages': 2" in stats
            assert b"'assistant_messages': 1" in stats
            type_in(b"\x03", rb"\^C")  # with no answer to stop, it stops nothing
            type_in(b"/new\r", rb"\n> $")
            assert b"'total_messages': 0" in type_in(b"/stats\r", rb"\}\r\n> $")
            os.write(terminal.master, b"\x04")
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
    assert b"Traceback" not in terminal.read_all()
    os.close(terminal.master)


# With a model that does as it is told
# ------------------------------------


def imported(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An example as a module, new each time."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def test_progress_shows_a_prompt_that_is_half_read(monkeypatch: pytest.MonkeyPatch) -> None:
    example = imported("progress", monkeypatch)
    gate = Gate()

    def shown(text: str = "") -> str:
        console = Console(file=io.StringIO(), width=100)
        console.print(example.view(stream, text))
        return console.file.getvalue()  # type: ignore[attr-defined]

    with scripted("abc", before_step=gate, max_batch=10, max_streams=2) as model:
        stream = model.model.generate_stream("y" * 25)
        gate.wait()
        assert " 0/25 " in shown()
        gate.pass_one()
        gate.wait()
        assert re.search(r"reading .* 10/25 ", shown())
        assert re.search(r"writing .* 0/60 ", shown())
        gate.pass_one()
        gate.step()
        gate.wait()
        assert re.search(r"reading .* 25/25 ", shown())
        assert re.search(r"writing .* 1/60 .* the first after \d+ ms", shown())
        assert shown("so far").rstrip().endswith("so far")
        gate.open()


def test_tools_are_called(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With a model that calls one function, then another one with what came of it, and then answers."""

    def call(name: str, **arguments: Any) -> str:
        written = json.dumps({"name": name, "arguments": arguments})
        return f"<tool_call>\n{written}\n</tool_call>"

    def script(prompt: tuple[int, ...]) -> list[int]:
        conversation = bytes(token - 1 for token in prompt).decode()
        if "87.8" in conversation:
            return ids("It has 87.8 degrees.")
        if "31" in conversation:
            return ids(call("convert", celsius=31, unit="fahrenheit"))
        return ids(call("temperature", city="Cairo"))

    example = imported("tools", monkeypatch)
    with scripted(script, chat_template=TEMPLATE) as model:
        monkeypatch.setattr(Model, "load", lambda _ref: model.model)
        example.main()
    printed = capsys.readouterr().out
    assert printed == (
        "[temperature in Cairo]\n[31.0 degrees in fahrenheit]\nIt has 87.8 degrees.\n[2 rounds, 6 messages]\n"
    )
