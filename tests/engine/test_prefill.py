"""A long prompt is read in chunks that fit the step time, and nobody stands still for it."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
from harness import Gate, ids, scripted, texts, within

from headrace.engine.runner import Slice
from headrace.engine.tuning.cost import CostModel


def test_decoding_streams_are_in_every_step_while_a_long_prompt_is_read() -> None:
    gate = Gate()
    with scripted(lambda prompt: ids("x" * 60 if len(prompt) == 1 else "done"), before_step=gate) as made:
        with made.hold():
            decoding = [made.model.generate_stream(letter) for letter in "abc"]
        gate.step(2)
        gate.wait()
        reading = made.model.generate_stream("p" * 1000)
        gate.open()
        assert texts(reading) == "done"
        assert [texts(stream) for stream in decoding] == ["x" * 60] * 3
        chunks = [step for step in made.steps if any(len(part.tokens) > 1 for part in step)]
        assert len(chunks) > 1
        for step in chunks:
            assert [len(part.tokens) for part in step[:3]] == [1, 1, 1], "decodes go first"
            assert len(step) == 4


def test_no_step_is_larger_than_the_batch() -> None:
    for max_batch in (8, 16, 100):
        with scripted(lambda _: ids("ok" * 5), max_batch=max_batch, max_streams=8) as made:
            with made.hold():
                streams = [made.model.generate_stream(letter * 150) for letter in "abcdefgh"]
            assert {texts(stream) for stream in streams} == {"ok" * 5}
            assert max(sum(len(part.tokens) for part in step) for step in made.steps) <= max_batch


def test_the_oldest_prompt_gets_half_at_least_and_a_short_one_does_not_wait_for_it() -> None:
    with scripted(lambda _: ids("ok"), max_batch=64, step_target_ms=10_000) as made:
        with made.hold():
            prompts = ("a" * 900, "b" * 20, "c" * 900)
            streams = [made.model.generate_stream(prompt) for prompt in prompts]
        assert {texts(stream) for stream in streams} == {"ok"}
        first = {part.tokens[0]: len(part.tokens) for part in made.steps[0]}
        assert first == {ids("a")[0]: 44, ids("b")[0]: 20}, "half for the first, and what the short one leaves"


def learnt(num_decodes: int, num_prefill: int, seconds: float, cost: CostModel | None = None) -> CostModel:
    """A model that has seen many such steps, after some in which as many sequences only decoded, in 10 ms each."""
    cost = cost or CostModel(target=0.060, largest_chunk=512)
    for _ in range(50):
        cost.learn(num_decodes, 0, 0.010)
        cost.learn(num_decodes, num_prefill, seconds)
    return cost


def test_chunks_shrink_where_steps_are_slow_and_grow_where_they_are_fast() -> None:
    cost = learnt(1, 100, 0.110)  # 1 ms a token
    assert cost.chunk(1) == pytest.approx(50, abs=2)
    assert learnt(1, 100, 0.0150, cost).chunk(1) == 512
    assert 8 <= learnt(1, 100, 1.0, cost).chunk(1) < 20


def test_decoding_streams_take_their_share_of_the_step() -> None:
    cost = learnt(4, 40, 0.050)
    assert cost.chunk(4) == pytest.approx(50, abs=2)
    for _ in range(50):
        cost.learn(8, 0, 0.020)
    assert cost.decode_time(8) == pytest.approx(0.020)
    assert cost.decode_time(4) == pytest.approx(0.010, rel=0.01)
    assert cost.chunk(8) == pytest.approx(40, abs=2)
    assert cost.decode_time(16) == pytest.approx(0.040), "a bigger batch costs at most in proportion"
    assert cost.decode_time(2) == pytest.approx(0.010, rel=0.01), "a smaller one at most as much"
    assert cost.decode_time(0) == 0


def test_a_prompt_gets_twice_the_time_of_the_decodes_beside_it() -> None:
    cost = learnt(16, 10, 0.015)  # half a millisecond a token
    for _ in range(50):
        cost.learn(16, 0, 0.050)
    assert cost.chunk(16) == pytest.approx(200, abs=4), "150 ms although the target is 60"


@pytest.mark.parametrize(
    ("num_decodes", "per_token", "expected"),
    [
        (7, 0.00099, 50),
        (7, 0.0009, 55),
        (7, 0.00085, 56),
        (7, 0.0005, 56),
        (7, 0.000395, 126),
        (80, 0.0009, 55),
        (40, 0.00099, 50),
        (60, 0.00099, 50),
        (0, 0.0078, 21),
        (0, 0.0056, 30),
        (0, 0.0036, 47),
        (0, 0.0035, 64),
        (0, 0.0024, 64),
        (0, 0.0009, 192),
        (0, 0.0006, 256),
    ],
)
def test_chunks_fit_how_attention_is_computed(num_decodes: int, per_token: float, expected: int) -> None:
    """64 rows at a time where there are so many: fast where they are of one prompt, slow where others decode."""
    cost = CostModel(target=0.060, largest_chunk=512)
    cost.learn(1, 0, 0.010)
    cost.learn(num_decodes or 1, 0, 0.010)
    cost.learn(num_decodes, 100, 0.010 + 100 * per_token)
    assert cost.chunk(num_decodes) == expected


def test_where_prompts_are_read_together_none_waits_for_a_long_step() -> None:
    cost = CostModel(target=0.060, largest_chunk=512)
    cost.learn(1, 0, 0.010)
    cost.learn(0, 100, 0.100)
    assert cost.chunk(0) == 192, "180 ms"
    assert 50 <= cost.chunk(0, num_prompts=2) <= 63, "60 ms"


def test_a_model_of_which_nothing_is_known_begins_with_little() -> None:
    cost = CostModel(target=0.150, largest_chunk=512)
    assert cost.chunk(0) == 64
    cost.learn(1, 0, 0.300)
    assert cost.chunk(0) == 64


def test_chunks_stay_large_where_decodes_become_slower_while_a_prompt_is_read() -> None:
    """As when the memory fills up. Meanwhile no step has decodes alone."""
    cost = learnt(7, 20, 0.050)  # 10 ms, and 2 a token
    for _ in range(200):
        chunk = cost.chunk(7)
        cost.learn(7, chunk, 0.040 + 0.003 * chunk)
    assert cost.chunk(7) >= 10
    assert 0.040 + 0.003 * cost.chunk(7) < 0.130


def test_a_prompt_alone_is_not_read_in_steps_that_do_little_else_than_begin() -> None:
    cost = CostModel(target=0.060, largest_chunk=512)
    for _ in range(50):
        cost.learn(1, 0, 0.055)
        cost.learn(0, 100, 0.155)  # 1 ms a token
    assert cost.chunk(0) == 192, "220 ms, in whole tiles"
    for _ in range(50):
        cost.learn(1, 0, 0.005)
        cost.learn(0, 100, 0.105)
    assert cost.chunk(0) == 192, "180 ms, three times the target"


def test_a_prompt_goes_on_however_slow_the_model() -> None:
    cost = CostModel(target=0.060, largest_chunk=512)
    for _ in range(50):
        cost.learn(16, 0, 10.0)
        cost.learn(16, 8, 20.0)  # 1.25 s a token
    assert cost.chunk(16) == 16


def test_one_step_that_the_machine_held_up_does_not_change_much() -> None:
    cost = learnt(1, 100, 0.110)
    cost.learn(1, 100, 100.0)
    assert cost.chunk(1) > 25


def test_the_engine_chooses_its_chunks_by_cost() -> None:
    with scripted("ok", step_target_ms=1.0) as made:
        for _ in range(50):
            made.engine._tuning.cost.learn(0, 100, 1.0)
        assert within(made.model.generate, "q" * 100).text == "ok"
        assert len(made.steps[0][0].tokens) == 8, "the smallest chunk"


def test_a_seeded_prompt_alone_is_always_read_in_the_same_pieces() -> None:
    """Also behind a prefix that is there: what is computed together decides the last bits of the logits."""
    for cost in (1e-6, 1.0):
        with scripted("ok", step_target_ms=1.0) as made:
            for _ in range(50):
                made.engine._tuning.cost.learn(0, 100, cost)
            made.model.generate("q" * 150, seed=1)
            made.model.generate("q" * 150 + "r" * 100, seed=1)
        computed = [len(step[0].tokens) for step in made.steps]
        assert [count for count in computed if count > 1] == [32, 32, 32, 32, 22, 32, 32, 32, 26]


def test_the_engine_learns_what_its_steps_cost() -> None:
    """Each token of a prompt takes as long as it takes to spin for a millisecond."""

    def spin(slices: Sequence[Slice]) -> None:
        until = time.perf_counter() + 0.001 * sum(len(part.tokens) for part in slices)
        while time.perf_counter() < until:
            pass

    with scripted("ok", before_step=spin, step_target_ms=10.0) as made:
        assert within(made.model.generate, "p" * 200).text == "ok"
        chunks = [len(step[0].tokens) for step in made.steps]
        assert sum(chunks) == 200 + 2
        assert 20 <= max(chunks[5:]) <= 33, "three times the target"
