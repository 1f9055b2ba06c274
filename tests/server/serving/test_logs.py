"""Log lines: one per event, as text or JSON, and without any text of a prompt."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import sys
from typing import Any

import pytest
from harness import PATIENCE, started, within

from headrace.server.serving.logs import JsonFormatter, LineFormatter, announce, logging_to_stderr
from server.harness import MODEL, running
from server.listening import run_on


def record(event: str = "stream", error: BaseException | None = None, **extra: Any) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__) if error is not None else None
    made = logging.LogRecord("headrace.server", logging.INFO, __file__, 1, event, (), info)
    made.__dict__.update(extra)
    made.created, made.msecs = 1_700_000_000.25, 250.0
    return made


FIELDS = {"id": "a", "tokens": 3, "ms": 1.23456, "error": None, "path": "/v1/x\n2099 forged", "reasons": ["b"]}


def test_json() -> None:
    line = JsonFormatter().format(record(fields=FIELDS))
    assert "\n" not in line
    assert json.loads(line) == {
        "ts": "2023-11-14T22:13:20.250Z",
        "level": "info",
        "event": "stream",
        **FIELDS,
        "ms": 1.235,
    }


def test_a_line_for_people() -> None:
    line = LineFormatter().format(record(fields=FIELDS))
    expected = r'id=a tokens=3 ms=1.235 path="/v1/x\n2099 forged" reasons="[\"b\"]"'
    assert line == f"2023-11-14T22:13:20.250Z info stream {expected}"


def test_an_announcement() -> None:
    spoken = record("ready", said="serving a\nb", fields={"message": "serving a\nb"})
    assert LineFormatter().format(spoken) == "headrace: serving a b"
    assert json.loads(JsonFormatter().format(spoken))["event"] == "ready"


def test_long_values_are_cut() -> None:
    long = record(fields={"path": "x" * 30_000})
    assert len(LineFormatter().format(long)) < 400
    assert len(JsonFormatter().format(long)) < 400


SECRET = "my prompt"


def failure() -> BaseException:
    try:
        try:
            raise KeyError(SECRET)
        except KeyError as error:
            raise ExceptionGroup(SECRET, [ValueError(SECRET)]) from error
    except ExceptionGroup as error:
        return error


@pytest.mark.parametrize("formatter", [JsonFormatter(), LineFormatter()])
def test_a_traceback_says_where_and_not_what(formatter: logging.Formatter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADRACE_DEBUG", raising=False)
    failed = record("unexpected", failure())
    text = formatter.format(failed)
    for part in ("builtins.KeyError", "builtins.ExceptionGroup", "builtins.ValueError", "in failure"):
        assert part in text
    assert "Error: " not in text
    assert "Group: " not in text
    assert "my prompt" not in text
    if isinstance(formatter, JsonFormatter):
        assert "\n" not in text
        assert json.loads(text)["traceback"].startswith("  File ")

    monkeypatch.setenv("HEADRACE_DEBUG", "1")
    assert "KeyError: 'my prompt'" in formatter.format(failed)


def test_everything_that_is_logged_comes_out_in_one_form(capsys: pytest.CaptureFixture[str]) -> None:
    before = logging.getLogger().handlers
    with logging_to_stderr(as_json=True):
        announce("ready", "serving a", models=["a"])
        logging.getLogger("uvicorn.error").warning("it said %s", "this")
        logging.getLogger("uvicorn.error").info("not worth a line")
        logging.getLogger("asyncio").error("that")
    announce("not", "seen any more")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["level"], line["event"]) for line in lines] == [
        ("info", "ready"),
        ("warning", "it said this"),
        ("error", "that"),
    ]
    assert lines[0]["message"] == "serving a"
    assert logging.getLogger().handlers == before


def test_a_closed_standard_error_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    monkeypatch.setattr(sys, "stderr", closed)
    with logging_to_stderr(as_json=False):
        closed.close()
        announce("ready", "serving")


PROMPT = "a secret of mine"


def test_what_is_said_of_streams_and_of_refusals(capsys: pytest.CaptureFixture[str]) -> None:
    async def run() -> None:
        async with running("abc", {"timeout_ms": 0}) as server:
            await server.complete(PROMPT, stream=True)
            await server.complete([PROMPT, PROMPT], n=2)
            await server.ask("POST", "/v1/completions", {"model": MODEL, "prompt": {PROMPT: PROMPT}})
            await server.ask("POST", "/v1/completions", f"{{{PROMPT}".encode())
            await server.settled()
            generation = server.open_chat(id="mine")
            await generation.until(b"data: ")
            generation.leave()

    with logging_to_stderr(as_json=True):
        run_on("asyncio", run())
    text = capsys.readouterr().err
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["event"] for line in lines] == ["stream", "stream", "refused", "refused", "stream"]
    assert "secret" not in text

    one, four, refused, *_, left = lines
    assert {name: one[name] for name in ("model", "finish_reason", "cancelled_by", "error", "choices")} == {
        "model": MODEL,
        "finish_reason": "stop",
        "cancelled_by": None,
        "error": None,
        "choices": 1,
    }
    assert (one["prompt_tokens"], one["completion_tokens"]) == (len(PROMPT), 4)  # abc, and the end
    assert 0 <= one["time_to_first_token_ms"] <= one["latency_ms"]
    assert (four["choices"], four["completion_tokens"]) == (4, 16)
    assert four["prompt_tokens"] == 2 * len(PROMPT), "each prompt counts once"
    assert (refused["status"], refused["code"], refused["path"]) == (400, "invalid_value", "/v1/completions")
    assert left["id"] == "mine"
    assert left["cancelled_by"] in (None, "disconnect")  # it may have come to its end before


def test_a_failure_inside_the_server_is_logged_without_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    from headrace.server.serve import _log_failure

    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_log_failure)
        loop.call_exception_handler({"message": "Task failed", "task": "my prompt", "exception": failure()})

    with logging_to_stderr(as_json=True):
        run_on("asyncio", run())
    line = json.loads(capsys.readouterr().err)
    assert (line["level"], line["event"]) == ("error", "unexpected: Task failed")
    assert "in failure" in line["traceback"]


def test_a_reader_of_standard_error_that_does_not_read_stops_nothing() -> None:
    reading, writing = os.pipe()
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, reading)
        stderr = stack.enter_context(os.fdopen(writing, "w"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stderr", stderr)
            context = logging_to_stderr(as_json=True)
            context.__enter__()
        logger = logging.getLogger("headrace.server")
        within(lambda: [logger.info("x" * 1000) for _ in range(12_000)])
        # The pipe's other end comes to life, so that the thread that writes can come to its end.
        reader = started(lambda: [None for _ in iter(lambda: os.read(reading, 65536).count(b"\n"), 0)])
        within(context.__exit__, None, None, None)
        stderr.close()
        reader.result(PATIENCE)
