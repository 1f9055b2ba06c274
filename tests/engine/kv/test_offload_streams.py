"""What streams get of offloaded KV, in a scripted engine."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from harness import Gate, echo, echoed, scripted, texts, wait_until, within

from headrace.engine.runner import Slice, StepOutput
from headrace.engine.scripted import ScriptedRunner

LONG = "abcdefgh" * 8


def test_an_idle_engine_copies_ahead_and_the_next_stream_lies_in_the_first_cells() -> None:
    with scripted(echo, num_cells=2000) as made:
        made.model.generate(LONG)
        cached = made.model.metrics.kv_cached
        assert cached >= 2 * len(LONG)
        wait_until(lambda: not made.engine._scheduler.kv.can_copy_ahead)
        offloaded = made.engine.with_cache(lambda kv: kv.num_bytes_offloaded)
        assert made.model.metrics.kv_offloaded_bytes == offloaded > 0
        assert made.model.metrics.kv_cached == cached, "it is still here, too"
        assert made.model.generate("xyz").text == echoed("xyz")
        assert made.model.metrics.kv_cached < 20, "it has left to who came next"
        result = made.model.generate(LONG + "!")
        assert result.usage.cached_tokens == len(LONG)
        assert result.text == echoed(LONG + "!")


def test_conversations_in_turn_lie_in_the_first_cells() -> None:
    """What comes back comes after what has left."""

    used: list[int] = []

    class Noting(ScriptedRunner):
        def load_sequence(self, sequence: int, spare: int, start: int, end: int, data: bytearray) -> bool:
            used.append(self.num_used)
            return super().load_sequence(sequence, spare, start, end, data)

    with scripted(echo, num_cells=2000, runner_type=Noting) as made:
        for text in (LONG, "x" * 70, LONG + "!", "x" * 70 + "!"):
            result = made.model.generate(text)
            assert result.text == echoed(text)
            assert result.usage.cached_tokens == (len(text) - 1 if text[-1] == "!" else 0)
            wait_until(lambda: not made.engine._scheduler.kv.can_copy_ahead)
        assert used
        assert max(used) <= 128, "nothing else was there than what had come back before"


def test_who_goes_on_keeps_what_it_shares() -> None:
    with scripted(echo, num_cells=2000) as made:
        made.model.generate(LONG)
        wait_until(lambda: not made.engine._scheduler.kv.can_copy_ahead)
        before = made.engine.with_cache(lambda kv: kv.num_bytes_offloaded)
        assert made.model.generate(LONG + "!").usage.cached_tokens == len(LONG)
        assert made.model.generate(LONG + "?").usage.cached_tokens == len(LONG)
        assert made.engine.with_cache(lambda kv: kv.num_bytes_offloaded) >= before


@pytest.mark.parametrize(("megabytes", "expected"), [(256, 49), (0, 0), (0.0001, 0)])
def test_what_had_to_make_room_is_not_computed_again(megabytes: float, expected: int) -> None:
    with scripted(echo, num_cells=400, max_streams=2, prefix_cache_mb=megabytes) as made:
        prompts = [letter * 50 for letter in "abcdef"]
        for prompt in prompts:
            assert made.model.generate(prompt).text == echoed(prompt)
        result = made.model.generate(prompts[0])
        assert result.usage.cached_tokens == expected
        assert result.text == echoed(prompts[0])
        made.engine.clear_cache()
        assert made.model.generate(prompts[0]).usage.cached_tokens == 0


def test_a_stream_takes_up_what_was_offloaded_while_others_run() -> None:
    with scripted(echo, num_cells=2000, max_streams=4) as made:
        made.model.generate(LONG)
        others = [made.model.generate(letter * 150) for letter in "uvwxyz"]
        assert made.engine.metrics().kv_cached < 1500
        assert [other.finish_reason for other in others] == ["stop"] * 6
        streams = [made.model.generate_stream(LONG + end) for end in ("", "!", "?")]
        assert [texts(stream) for stream in streams] == [echoed(LONG + end) for end in ("", "!", "?")]
        assert [stream.usage.cached_tokens for stream in streams] == [len(LONG) - 1, len(LONG), len(LONG)]


@pytest.mark.parametrize("cancelled", [False, True])
def test_what_is_brought_back_beside_others_comes_in_some_steps(cancelled: bool) -> None:
    loads: list[int] = []

    class Counting(ScriptedRunner):
        def load_sequence(self, sequence: int, spare: int, start: int, end: int, data: bytearray) -> bool:
            loads[-1] += 1
            return super().load_sequence(sequence, spare, start, end, data)

        def run(self, slices: Sequence[Slice], padding: int = 0) -> StepOutput:
            loads.append(0)
            return super().run(slices, padding)

    with scripted(echo, num_cells=4000, max_saved=8, runner_type=Counting) as made:
        made.model.generate(LONG * 4)
        wait_until(lambda: not made.engine._scheduler.kv.can_copy_ahead)
        gate = made.runner.before_step = Gate()
        made.gates.append(gate)
        running = made.model.generate_stream("xyz" * 10)
        gate.wait()
        second = made.model.generate_stream(LONG * 4 + "!")
        gate.pass_one()
        gate.wait()
        if cancelled:
            gate.pass_one()
            gate.wait()
            second.cancel()
        gate.open()
        assert texts(running) == echoed("xyz" * 10)
        if cancelled:
            assert within(second.result).finish_reason == "cancelled"
        else:
            assert texts(second) == echoed(LONG * 4 + "!")
            assert second.usage.cached_tokens == len(LONG) * 4
            assert sum(loads) == len(LONG) * 4 // 8
        assert max(loads) == 8


def test_who_waits_for_somebody_else_takes_nothing_up() -> None:
    """It would take cells for what the other one computes."""
    with scripted(echo, num_cells=4000, max_streams=4) as made:
        made.model.generate(LONG)
        for letter in "uvwxyz":
            made.model.generate(letter * 150)
        with made.hold():
            first = made.model.generate_stream(LONG, seed=1)  # alone, it computes all of it
            second = made.model.generate_stream(LONG + "!")
        assert texts(first) == echoed(LONG)
        assert texts(second) == echoed(LONG + "!")
        assert second.usage.cached_tokens == len(LONG)
        assert made.model.metrics.kv_cached < 3 * 800


def test_a_seeded_stream_alone_begins_with_nothing_that_was_offloaded() -> None:
    """Its KV lies as in an empty memory."""
    with scripted(echo, num_cells=2000) as made:
        made.model.generate(LONG)
        for letter in "uvwxyz":
            made.model.generate(letter * 150)
        assert made.model.generate(LONG, seed=1).usage.cached_tokens == 0
        assert made.model.generate(LONG + "!").usage.cached_tokens == len(LONG)
