"""`headrace run` as its users have it: real processes, pipes, terminals and signals, and the real model."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import signal
import sys
import termios
import time
from pathlib import Path

import pytest

from cli.commands import HELLO, PATIENCE, assert_error, headrace, objects, start, wait_until
from headrace import StreamConfig

# Greedy, this goes on for long.
ENDLESS = ("run", "smollm2", "Once upon a time", "--raw", "--temperature", "0", "--threads", "1")


def joined(tokens):
    return "".join(token["text"] for token in tokens)


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
