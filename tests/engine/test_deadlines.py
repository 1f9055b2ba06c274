"""Each deadline ends its stream, says which it was, and keeps what there is."""

from __future__ import annotations

import pytest
from harness import UNHURRIED, Gate, Scripted, read, run_async, scripted, started, texts, wait_until, within

from headrace import GenerationError, StreamTimeoutError, TokenStream
from headrace.engine import scheduler


@pytest.fixture(autouse=True)
def _places_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A paused stream holds its place for good, so that what waits behind it waits until its deadline."""
    monkeypatch.setattr(scheduler, "PARK_AFTER", 3600.0)


def expired(stream: TokenStream) -> StreamTimeoutError:
    with pytest.raises(StreamTimeoutError) as caught:
        within(stream.result)
    assert isinstance(caught.value, GenerationError)
    assert stream.finish_reason == "timeout"
    assert caught.value.partial is not None
    assert caught.value.partial.finish_reason == "timeout"
    return caught.value


def test_total() -> None:
    gate = Gate()
    with scripted("abcdef", before_step=gate) as made:
        stream = made.model.generate_stream("p", timeout_ms=50)
        gate.step(2)
        gate.wait()
        wait_until(lambda: stream.metrics.latency_ms > 50)
        gate.open()
        text, error = read(stream)
        assert isinstance(error, StreamTimeoutError)
        assert error.which == "total"
        assert "more than 50 ms" in str(error)
        assert "(timeout_ms)" in str(error)
        assert error.partial is not None
        assert error.partial.text == text == "abc"
        assert error.partial.usage.completion_tokens == 3
        assert expired(stream).which == "total", "result() raises it, too, and again"


def test_total_counts_the_queue_and_needs_no_step() -> None:
    with scripted("abc", max_streams=1) as made:
        blocking = made.model.generate_stream("p", buffer_size=1)
        wait_until(lambda: made.model.metrics.paused == 1)
        error = expired(made.model.generate_stream("q", timeout_ms=20))
        assert error.which == "total"
        assert error.partial is not None
        assert error.partial.text == ""
        assert texts(blocking) == "abc"


def test_queue() -> None:
    gate = Gate()
    with scripted("abc", before_step=gate, max_streams=1) as made:
        running = made.model.generate_stream("p", queue_timeout_ms=20)
        gate.wait()
        queued = made.model.generate_stream("q", queue_timeout_ms=20)
        wait_until(lambda: queued.metrics.latency_ms > 20)
        gate.open()
        error = expired(queued)
        assert error.which == "queue"
        assert "queue_timeout_ms" in str(error)
        assert texts(running) == "abc", "the deadline is for waiting, and this one did not wait"
        assert made.model.generate("r", queue_timeout_ms=60_000).text == "abc"


def test_first_token() -> None:
    gate = Gate()
    with scripted("abc", before_step=gate, max_batch=10, max_streams=4) as made:
        stream = made.model.generate_stream("x" * 100, first_token_timeout_ms=30)
        gate.step(2)
        gate.wait()
        wait_until(lambda: stream.metrics.latency_ms > 30)
        gate.open()
        error = expired(stream)
        assert error.which == "first_token"
        assert "first_token_timeout_ms" in str(error)
        assert stream.time_to_first_token_ms is None
        made.settle()
        assert made.model.metrics.kv_used == 0


def test_the_first_token_deadline_is_met_by_the_first_token() -> None:
    gate = Gate()
    with scripted("abc", before_step=gate) as made:
        stream = made.model.generate_stream("p", first_token_timeout_ms=10_000)
        gate.step()
        gate.wait()
        assert stream.time_to_first_token_ms is not None
        sequence = stream._engine._live.get(stream.id)
        assert sequence is not None
        assert sequence.deadline() is None
        gate.open()
        assert texts(stream) == "abc"


def test_the_nearest_deadline_counts() -> None:
    with scripted("abc", max_streams=1) as made:
        blocking = made.model.generate_stream("p", buffer_size=1)
        wait_until(lambda: made.model.metrics.paused == 1)
        streams = [
            made.model.generate_stream("q", timeout_ms=60_000, queue_timeout_ms=20, first_token_timeout_ms=30_000),
            made.model.generate_stream("q", timeout_ms=20, queue_timeout_ms=60_000),
            made.model.generate_stream("q", queue_timeout_ms=60_000, first_token_timeout_ms=20),
        ]
        assert [expired(stream).which for stream in streams] == ["queue", "total", "first_token"]
        assert texts(blocking) == "abc"


def test_zero_is_no_limit() -> None:
    with scripted("abc", config=UNHURRIED) as made:
        stream = made.model.generate_stream("p", buffer_size=1)
        wait_until(lambda: made.model.metrics.paused == 1)
        sequence = stream._engine._live.get(stream.id)
        assert sequence is not None
        assert sequence.deadline() is None
        assert texts(stream) == "abc"


def test_async() -> None:
    async def main(made: Scripted) -> None:
        stream = made.asynchronous.generate_stream("q", timeout_ms=20)
        with pytest.raises(StreamTimeoutError) as caught:
            async for _ in stream:
                pass
        assert caught.value.which == "total"
        with pytest.raises(StreamTimeoutError):
            await stream.result()
        with pytest.raises(StreamTimeoutError):
            await made.asynchronous.generate("q", queue_timeout_ms=20)

    with scripted("abc", max_streams=1) as made:
        blocking = made.model.generate_stream("p", buffer_size=1)
        wait_until(lambda: made.model.metrics.paused == 1)
        run_async(main(made))
        assert texts(blocking) == "abc"


def test_a_reader_that_waits_is_woken() -> None:
    with scripted("abc", max_streams=1) as made:
        blocking = made.model.generate_stream("p", buffer_size=1)
        wait_until(lambda: made.model.metrics.paused == 1)
        stream = made.model.generate_stream("q", timeout_ms=100)
        reader = started(list, stream)
        with pytest.raises(StreamTimeoutError):
            within(reader.result, 20)
        assert texts(blocking) == "abc"
