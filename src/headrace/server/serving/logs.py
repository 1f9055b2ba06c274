"""The server's log lines, as text or JSON. They have the counts and times of each generation, but none of its text."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import re
import sys
import time
import traceback
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from logging.handlers import QueueHandler, QueueListener
from typing import Any

from headrace.server.serving.generation import Generation

__all__ = ["JsonFormatter", "LineFormatter", "announce", "log_stream", "logging_to_stderr"]

_logger = logging.getLogger("headrace.server")
# Values that are written as they are. All others are written as JSON, which has no line breaks.
_PLAIN = re.compile(r"[\w./:@+-]+", re.ASCII)
_MAX_VALUE = 300  # characters of a value in a line
_MAX_WAITING = 10_000  # lines that are not written yet


def log_stream(generation: Generation) -> None:
    """Log the line of a generation that has ended, one line for all its choices."""
    if not _logger.isEnabledFor(logging.INFO):
        return
    streams = generation.streams
    metrics = [stream.metrics for stream in streams]
    first = metrics[0]
    error = generation.error
    fields = {
        "id": generation.id,
        "model": generation.model,
        "finish_reason": generation.finish_reason,
        "cancelled_by": generation.cancelled_by,
        "error": None if error is None else error.code,
        "choices": len(streams),
        "prompt_tokens": sum(stream.usage.prompt_tokens for stream in generation.prompts),
        "cached_tokens": sum(stream.usage.cached_tokens for stream in generation.prompts),
        "completion_tokens": sum(stream.usage.completion_tokens for stream in streams),
        "time_to_first_token_ms": first.time_to_first_token_ms,
        "tokens_per_second": first.tokens_per_second,
        "queue_ms": first.queue_ms,
        "paused_ms": first.paused_ms,
        "latency_ms": max(stream_metrics.latency_ms for stream_metrics in metrics),
    }
    _logger.info("stream", extra={"fields": fields})


def announce(event: str, said: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """Log an event of the server as a whole.

    Args:
        event: the event's name.
        said: the line for people.
        level: the log level.
        fields: more fields of the JSON line.
    """
    _logger.log(level, event, extra={"said": said, "fields": {"message": said, **fields}})


@contextmanager
def logging_to_stderr(*, as_json: bool) -> Generator[None]:
    """Within a `with`, write all log records of this process to standard error.

    Args:
        as_json: whether a line is a JSON object.
    """
    stderr = _Stderr(sys.stderr)
    stderr.setFormatter(JsonFormatter() if as_json else LineFormatter())
    lines: queue.Queue[logging.LogRecord | None] = queue.Queue(_MAX_WAITING)
    handler, writer = _Lines(lines), _Writer(lines, stderr)
    root, ours = logging.getLogger(), logging.getLogger("headrace")
    before = root.handlers[:], root.level, ours.level
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    ours.setLevel(logging.INFO)
    writer.start()
    try:
        yield
    finally:
        writer.stop()
        root.handlers, level, our_level = before
        root.setLevel(level)
        ours.setLevel(our_level)


class _Lines(QueueHandler):
    """Hands log records to the writing thread, so that the event loop never waits for a reader of standard error."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Returns the record unchanged. Pickling is not needed, as it stays in this process."""
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Queue a record, or drop it if the queue is full."""
        with contextlib.suppress(queue.Full):
            self.queue.put_nowait(record)  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue]


class _Writer(QueueListener):
    """The thread that writes the records."""

    def enqueue_sentinel(self) -> None:
        """Ask the thread to end after the last record. Waits while the queue is full."""
        self.queue.put(None)  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue]


class _Stderr(logging.StreamHandler[Any]):
    """Standard error. If nobody reads it any more, the server goes on without a log."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Do nothing: the error cannot be reported anywhere."""


class JsonFormatter(logging.Formatter):
    """A JSON object per line: the time, the level, the event and its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        line = {"ts": _utc(record), "level": record.levelname.lower(), "event": _event(record)}
        line |= _fields(record)
        if (text := _traceback(record)) is not None:
            line["traceback"] = text
        return json.dumps(line, default=repr)


class LineFormatter(logging.Formatter):
    """A line for people: the text of `announce`, or time, level, event and the fields that have a value."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line, and the lines of a traceback after it."""
        said: str | None = getattr(record, "said", None)
        if said is not None:
            return "headrace: " + "".join(char if char.isprintable() else " " for char in said)
        pairs = [f"{name}={_shown(value)}" for name, value in _fields(record).items() if value is not None]
        text = _traceback(record)
        line = " ".join([_utc(record), record.levelname.lower(), _event(record), *pairs])
        return line if text is None else f"{line}\n{text}"


def _utc(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"


def _event(record: logging.LogRecord) -> str:
    return " ".join(record.getMessage().split())


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: Mapping[str, Any] = getattr(record, "fields", {})
    return {name: _shortened(value) for name, value in fields.items()}


def _shortened(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _MAX_VALUE:
        return f"{value[: _MAX_VALUE - 3]}..."
    return round(value, 3) if isinstance(value, float) else value


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=repr)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def _traceback(record: logging.LogRecord) -> str | None:
    """Returns an exception's traceback without its message, which may quote a prompt.

    With `HEADRACE_DEBUG`, the message is included.
    """
    if record.exc_info is None or record.exc_info[1] is None:
        return None
    if os.environ.get("HEADRACE_DEBUG", "0") not in ("", "0"):
        return "".join(traceback.format_exception(record.exc_info[1])).rstrip()
    return "".join(_frames(record.exc_info[1])).rstrip()


def _frames(error: BaseException) -> Iterator[str]:
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if earlier is not None:
        yield from _frames(earlier)
        yield "\nThen:\n"
    yield from traceback.format_tb(error.__traceback__)
    yield f"{type(error).__module__}.{type(error).__qualname__}\n"
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
            yield from _frames(inner)  # pyright: ignore[reportUnknownArgumentType]
