"""Cancelling is prompt, from anywhere, any number of times, and touches nobody else."""

from __future__ import annotations

import sys
from concurrent.futures import Future, wait
from types import FrameType

import pytest
from harness import PATIENCE, Gate, Scripted, echo, echoed, ids, run_async, scripted, started, texts, wait_until, within

from headrace import Context, EngineClosedError, StreamTimeoutError, TokenStream
from headrace.engine.channel import Channel
from headrace.engine.metrics import StreamStats
from headrace.engine.scripted import ScriptedRunner
from headrace.values.request import Request

PROMPTS = ("one", "two", "three")
ALL_WELL = [echoed(prompt) for prompt in PROMPTS]


def neighbours(made: Scripted) -> list[str]:
    return [texts(made.model.generate_stream(prompt)) for prompt in PROMPTS]


def test_a_stream_cancelled_at_any_step_leaves_its_neighbours_unchanged() -> None:
    for at in range(1, len(echoed("victim")) + 2):
        gate = Gate()
        with scripted(echo, before_step=gate) as made:
            with made.hold():
                streams = [made.model.generate_stream(prompt) for prompt in ("victim", *PROMPTS)]
            gate.step(at - 1)
            gate.wait()
            streams[0].cancel()
            gate.open()
            results = [within(stream.result) for stream in streams]
            assert [result.text for result in results[1:]] == ALL_WELL, f"step {at}"
            whole = echoed("victim")
            if at <= len(whole):  # what the running step samples still counts, and no more
                assert results[0].finish_reason == "cancelled"
                assert results[0].text == whole[:at]
                assert results[0].tokens_used == at


def test_a_stream_that_times_out_leaves_its_neighbours_unchanged() -> None:
    for at in range(1, len(echoed("victim")), 3):
        gate = Gate()
        with scripted(echo, before_step=gate) as made:
            with made.hold():
                streams = [made.model.generate_stream(prompt) for prompt in PROMPTS]
                victim = made.model.generate_stream("victim", timeout_ms=20)
            gate.step(at - 1)
            gate.wait()
            wait_until(lambda stream=victim: stream.metrics.latency_ms > 20 or stream.finish_reason)
            gate.open()
            with pytest.raises(StreamTimeoutError):
                within(victim.result)
            assert [within(stream.result).text for stream in streams] == ALL_WELL, f"step {at}"


def test_a_queued_stream_ends_at_once_even_during_a_step() -> None:
    gate = Gate()
    with scripted("abc", before_step=gate, max_streams=1) as made:
        running = made.model.generate_stream("p")
        gate.wait()  # the engine thread stands inside a step from here on
        queued = made.model.generate_stream("q")
        reader = started(list, queued)
        result = started(queued.result)
        queued.cancel()
        assert queued.finish_reason == "cancelled"
        assert reader.result(PATIENCE) == []
        assert result.result(PATIENCE).text == ""
        assert queued.usage.completion_tokens == 0
        assert made.model.metrics.queued == 0
        gate.open()
        assert texts(running) == "abc"


def test_a_place_in_the_queue_is_free_once_its_stream_was_cancelled() -> None:
    gate = Gate()
    with scripted("abc", before_step=gate, max_streams=1, max_queue=1) as made:
        running = made.model.generate_stream("p")
        gate.wait()
        for _ in range(20):
            made.model.generate_stream("q").cancel()
        last = made.model.generate_stream("q")
        gate.open()
        assert texts(running) == texts(last) == "abc"


def test_a_step_that_reads_a_prompt_for_nobody_is_ended() -> None:
    gate = Gate()
    with scripted(echo, before_step=gate) as made:
        stream = made.model.generate_stream("x" * 400)
        gate.wait()
        stream.cancel()
        gate.open()
        assert within(stream.result).finish_reason == "cancelled"
        assert made.steps == [], "it has computed nothing"
        assert made.model.generate("ab").text == echoed("ab")


def test_a_cancel_while_a_step_is_planned_ends_it_too() -> None:
    class Cancelling(ScriptedRunner):
        def load_sequence(self, sequence: int, spare: int, start: int, end: int, data: bytearray) -> bool:
            stream.cancel()
            return super().load_sequence(sequence, spare, start, end, data)

    with scripted(echo, runner_type=Cancelling) as made:
        made.model.generate("x" * 400)
        wait_until(lambda: not made.engine._scheduler.kv.can_copy_ahead)
        made.model.generate("y")  # the other one leaves the memory to it
        before = made.num_computed()
        with made.hold():
            stream = made.model.generate_stream("x" * 400 + "z" * 400)
        assert within(stream.result).finish_reason == "cancelled"
        made.settle()
        assert made.num_computed() == before, "it has computed nothing"


def test_who_is_not_cancelled_computes_again_what_was_ended() -> None:
    gate = Gate()
    with scripted(echo, before_step=gate) as made:
        streams = [made.model.generate_stream(text) for text in ("one" * 20, "two")]
        gate.wait()
        made.runner.interrupt()  # as by a cancel that came a moment too late
        gate.open()
        assert [texts(stream) for stream in streams] == [echoed("one" * 20), echoed("two")]


def test_a_step_that_reads_what_others_wait_for_is_not_ended() -> None:
    gate = Gate()
    with scripted(echo, before_step=gate, max_batch=40) as made:
        first = made.model.generate_stream("shared " * 10 + "one")
        gate.wait()
        second = made.model.generate_stream("shared " * 10 + "two")
        gate.pass_one()
        gate.wait()
        first.cancel()
        gate.open()
        assert texts(second) == echoed("shared " * 10 + "two")
        assert second.usage.cached_tokens == len("shared " * 10)


def test_a_step_that_others_need_is_not_ended() -> None:
    gate = Gate()
    with scripted(echo, before_step=gate) as made:
        other = made.model.generate_stream("else")
        gate.wait()
        stream = made.model.generate_stream("x" * 40)
        gate.pass_one()
        assert len(gate.wait()) == 2
        stream.cancel()
        gate.open()
        assert texts(other) == echoed("else")
        assert len(made.steps[1]) == 2, "it was run to its end"


def test_a_cancelled_prefill_stops_within_a_chunk_and_its_kv_is_free() -> None:
    gate = Gate()
    prompt = "x" * 400
    with scripted("abc", before_step=gate, max_batch=50) as made:
        stream = made.model.generate_stream(prompt)
        gate.step(2)
        gate.wait()
        computed = made.num_computed()
        assert 0 < computed < len(prompt)
        stream.cancel()
        gate.open()
        assert within(stream.result).finish_reason == "cancelled"
        assert stream.tokens_generated() == 0
        made.settle()
        assert made.num_computed() <= computed + 50
        assert made.model.metrics.kv_used == 0


def test_a_decoding_stream_ends_within_a_step_and_its_kv_is_free() -> None:
    gate = Gate()
    with scripted("abcdefghij", before_step=gate) as made:
        stream = made.model.generate_stream("p")
        gate.step(3)
        gate.wait()
        stream.cancel()
        gate.open()
        assert within(stream.result).text == "abcd"
        assert made.model.metrics.kv_used == 0
        assert len(made.steps) == 4


def test_a_paused_stream_can_be_cancelled() -> None:
    with scripted("abcdef") as made:
        stream = made.model.generate_stream("p", buffer_size=2)
        wait_until(lambda: made.model.metrics.paused == 1)
        stream.cancel()
        assert texts(stream) == "ab"
        assert stream.finish_reason == "cancelled"
        assert made.model.metrics.kv_used == 0


def test_the_tokens_before_the_cancel_can_still_be_read() -> None:
    gate = Gate()
    with scripted("abcdef", before_step=gate) as made:
        stream = made.model.generate_stream("p")
        gate.step(2)
        gate.wait()
        stream.cancel()
        gate.open()
        assert within(stream.result).text == "abc"
        assert texts(stream) == "abc"


def test_cancelling_again_or_after_the_end_changes_nothing() -> None:
    gate = Gate()
    with scripted("abc", before_step=gate, max_streams=1) as made:
        running = made.model.generate_stream("p")
        queued = made.model.generate_stream("q")
        gate.wait()
        for stream in (queued, running):
            for _ in range(3):
                stream.cancel()
                within(stream.cancel)
        gate.open()
        assert within(running.result).text == "a"
        finished = made.model.generate_stream("r")
        result = within(finished.result)
        assert result.finish_reason == "stop"
        finished.cancel()
        made.model.cancel_generation()
        made.settle()
        assert within(finished.result) == result
        assert made.engine.metrics().streams_finished == {"cancelled": 2, "stop": 1}


def test_an_id_may_be_used_again_after_a_cancel() -> None:
    """The message that cancels the first stream is still under way when the second one has its id."""
    gate = Gate()
    with scripted("abc", before_step=gate, max_streams=1) as made:
        blocking = made.model.generate_stream("p")
        gate.wait()
        channels = [Channel(64), Channel(64)]
        for channel in channels:
            made.engine.submit(Request("again", (1,), made.core.config), channel, StreamStats(0.0))
            if channel is channels[0]:
                made.engine.cancel("again")
        gate.open()
        ends = [channel.wait_end(PATIENCE) for channel in channels]
        assert [end and (end.finish_reason, end.text) for end in ends] == [("cancelled", ""), ("stop", "abc")]
        assert texts(blocking) == "abc"


def test_cancel_generation_reaches_every_stream_of_its_object_and_no_other() -> None:
    gate = Gate()
    with scripted("abcdef", before_step=gate, max_streams=8) as made:
        contexts = [Context(made.model), Context(made.model)]
        with made.hold():
            mine = [contexts[0].generate_stream("p") for _ in range(12)]  # some of them queued
            others = [contexts[1].generate_stream("q"), made.model.generate_stream("r")]
        gate.wait()
        contexts[0].cancel_generation()
        gate.open()
        assert {within(stream.result).finish_reason for stream in mine} == {"cancelled"}
        assert [texts(stream) for stream in others] == ["abcdef"] * 2
        assert contexts[0].generate("again").text == "abcdef", "a context can go on after a cancel"


def test_the_faces_of_a_model_cancel_their_own_streams() -> None:
    gate = Gate()
    with scripted("abcdef", before_step=gate) as made:
        other = made.model.as_async().as_sync()
        with made.hold():
            mine, theirs = made.model.generate_stream("p"), other.generate_stream("q")
        gate.wait()
        other.cancel_generation()
        gate.open()
        assert texts(mine) == "abcdef"
        assert within(theirs.result).finish_reason == "cancelled"


def test_streams_may_be_started_at_any_moment_of_a_cancel() -> None:
    with scripted("abc", max_queue=10_000) as made:
        kept = [made.model.generate_stream("p") for _ in range(3)]
        starting: list[Future[TokenStream]] = []

        def start_another(frame: FrameType, event: str, _: object) -> object:
            """Between any two lines of the cancel another thread starts a stream, or begins to and has to wait."""
            if event == "line" and len(starting) < 100:
                starting.append(started(made.model.generate_stream, "p"))
                wait(starting[-1:], timeout=0.01)
            return start_another

        def cancel() -> None:
            sys.settrace(start_another)  # of this thread alone
            try:
                made.model.cancel_generation()
            finally:
                sys.settrace(None)

        within(cancel)
        kept += [future.result(PATIENCE) for future in starting]
        assert len(kept) > 6
        assert {within(stream.result).finish_reason for stream in kept} <= {"cancelled", "stop"}


def test_closing_a_context_cancels_its_streams_and_takes_no_more() -> None:
    gate = Gate()
    with scripted("abcdef", before_step=gate) as made:
        context = Context(made.model)
        with made.hold():
            mine, other = context.generate_stream("p"), made.model.generate_stream("q")
        gate.wait()
        context.close()
        context.close()
        gate.open()
        assert within(mine.result).finish_reason == "cancelled"
        assert texts(other) == "abcdef"
        with pytest.raises(EngineClosedError, match="context"):
            context.generate_stream("p")
        assert made.model.generate("still").text == "abcdef"


def test_an_async_stream_can_be_cancelled_before_it_was_started() -> None:
    async def main(made: Scripted) -> None:
        stream = made.asynchronous.generate_stream("p")
        stream.cancel()
        assert (await stream.result()).finish_reason == "cancelled"
        stream = made.asynchronous.generate_stream("p")
        stream.cancel()
        assert [token.text async for token in stream] in ([], ["a"], ["a", "b"])

    with scripted(ids("ab" * 50), max_streams=1) as made:
        run_async(main(made))
