"""A slow reader pauses its own stream, and nobody else's."""

from __future__ import annotations

import pytest
from harness import Gate, Scripted, echo, echoed, ids, read, run_async, scripted, texts, wait_until, within

from headrace import StreamTimeoutError, TokenStream

LONG = "abcdefghij" * 30


def unread(stream: TokenStream) -> int:
    return len(stream._channel)


def wait_for_pause(made: Scripted, count: int = 1) -> None:
    wait_until(lambda: made.model.metrics.paused == count)
    made.settle()


@pytest.mark.parametrize("size", [1, 2, 3, 64])
def test_no_more_than_the_buffer_waits_unread(size: int) -> None:
    most = 0
    streams: list[TokenStream] = []

    def watch(*_: object) -> None:
        nonlocal most
        most = max(most, *map(unread, streams), 0)

    with scripted(LONG, before_step=watch) as made:
        streams.append(made.model.generate_stream("p", buffer_size=size))
        wait_for_pause(made)
        # Only here is a full buffer sure to be seen: once it is read, the engine may lag behind the reader throughout.
        assert unread(streams[0]) == streams[0].tokens_generated() == size
        text = ""
        while (token := within(next, streams[0], None)) is not None:
            text += token.text
            most = max(most, unread(streams[0]))
        assert text == LONG
        assert most <= size


@pytest.mark.parametrize("size", [1, 2, 3, 8, 64])
def test_reading_below_half_resumes(size: int) -> None:
    with scripted(LONG) as made:
        stream = made.model.generate_stream("p", buffer_size=size)
        wait_for_pause(made)
        while unread(stream) * 2 >= size:
            assert stream.tokens_generated() == size, "it went on too soon"
            assert made.model.metrics.paused == 1
            next(stream)
        wait_until(lambda: stream.tokens_generated() > size)
        wait_for_pause(made)
        assert unread(stream) == size


def test_a_paused_stream_pauses_only_itself() -> None:
    with scripted(echo) as made:
        slow = made.model.generate_stream("slow", buffer_size=1)
        wait_for_pause(made)
        for prompt in ("one", "two", "three"):
            assert made.model.generate(prompt).text == echoed(prompt)
        assert slow.tokens_generated() == 1
        assert texts(slow) == echoed("slow")


def test_a_paused_stream_keeps_its_kv() -> None:
    with scripted(LONG) as made:
        stream = made.model.generate_stream("prompt", buffer_size=4)
        wait_for_pause(made)
        assert made.model.metrics.kv_used == len("prompt") + 3  # the last sampled token is not computed yet
        assert texts(stream) == LONG
        assert made.num_computed() == len("prompt") + len(LONG), "something was computed twice"


def test_a_dropped_reader_frees_a_paused_stream() -> None:
    with scripted(LONG) as made:
        stream = made.model.generate_stream("p", buffer_size=2)
        wait_for_pause(made)
        del stream
        wait_until(lambda: made.model.metrics.paused == 0)
        assert made.engine.metrics().streams_finished == {"cancelled": 1}


def test_an_async_reader_is_paused_and_resumed_too() -> None:
    async def main(made: Scripted) -> None:
        stream = made.asynchronous.generate_stream("p", buffer_size=2)
        text = ""
        async for token in stream:
            text += token.text
            assert len(stream._channel) <= 2
        assert text == LONG

    with scripted(LONG) as made:
        run_async(main(made))


def test_paused_time_is_told_and_kept_out_of_the_speed() -> None:
    with scripted(LONG) as made:
        stream = made.model.generate_stream("p", buffer_size=2)
        wait_for_pause(made)
        wait_until(lambda: stream.metrics.paused_ms > 50)
        assert texts(stream) == LONG
        metrics = within(stream.result).metrics
        assert metrics.paused_ms > 50
        assert metrics.decode_ms <= metrics.latency_ms - metrics.paused_ms + 1e-6
        assert metrics.inter_token_p50_ms is not None
        assert metrics.inter_token_p50_ms < 50


def test_the_total_timeout_does_not_count_paused_time() -> None:
    with scripted("abcdefgh") as made:
        stream = made.model.generate_stream("p", buffer_size=2, timeout_ms=300)
        wait_for_pause(made)
        wait_until(lambda: stream.metrics.paused_ms > 400)
        assert texts(stream) == "abcdefgh"


def test_the_total_timeout_goes_on_after_a_pause() -> None:
    gate = Gate()
    with scripted(LONG, before_step=gate) as made:
        stream = made.model.generate_stream("p", buffer_size=2, timeout_ms=300)
        gate.step(2)
        wait_for_pause(made)
        assert next(stream).text + next(stream).text == "ab"
        gate.wait()
        wait_until(lambda: stream.metrics.latency_ms - stream.metrics.paused_ms > 320)
        gate.open()
        with pytest.raises(StreamTimeoutError) as caught:
            within(list, stream)
        assert caught.value.which == "total"


def test_the_stall_timeout_ends_a_stream_whose_reader_stays_away() -> None:
    with scripted(LONG) as made:
        stream = made.model.generate_stream("p", buffer_size=3, stall_timeout_ms=30)
        other = made.model.generate_stream("p")
        wait_until(lambda: stream._channel.end is not None)
        text, error = read(stream)
        assert text == "abc"
        assert isinstance(error, StreamTimeoutError)
        assert error.which == "stall"
        assert "stall_timeout_ms" in str(error)
        assert error.partial is not None
        assert (error.partial.text, error.partial.finish_reason) == ("abc", "timeout")
        assert texts(other) == LONG


def test_a_reader_that_keeps_up_never_stalls() -> None:
    with scripted(LONG) as made:
        stream = made.model.generate_stream("p", buffer_size=1, stall_timeout_ms=20_000)
        assert texts(stream) == LONG


def test_result_lifts_the_bound() -> None:
    with scripted(LONG) as made:
        stream = made.model.generate_stream("p", buffer_size=1)
        wait_for_pause(made)
        assert within(stream.result).text == LONG
        assert [token.text for token in stream] == [*LONG, ""]


def test_a_paused_stream_gives_its_place_to_who_waits_and_finishes_later() -> None:
    with scripted(echo, max_streams=2) as made:
        slow = [made.model.generate_stream(prompt, buffer_size=2) for prompt in ("one", "two")]
        wait_for_pause(made, 2)
        # Both places are taken; the next stream gets one without anybody reading.
        assert within(made.model.generate, "three").text == echoed("three")
        assert made.model.metrics.preemptions >= 1
        assert [texts(stream) for stream in slow] == [echoed("one"), echoed("two")]
        assert [within(stream.result).finish_reason for stream in slow] == ["stop", "stop"]


def test_a_parked_stream_waits_for_a_place_when_its_reader_is_back() -> None:
    gate = Gate()
    gate.open()
    with scripted(ids(LONG), max_streams=1, before_step=gate) as made:
        slow = made.model.generate_stream("p", buffer_size=2)
        wait_for_pause(made)
        other = made.model.generate_stream("q", buffer_size=len(LONG) + 1)
        assert texts(other) == LONG
        assert made.model.metrics.paused == 1
        assert made.model.metrics.kv_used == 0
        assert slow.usage.cached_tokens == 0, "what was computed for it before is no cached prompt"
        assert texts(slow) == LONG
        assert slow.usage.completion_tokens == len(LONG) + 1
