"""The governor chooses the fastest thread count, on a machine that other processes use, too."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from harness import scripted, within

from headrace.engine.runner import Slice
from headrace.engine.scripted import ScriptedRunner
from headrace.engine.tuning.cost import CostModel
from headrace.engine.tuning.thread_governor import Governor
from headrace.engine.tuning.tuner import Tuning

TARGET = 0.1
# Seconds of a step of one stream, by threads, alone and beside a process that wants a core.
ALONE = {1: 0.010, 2: 0.006}
BESIDE = {1: 0.010, 2: 0.030}


@dataclass
class Machine:
    """Runs steps on a clock of its own, with the threads that the governor chooses."""

    governor: Governor
    seconds: Callable[[int], float] = ALONE.__getitem__
    now: float = 100.0
    chosen: list[int] = field(default_factory=list[int])

    def run(self, steps: int, shape: tuple[int, int] = (1, 0)) -> list[int]:
        self.chosen = []
        for _ in range(steps):
            threads = self.governor.choose(*shape, self.now)
            seconds = self.seconds(threads)
            self.now += seconds
            self.governor.observe(*shape, threads, seconds, self.now)
            self.chosen.append(threads)
        return self.chosen

    def run_for(self, seconds: float) -> list[int]:
        end, chosen = self.now + seconds, list[int]()
        while self.now < end:
            chosen += self.run(1)
        return chosen


def machine(*, known: bool = True) -> tuple[CostModel, Machine]:
    cost = CostModel(TARGET, 512, (1, 2))
    if known:
        for threads, seconds in ALONE.items():
            cost.learn(1, 0, seconds, threads)
    return cost, Machine(Governor(cost))


def test_alone_it_takes_what_is_fastest() -> None:
    _, running = machine()
    chosen = running.run(10_000)  # a minute: some looks at the other, ever more rarely
    assert 5 <= chosen.count(1) <= 8
    assert chosen[-2000:].count(1) <= 1


def test_where_nothing_is_known_it_takes_all_threads() -> None:
    _, running = machine(known=False)
    assert running.run(100).count(1) <= 1


@pytest.mark.parametrize("known", [True, False])
def test_beside_a_neighbour_it_sheds_threads_within_a_few_steps(known: bool) -> None:
    _, running = machine(known=known)
    running.run(50)
    running.seconds = BESIDE.__getitem__
    chosen = running.run(20)
    assert chosen[:4].count(2) <= 2
    assert chosen[4:] == [1] * 16


def test_beside_a_neighbour_it_loses_little_by_trying() -> None:
    _, running = machine()
    running.run(50)
    running.seconds = BESIDE.__getitem__
    running.run(10)
    begin, steps = running.now, len(running.run_for(60))
    assert steps * BESIDE[1] / (running.now - begin) > 0.98


def test_when_the_neighbour_has_gone_it_takes_its_threads_again() -> None:
    cost, running = machine()
    running.run(50)
    running.seconds = BESIDE.__getitem__
    running.run_for(60)
    running.seconds = ALONE.__getitem__
    running.run_for(5)
    chosen = running.run(500)
    assert chosen.count(2) >= 499
    assert cost.slowdown == {1: 1.0, 2: 1.0}
    assert cost.step_time(1, 0, 2, calm=True) == pytest.approx(ALONE[2], rel=0.01), "the neighbour's time is not ours"


def test_a_neighbour_who_comes_and_goes_is_not_tried_all_the_time() -> None:
    _, running = machine()
    running.run(50)
    for _ in range(20):
        running.seconds = BESIDE.__getitem__
        running.run_for(2)
        running.seconds = ALONE.__getitem__
        running.run_for(2)
    running.seconds = BESIDE.__getitem__
    assert running.run_for(10).count(2) <= 8


def test_one_slow_step_changes_nothing() -> None:
    _, running = machine()
    running.run(50)
    for factor in (3, 10):
        running.seconds = lambda threads, factor=factor: factor * ALONE[threads]
        assert running.run(1) == [2]
        running.seconds = ALONE.__getitem__
        assert running.run(20).count(2) >= 19, "but for a look"


def test_slow_steps_with_a_pause_between_them_are_not_in_a_row() -> None:
    """The first step after a pause meets the work of those who have just asked for it."""
    _, running = machine()
    running.run_for(60)  # after which looks are rare
    running.seconds = lambda threads: 3 * ALONE[threads]
    chosen: list[int] = []
    for _ in range(5):
        chosen += running.run(1)
        running.now += 1
    assert chosen.count(2) >= 4
    running.seconds = ALONE.__getitem__
    assert running.run(20).count(2) >= 19, "but for a look"


def test_who_is_held_up_a_little_keeps_its_threads() -> None:
    """It is over soon as a rule, and with fewer threads that would be seen late."""
    cost, running = machine()
    running.run(50)
    running.seconds = lambda threads: {1: 0.010, 2: 0.0115}[threads]
    assert running.run(20).count(2) >= 19
    running.seconds = ALONE.__getitem__
    assert running.run(20).count(2) >= 19
    assert cost.slowdown == {1: 1.0, 2: 1.0}


def test_one_step_that_was_held_up_for_long_is_enough() -> None:
    _, running = machine()
    running.run(50)
    running.seconds = lambda threads: {1: 0.010, 2: 0.5}[threads]
    assert running.run(10) == [2] + [1] * 9


def test_steps_that_are_slower_with_any_threads_keep_theirs() -> None:
    """As when a sequence with a long history begins: it is no neighbour, and fewer threads would not help."""
    cost, running = machine()
    running.run(50)
    running.seconds = lambda threads: 2.5 * ALONE[threads]
    chosen = running.run(2000)
    assert chosen[10:].count(1) <= 30
    assert cost.step_time(1, 0, 2, calm=True) == pytest.approx(2.5 * ALONE[2], rel=0.1), "in time, it is believed"
    running.seconds = ALONE.__getitem__
    running.run(200)
    assert cost.step_time(1, 0, 2) == pytest.approx(ALONE[2], rel=0.1)


def test_what_grows_dearer_grows_dearer_with_any_threads() -> None:
    """A memory that fills, step by step, is no reason to think that fewer threads would do better."""
    cost, running = machine()
    for threads in (1, 2):
        cost.learn(0, 20, 21 * ALONE[threads], threads)
    for growth in range(100):
        running.seconds = lambda threads, factor=1 + growth / 40: 21 * ALONE[threads] * factor
        assert running.run(1, (1, 20)) == [2]
        assert cost.step_time(1, 0, 2) < cost.step_time(1, 0, 1)
        assert cost.step_time(1, 20, 2) < cost.step_time(1, 20, 1)


def test_one_thread_that_is_slow_is_held_up_by_nobody() -> None:
    """Whatever made its steps slow, two threads will feel it, too."""
    cost, running = machine()
    running.run(50)
    running.seconds = BESIDE.__getitem__
    assert running.run(10)[-1] == 1
    running.seconds = lambda threads: 3 * ALONE[threads]  # the neighbour has gone, but memory has become slow
    running.run_for(10)
    assert cost.slowdown == {1: 1, 2: 1}
    assert running.run(50).count(2) >= 49


def test_a_look_that_was_slower_than_thought_is_believed() -> None:
    cost, running = machine()
    cost.learn(1, 0, 0.0061, 1, weight=1)
    running.run_for(20)
    assert cost.step_time(1, 0, 1) > 0.009


def test_what_was_learnt_beside_a_neighbour_is_found_out() -> None:
    cost = CostModel(TARGET, 512, (1, 2))
    for threads, seconds in BESIDE.items():
        cost.learn(1, 0, seconds, threads)
    assert Machine(Governor(cost)).run(10) == [2] * 10, "it is not believed before it was seen"


def test_what_was_seen_beside_a_neighbour_is_found_out() -> None:
    cost = CostModel(TARGET, 512, (1, 2))
    for threads, seconds in BESIDE.items():
        cost.learn(1, 0, seconds, threads)
    running = Machine(Governor(cost), BESIDE.__getitem__)
    assert running.run(20) == [2] + [1] * 19
    running.seconds = ALONE.__getitem__
    running.run_for(4)
    assert running.run(50).count(2) >= 49


def test_a_first_try_that_met_somebody_is_found_out_soon() -> None:
    """Also long after the start, when looks at other counts are rare."""
    cost, running = machine()
    running.run_for(60)
    for threads, seconds in BESIDE.items():
        cost.learn(4, 0, seconds, threads)
    running.seconds = BESIDE.__getitem__
    assert running.run(20, (4, 0)) == [2] + [1] * 19
    running.seconds = ALONE.__getitem__
    assert running.run(200, (4, 0)).index(2) < 140
    assert running.run(50, (4, 0)).count(2) >= 49


def test_more_threads_that_are_slower_are_tried_for_a_small_share_of_the_time() -> None:
    cost = CostModel(TARGET, 512, (1, 2))
    seconds = {1: 0.010, 2: 0.4}
    for threads, known in seconds.items():
        cost.learn(1, 0, known, threads)
    running = Machine(Governor(cost), seconds.__getitem__)
    chosen = running.run_for(200)
    assert 0 < chosen.count(2) * seconds[2] < 200 / 40


def test_each_number_of_streams_is_tried_with_more_threads_at_once() -> None:
    cost = CostModel(TARGET, 512, (1, 2))
    for size in (1, 4, 8):
        for threads, seconds in BESIDE.items():
            cost.learn(size, 0, seconds, threads)
    running = Machine(Governor(cost), BESIDE.__getitem__)
    for size in (1, 4, 8, 4, 1, 8):
        running.run(5, (size, 0))
    assert running.run(10, (4, 0)) == [1] * 10


def test_nothing_is_tried_in_a_step_that_reads_a_prompt() -> None:
    """Running streams stand still for it."""
    cost, running = machine()
    for threads in (1, 2):
        cost.learn(0, 20, 20 * ALONE[threads], threads)
    assert running.run(1000, (1, 20)) == [2] * 1000, "nor fewer threads"
    running.seconds = BESIDE.__getitem__
    running.run(10)
    assert cost.slowdown[2] > 1
    begin = running.now
    chosen = running.run(200, (1, 20))
    assert running.now - begin > 1
    assert 2 not in chosen


def test_both_neighbours_of_a_count_are_looked_at() -> None:
    cost = CostModel(TARGET, 512, (1, 2, 3, 4))
    for threads, seconds in {1: 0.010, 2: 0.012, 3: 0.0075, 4: 0.008}.items():
        cost.learn(1, 0, seconds, threads)
    running = Machine(Governor(cost), {1: 0.010, 2: 0.007, 3: 0.0075, 4: 0.008}.__getitem__)
    running.run_for(60)
    assert running.run(100).count(2) >= 99


def test_prompts_alone_find_out_what_was_learnt_beside_a_neighbour() -> None:
    cost, running = machine()
    cost.learn(0, 32, 32 * 0.010, 2)
    cost.learn(0, 32, 32 * 0.004, 1)
    running.seconds = lambda threads: 32 * {1: 0.004, 2: 0.002}[threads]
    assert running.run(1, (0, 32)) == [1]
    running.run(300, (0, 32))
    assert running.run(50, (0, 32)).count(2) >= 49


def test_other_shapes_are_slowed_down_too() -> None:
    cost, running = machine()
    for threads in (1, 2):
        cost.learn(8, 0, 5 * ALONE[threads], threads)
    running.run(50)
    assert running.governor.choose(8, 0, running.now) == 2
    running.seconds = BESIDE.__getitem__
    running.run(10)
    assert running.governor.choose(8, 0, running.now) == 1
    assert cost.decode_time(8) == pytest.approx(5 * ALONE[1])


def test_prompts_are_read_in_smaller_chunks_beside_a_neighbour() -> None:
    cost, running = machine()
    for threads, seconds in ALONE.items():
        cost.learn(0, 100, 100 * seconds / 5, threads)
    alone = cost.chunk(1)
    running.run(5)
    running.seconds = BESIDE.__getitem__
    running.run(10)
    beside = cost.chunk(1)
    assert beside < alone
    assert cost.step_time(1, beside, 1) <= TARGET


def test_a_stream_that_shall_repeat_itself_always_has_the_same_threads() -> None:
    runner = ScriptedRunner({0: b""}, thread_counts=(1, 2))
    tuning = Tuning(runner, target=TARGET, max_streams=4)
    for threads, seconds in BESIDE.items():
        tuning.cost.learn(1, 0, seconds, threads)
    for _ in range(2):
        tuning.begin(1, 0, room=0, repeatable=False)
    assert runner.threads == 1
    tuning.begin(1, 0, room=0, repeatable=True)
    assert runner.threads == 2


def test_the_engine_sets_the_threads_of_its_steps() -> None:
    chosen: list[int] = []
    runners: list[ScriptedRunner] = []

    def note(_: Sequence[Slice]) -> None:
        chosen.append(runners[0].threads)

    with scripted("a" * 20, before_step=note, thread_counts=(1, 2)) as made:
        runners.append(made.runner)
        for threads, seconds in BESIDE.items():
            made.engine._tuning.cost.learn(1, 0, seconds, threads)
        made.engine._tuning._governor._last[1, 2] = time.perf_counter() + 3600
        assert within(made.model.generate, "p", seed=None).text == "a" * 20
        assert chosen[1] == 1
        chosen.clear()
        assert within(made.model.generate, "q", seed=3).text == "a" * 20
        assert set(chosen) == {2}
