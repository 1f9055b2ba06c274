"""Whatever fails, every stream ends exactly once, no reader hangs, and a stream's trouble stays its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from harness import (
    PATIENCE,
    Gate,
    Scripted,
    echo,
    echoed,
    ids,
    read,
    run_async,
    scripted,
    started,
    wait_until,
    within,
)

from headrace import EngineClosedError, GenerationError, StreamConfig, TokenStream
from headrace.engine.runner import NoRoomError, Sample, Slice
from headrace.engine.scripted import ScriptedRunner

PROMPTS = ("one", "two", "three")
# In a step of its own, each of the three computes 1 token more than it emits; together they take this many steps.
NUM_STEPS = max(len(echo(tuple(ids(prompt)))) for prompt in PROMPTS) + 1


class Fault(Exception):
    """What goes wrong."""


class Fatal(BaseException):
    """What goes wrong so badly that the engine thread dies of it."""


class Steps:
    """Called before each step; raises in those that `fails` picks."""

    def __init__(self, fails: Callable[[int, Sequence[Slice]], BaseException | None]) -> None:
        self.fails = fails
        self.count = 0

    def __call__(self, slices: Sequence[Slice]) -> None:
        error = self.fails(self.count, slices)
        self.count += 1
        if error is not None:
            raise error


def outcomes(made: Scripted) -> list[tuple[str, str]]:
    """Run the three at once: (how it ended, its text), with what was streamed equal to what it ended with."""

    def outcome(stream: TokenStream) -> tuple[str, str]:
        text, error = read(stream)
        if error is None:
            assert within(stream.result).text == text
            return str(stream.finish_reason), text
        assert isinstance(error, GenerationError)
        assert error.partial is not None
        assert error.partial.text == text
        return type(error).__name__, text

    with made.hold():
        streams = [made.model.generate_stream(prompt) for prompt in PROMPTS]
    return [outcome(stream) for stream in streams]


ALL_WELL = [("stop", echoed(prompt)) for prompt in PROMPTS]


@pytest.mark.parametrize("error", [Fault, NoRoomError])
@pytest.mark.parametrize("partial", [True, False])
def test_a_step_that_fails_once_harms_nobody_where_it_can_be_undone(error: type[Exception], partial: bool) -> None:
    for at in range(NUM_STEPS):
        steps = Steps(lambda count, slices, at=at: error("once") if count == at and len(slices) > 1 else None)
        with scripted(echo, before_step=steps, can_drop_partial=partial) as made:
            ended = outcomes(made)
            if partial or error is NoRoomError:
                assert ended == ALL_WELL, f"step {at}"
            else:  # a recurrent state is lost with the step, and with it whoever was in it
                assert all(
                    end == well or end[0] == "GenerationError" for end, well in zip(ended, ALL_WELL, strict=True)
                )
            assert made.model.generate("again").text == echoed("again"), "the engine did not survive"


@pytest.mark.parametrize("error", [Fault, NoRoomError])
@pytest.mark.parametrize("partial", [True, False])
def test_steps_that_fail_for_good_end_every_stream(error: type[Exception], partial: bool) -> None:
    for at in range(NUM_STEPS):
        steps = Steps(lambda count, _, at=at: error("for good") if count >= at else None)
        with scripted(echo, before_step=steps, can_drop_partial=partial) as made:
            for (end, text), (_, whole) in zip(outcomes(made), ALL_WELL, strict=True):
                assert whole.startswith(text)
                assert (end == "stop") == (text == whole) or end == "GenerationError", f"step {at}"
            steps.fails = lambda count, _: None
            assert made.model.generate("again").text == echoed("again"), "the engine did not survive"


def test_a_stream_whose_steps_fail_ends_alone() -> None:
    """From each of its positions on, one of three makes every step fail that it is in."""
    victim = len("three")
    for position in range(victim, victim + len(echoed("three"))):

        def fails(_: int, slices: Sequence[Slice], position: int = position) -> Exception | None:
            return Fault("mine") if any(_is_of(part, "three", position) for part in slices) else None

        with scripted(echo, before_step=Steps(fails)) as made:
            assert outcomes(made) == [*ALL_WELL[:2], ("GenerationError", echoed("three")[: position - victim + 1])]


def _is_of(part: Slice, prompt: str, position: int) -> bool:
    return part.sampler is not None and part.sampler.script == echo(tuple(ids(prompt))) and part.start >= position


def test_a_sampler_that_fails_ends_its_stream_alone() -> None:
    for at in range(len(echoed("three")) + 1):

        def fails(part: Slice, _: Sample, at: int = at) -> None:
            if part.sampler.at == at and part.sampler.script == echo(tuple(ids("three"))):
                raise Fault("mine")

        with scripted(echo, on_sample=fails) as made:
            assert outcomes(made) == [*ALL_WELL[:2], ("GenerationError", echoed("three")[:at])]


def test_the_error_says_what_failed_and_keeps_its_cause() -> None:
    with scripted("abc", before_step=Steps(lambda count, _: Fault("no more power") if count else None)) as made:
        stream = made.model.generate_stream("p")
        for _ in range(2):  # each call gets one of its own
            with pytest.raises(GenerationError, match="no more power") as caught:
                within(stream.result)
            assert isinstance(caught.value.__cause__, Fault)
            assert caught.value.partial is not None
            assert caught.value.partial.text == "a"
            assert caught.value.partial.usage.completion_tokens == 1
        assert stream.finish_reason is None


def test_the_tokens_before_a_failure_are_read_before_it() -> None:
    with scripted("abc", before_step=Steps(lambda count, _: Fault("late") if count == 2 else None)) as made:
        stream = made.model.generate_stream("p")
        with pytest.raises(GenerationError):
            within(stream.result)
        assert next(stream).text + next(stream).text == "ab"
        with pytest.raises(GenerationError):
            next(stream)
        with pytest.raises(StopIteration):
            next(stream)


def test_what_was_sampled_is_counted_whatever_failed() -> None:
    for at in range(NUM_STEPS):
        steps = Steps(lambda count, slices, at=at: Fault("once") if count == at and len(slices) > 1 else None)
        with scripted(echo, before_step=steps) as made:
            assert outcomes(made) == ALL_WELL
            made.settle()
            metrics = made.engine.metrics()
            assert metrics.completion_tokens == sum(len(text) + 1 for _, text in ALL_WELL), f"step {at}"
            assert metrics.prefill_tokens == sum(map(len, PROMPTS)), f"step {at}"


def test_a_dying_engine_thread_ends_every_stream_and_refuses_later_calls() -> None:
    for at in range(NUM_STEPS):
        with scripted(echo, before_step=Steps(lambda count, _, at=at: Fatal("dead") if count == at else None)) as made:
            with made.hold():
                streams = [made.model.generate_stream("three" * count) for count in (1, 2, 3)]
            for stream in streams:
                with pytest.raises(GenerationError, match="the engine thread failed"):
                    within(list, stream)
                with pytest.raises(GenerationError, match="the engine thread failed"):
                    within(stream.result)
            with pytest.raises(EngineClosedError):
                made.model.generate("again")
            with pytest.raises(EngineClosedError):
                run_async(made.asynchronous.generate("again"))


def test_a_stream_that_waits_or_is_paused_ends_with_its_engine() -> None:
    steps = Steps(lambda *_: None)
    with scripted("abcdef", before_step=steps, max_streams=2) as made:
        paused = made.model.generate_stream("p", buffer_size=1)
        assert next(paused).text == "a"
        gate = Gate()
        made.gates.append(gate)
        made.runner.before_step = gate
        running = made.model.generate_stream("q")
        gate.wait()
        queued = [made.model.generate_stream("r") for _ in range(3)]
        made.runner.before_step = Steps(lambda *_: Fatal("dead"))
        gate.pass_one()
        for stream in (paused, running, *queued):
            with pytest.raises(GenerationError, match="the engine thread failed"):
                within(stream.result)


@dataclass
class Fragile(ScriptedRunner):
    """Its memory cannot be told anything any more, once `is_broken`."""

    is_broken: bool = False

    def remove_sequence(self, sequence: int, start: int, end: int = -1) -> bool:
        if self.is_broken:
            raise Fault("the memory is gone")
        return super().remove_sequence(sequence, start, end)


def test_a_stream_that_ends_in_the_step_in_which_the_engine_dies_wakes_its_reader() -> None:
    """Its End is there, but the engine dies of letting its row go, before it wakes the readers of this step."""
    gate = Gate()
    with scripted(echo, before_step=gate, runner_type=Fragile) as made:
        assert isinstance(made.runner, Fragile)
        with made.hold():
            paused = made.model.generate_stream("p" * 20, buffer_size=1)
            sharing = made.model.generate_stream("p" * 20 + "q")
        gate.step()  # computes the prompt of the first, which then is paused
        gate.wait()  # shares all of it with the second
        waiting = started(paused._channel.wait_end)
        wait_until(lambda: len(paused._channel._end_waiters) == 1)
        made.runner.is_broken, made.is_consistent = True, False
        paused.cancel()
        gate.open()
        assert waiting.result(PATIENCE) is not None
        with pytest.raises(GenerationError, match="the memory is gone"):
            within(sharing.result)
        with pytest.raises(EngineClosedError):
            made.engine.check_open()


def test_a_settings_error_is_raised_by_the_call_and_starts_nothing() -> None:
    @dataclass
    class Picky(ScriptedRunner):
        def make_sampler(self, request: object) -> object:
            raise Fault("not with me")

    with scripted("abc", runner_type=Picky) as made:
        with pytest.raises(Fault, match="not with me"):
            made.model.generate_stream("p")
        with pytest.raises(Fault, match="not with me"):
            run_async(made.asynchronous.generate("p", StreamConfig()))
        assert made.model.metrics.streams_started == 0
