"""The queue is bounded and fair."""

from __future__ import annotations

from dataclasses import replace

import pytest
from harness import Gate, Scripted, ids, run_async, scripted, texts, within
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace import Context, QueueFullError, StreamConfig
from headrace.engine.channel import Channel
from headrace.engine.fair_queue import MAX_OVERTAKING, FairQueue
from headrace.engine.metrics import StreamStats
from headrace.engine.sequence import Sequence
from headrace.values.request import Request


@pytest.mark.parametrize(("max_streams", "max_queue"), [(1, 0), (1, 1), (3, 5), (4, 64)])
def test_exactly_so_many_are_accepted(max_streams: int, max_queue: int) -> None:
    async def refused(made: Scripted) -> None:
        stream = made.asynchronous.generate_stream("p")
        with pytest.raises(QueueFullError):
            await anext(stream)
        with pytest.raises(QueueFullError):
            await stream.result()

    gate = Gate()
    with scripted("abc", before_step=gate, max_streams=max_streams, max_queue=max_queue) as made:
        streams = [made.model.generate_stream("p") for _ in range(max_streams + max_queue)]
        for _ in range(2):
            with pytest.raises(QueueFullError) as caught:
                made.model.generate_stream("p")
            assert caught.value.max_queue == max_queue
            assert caught.value.retry_after > 0
        run_async(refused(made))
        gate.open()
        assert [texts(stream) for stream in streams] == ["abc"] * len(streams)
        assert made.model.generate("p").text == "abc", "there is room again"
        assert made.model.metrics.streams_started == max_streams + max_queue + 1


def test_a_refusal_comes_at_once_even_during_a_step() -> None:
    gate = Gate()
    with scripted("abc", before_step=gate, max_streams=1, max_queue=0) as made:
        stream = made.model.generate_stream("p")
        gate.wait()
        with pytest.raises(QueueFullError):
            within(made.model.generate_stream, "p")
        gate.open()
        assert texts(stream) == "abc"


def first_steps(made: Scripted) -> list[int]:
    """The first token of each prompt, in the order in which they were computed."""
    started: dict[int, int] = {}
    for step in made.steps:
        for part in step:
            if part.start == 0 or len(part.tokens) > 1:
                started.setdefault(id(part.sampler), part.tokens[0])
    return list(started.values())


def test_flows_take_turns() -> None:
    with scripted(lambda _: ids("ok"), max_streams=1, max_queue=100) as made:
        busy, other = Context(made.model), Context(made.model)
        with made.hold():
            streams = [busy.generate_stream("a") for _ in range(60)]
            streams += [other.generate_stream("b"), made.model.generate_stream("c")]
        assert {texts(stream) for stream in streams} == {"ok"}
        order = first_steps(made)
        assert sorted(order[:4]) == sorted(ids("aabc")), "two callers came later, and each has the next turn but one"
        assert order[4:] == ids("a" * 58)


def test_first_come_first_served_within_a_flow() -> None:
    with scripted(lambda _: ids("ok"), max_streams=1, max_queue=100) as made:
        with made.hold():
            streams = [made.model.generate_stream(letter) for letter in "edcbafghij"]
        assert {texts(stream) for stream in streams} == {"ok"}
        assert first_steps(made) == ids("edcbafghij")


def test_who_was_cancelled_in_the_queue_does_not_hold_it_up() -> None:
    gate = Gate()
    with scripted("abc", before_step=gate, max_streams=1) as made:
        running = made.model.generate_stream("p")
        gate.wait()
        gone = [made.model.generate_stream("q") for _ in range(5)]
        last = made.model.generate_stream("r")
        for stream in gone:
            stream.cancel()
        gate.open()
        assert texts(running) == texts(last) == "abc"
        assert first_steps(made) == ids("pr")


def test_places_are_taken_as_they_become_free() -> None:
    with scripted(lambda prompt: ids("x" * len(prompt)), max_streams=3) as made:
        with made.hold():
            streams = [made.model.generate_stream("p" * count) for count in (1, 9, 4, 2, 7, 3)]
        assert [texts(stream) for stream in streams] == ["x" * count for count in (1, 9, 4, 2, 7, 3)]
        assert max(map(len, made.steps)) == 3
        assert made.model.metrics.preemptions == 0


def test_the_figures_of_the_engine() -> None:
    gate = Gate()
    with scripted("abc", before_step=gate, max_streams=2, max_queue=10) as made:
        with made.hold():
            streams = [made.model.generate_stream("prompt") for _ in range(5)]
        gate.step()
        gate.wait()
        metrics = made.model.metrics
        assert (metrics.queued, metrics.running, metrics.paused) == (3, 2, 0)
        assert metrics.streams_started == 5
        assert metrics.streams_finished == {}
        assert metrics.prompt_tokens == 5 * len("prompt")
        assert metrics.completion_tokens == 2
        assert metrics.kv_total == made.runner.num_cells
        assert metrics.kv_used == made.runner.num_used
        gate.open()
        for stream in streams:
            assert texts(stream) == "abc"
        metrics = made.model.metrics
        assert metrics.streams_finished == {"stop": 5}
        assert metrics.completion_tokens == 5 * 4
        assert metrics.cached_tokens == sum(stream.usage.cached_tokens for stream in streams)
        assert metrics.kv_used == 0
        assert metrics.steps == len(made.steps)
        assert metrics.step_ms > 0


def waiting(length: int) -> Sequence:
    """A sequence with a prompt of so many tokens."""
    request = Request(id="r", prompt=(1,) * length, config=StreamConfig())
    return Sequence(request, Channel(1), None, StreamStats(0.0))


def test_a_short_prompt_overtakes_a_few_long_ones() -> None:
    queue = FairQueue()
    long = [waiting(2000) for _ in range(3)]
    short = [waiting(10) for _ in range(20)]
    for sequence in (*long, *short):
        queue.push(sequence, len(sequence.tokens))
    order = [queue.pop() for _ in range(23)]
    assert [order.index(sequence) for sequence in long] == [1, 3, 5]
    assert [sequence for sequence in order if sequence in short] == short


@settings(max_examples=300)
@given(st.lists(st.integers(1, 5000), max_size=40))
def test_nobody_is_overtaken_by_many(lengths: list[int]) -> None:
    queue = FairQueue()
    sequences = [waiting(length) for length in lengths]
    for sequence in sequences:
        queue.push(sequence, len(sequence.tokens))
    order = [sequences.index(queue.pop()) for _ in lengths]
    assert sorted(order) == list(range(len(lengths)))
    for at, number in enumerate(order):
        overtaking = [earlier for earlier in order[:at] if earlier > number]
        assert len(overtaking) < MAX_OVERTAKING
        assert all(lengths[other] < lengths[number] for other in overtaking)


def test_prompts_of_one_length_keep_their_order() -> None:
    queue = FairQueue()
    sequences = [waiting(700) for _ in range(30)]
    for sequence in sequences:
        queue.push(sequence, len(sequence.tokens))
    assert [queue.pop() for _ in sequences] == sequences


def test_what_is_cached_already_does_not_make_a_prompt_long() -> None:
    history = "h" * 1500
    with scripted(lambda _: ids("ok"), max_streams=1) as made:
        assert within(made.model.generate, history).text == "ok"
        with made.hold():
            streams = [made.model.generate_stream(prompt) for prompt in ("x" * 1500, history + "y", "w")]
        assert [texts(stream) for stream in streams] == ["ok"] * 3
        firsts = [ids(letter)[0] for letter in "yw"]
        seen = [part.tokens[0] for step in made.steps for part in step if part.sampler and part.tokens[0] in firsts]
        assert seen == firsts
        assert made.steps[-3][0].tokens[0] == ids("x")[0], "the long one comes last"


def test_metrics_tell_sampling_from_what_is_left() -> None:
    with scripted("abc") as made:
        run = made.runner.run
        made.runner.run = lambda slices, padding=0: replace(run(slices, padding), sample_seconds=1000.0)
        assert texts(made.model.generate_stream("prompt")) == "abc"
        metrics = made.model.metrics
        assert metrics.sampling_ms == pytest.approx(1_000_000)
        assert metrics.overhead_ms == 0  # longer than the steps themselves: nothing is left
