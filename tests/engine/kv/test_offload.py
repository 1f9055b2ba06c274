"""KV that is offloaded: what is found again, what is thrown away first, and what a stream has of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from harness import BYTES, Gate, echo, echoed, ids, scripted, texts, wait_until, within

from engine.kv.test_cache import Cache, Windowed
from headrace.engine.kv.cache import KVCache
from headrace.engine.kv.offload import OffloadedKV
from headrace.engine.kv.radix import common_prefix
from headrace.engine.runner import Slice, StepOutput
from headrace.engine.scripted import ScriptedRunner
from headrace.llama.state import StateError

LONG = "abcdefgh" * 8


def filled(*texts: str, max_bytes: int = 1000, length: int = 4) -> OffloadedKV:
    offloaded = OffloadedKV(max_bytes, length)
    for text in texts:
        start = offloaded.block_start(len(text) - 1)
        offloaded.put(ids(text), start, bytearray(10))
    return offloaded


def reach(offloaded: OffloadedKV, text: str, known: int, limit: int) -> int:
    chain = offloaded.find_chain(ids(text), known, limit)
    return chain[-1][2] if chain else known


def test_a_block_is_found_by_the_tokens_before_it() -> None:
    offloaded = filled("abcd", "abcdef", "xbcdef")
    assert reach(offloaded, "abcdefgh", 0, 8) == 6
    assert reach(offloaded, "abcdefgh", 0, 5) == 5
    assert reach(offloaded, "abcxefgh", 0, 8) == 3
    assert reach(offloaded, "xbcdefgh", 0, 8) == 0, "its beginning is not here"
    assert reach(offloaded, "xbcdefgh", 4, 8) == 6, "but the memory may have it"
    assert reach(offloaded, "abcdefgh", 7, 8) == 7
    assert reach(offloaded, "abcd", 4, 4) == 4


def test_of_blocks_with_the_same_key_the_one_that_matches_longest_is_taken() -> None:
    offloaded = filled("abx", "aby", "abyz")
    assert offloaded.num_tokens == 3 + 4, "what is the beginning of another one is not kept beside it"
    ((block, start, end),) = offloaded.find_chain(ids("abyz"), 0, 4)
    assert (block.tokens, start, end) == (tuple(ids("abyz")), 0, 4)
    assert offloaded.holds(ids("aby"), 0)
    assert not offloaded.holds(ids("abz"), 0)


def test_many_texts_may_begin_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """As short prompts of one chat template do."""
    texts = [f"<user>{number:03}" for number in range(1000)]
    offloaded = filled(*texts, max_bytes=100_000, length=32)
    compared: list[int] = []

    def counted(*args: Any) -> int:
        compared.append(1)
        return common_prefix(*args)

    monkeypatch.setattr("headrace.engine.kv.offload.common_prefix", counted)
    assert all(offloaded.holds(ids(text), 0) for text in texts[::100])
    assert reach(offloaded, "<user>99x", 0, 9) == 8
    assert len(compared) < 200


def test_what_was_used_longest_ago_is_thrown_away() -> None:
    offloaded = filled("a", "b", "c", "d", max_bytes=40)
    ((first, _, _),) = offloaded.find_chain(ids("a"), 0, 1)
    assert offloaded.holds(ids("b"), 0)
    offloaded.put(ids("e"), 0, bytearray(10))
    offloaded.put(ids("f"), 0, bytearray(10))
    assert [offloaded.holds(ids(text), 0) for text in "abcdef"] == [True, True, False, False, True, True]
    offloaded.put(ids("g"), 0, bytearray(41))
    assert len(offloaded) == offloaded.num_bytes == 0, "not even this one fits"
    offloaded.discard(first)
    assert len(offloaded) == 0


def test_the_end_of_a_text_is_thrown_away_before_its_beginning() -> None:
    offloaded = filled("abcdefgh", "abcd", max_bytes=30)
    assert reach(offloaded, "abcdefgh", 0, 8) == 8
    for text in "xy":
        offloaded.put(ids(text), 0, bytearray(10))
    assert reach(offloaded, "abcdefgh", 0, 8) == 4


def test_what_the_memory_has_room_for_is_not_thrown_away() -> None:
    """Where less fits offloaded than into the memory, as with a large model."""
    cache = Cache(num_cells=100, num_rows=8, offloaded=OffloadedKV(24, 4, idle_tokens=1))
    texts = [[number] * 4 for number in range(1, 6)]  # 12 bytes each
    for text in texts:
        cache.cache(text)
        cache.kv.offload_unused()
    assert all(cache.kv.num_reachable(text, 4) == 4 for text in texts)
    assert cache.kv.num_used == 12
    cache.cache([9] * 90)  # now something has to go
    assert sum(cache.kv.num_reachable(text, 4) == 4 for text in texts) == 4


def test_what_is_brought_back_makes_nobody_older() -> None:
    cache = Cache(num_cells=100, num_rows=8, offloaded=OffloadedKV(1000, 4, idle_tokens=10))
    cache.cache([1] * 8)
    cache.cache([2] * 16)
    cache.kv.offload_unused()
    cache.kv.offload_unused()
    cache.cache([3] * 4)
    cache.kv.bring_back([1] * 8, 8)
    cache.kv.offload_unused()
    assert cache.found([1] * 8) == 8
    assert cache.found([2] * 16) == 16
    assert cache.found([3] * 4) == 4


def test_what_cannot_be_loaded_is_computed_again() -> None:
    class Fragmented(Windowed):
        def load_sequence(self, sequence: int, spare: int, start: int, end: int, data: bytearray) -> bool:
            raise StateError("no room in one piece")

    cache = Cache()
    offloaded = OffloadedKV(1000, 4, idle_tokens=1)
    memory = cache.memory = Fragmented(num_cells=64, num_rows=4)
    kv = cache.kv = KVCache(memory, num_cells=64, num_rows=4, offloaded=offloaded)
    cache.cache([1, 2, 3, 4])
    cache.cache([5])
    kv.offload_unused()
    assert kv.num_reachable([1, 2, 3, 4], 4) == 4
    kv.bring_back([1, 2, 3, 4], 4)
    assert kv.num_reachable([1, 2, 3, 4], 4) == 0
    cache.check()


def test_where_there_is_no_room_nothing_is_driven_out() -> None:
    cache = Cache(num_cells=16, num_rows=8, offloaded=OffloadedKV(1000, 4, idle_tokens=1))
    cache.cache([1] * 8)
    cache.cache([2])
    cache.kv.offload_unused()
    cache.kv.offload_unused()
    active, _ = cache.start([3] * 10)
    cache.cache([4] * 4)
    assert not cache.kv.adopt([1] * 8, 0, 8, bytearray(b"[1, 1, 1, 1, 1, 1, 1, 1]"))
    assert cache.found([4] * 4) == 4
    cache.kv.bring_back([1] * 8, 8)
    assert cache.found([1] * 8) == 4, "as far as there is room"
    assert cache.memory.row(active.id) == [3] * 10
    cache.check()


def test_the_only_copy_that_can_be_reused_stays() -> None:
    """A sequence that goes on from a prefix may leave it behind, but is still one of its owners."""
    cache = Cache()
    memory = cache.memory = Windowed(num_cells=64, num_rows=4)
    kv = cache.kv = KVCache(memory, num_cells=64, num_rows=4, offloaded=OffloadedKV(1000, 4, idle_tokens=1))
    cache.cache([1, 2, 3, 4, 5, 6])
    row, _ = cache.start([1, 2, 3, 4, 5, 6, 7, 8])
    memory.cut[row.id] = 7
    kv.offload_unused()
    kv.offload_unused()
    assert cache.found([1, 2, 3, 9]) == 3
    cache.check()


def test_what_is_brought_back_leaves_what_it_follows_in_order() -> None:
    cache = Cache(num_cells=64, num_rows=4, offloaded=OffloadedKV(1000, 4))
    cache.cache(list(range(1, 13)))
    while cache.kv.can_copy_ahead:
        cache.kv.copy_ahead()
    cache.kv.clear()
    cache.cache(list(range(1, 9)))
    cache.kv.bring_back(list(range(1, 13)), 12)
    assert cache.found(list(range(1, 13))) == 12
    assert cache.kv.num_in_order(list(range(1, 13)), 12) == 8
    cache.check()


def test_the_end_of_what_was_copied_ahead_is_thrown_away_first() -> None:
    cache = Cache(num_cells=12, num_rows=4, offloaded=OffloadedKV(36, 4))
    cache.cache(list(range(1, 10)))
    while cache.kv.can_copy_ahead:
        cache.kv.copy_ahead()
    assert cache.kv.num_reachable(list(range(1, 10)), 9) == 9
    offloaded = OffloadedKV(36, 4)
    cache = Cache(num_cells=12, num_rows=4, offloaded=offloaded)
    for text in (list(range(1, 10)), [20] * 4):  # 30 bytes of blocks, and 16
        cache.cache(text)
        while cache.kv.can_copy_ahead:
            cache.kv.copy_ahead()
        cache.kv.clear()
    assert 0 < offloaded.num_tokens < 13, "something had to go"
    assert cache.kv.num_reachable([20] * 4, 4) == 4
    assert cache.kv.num_reachable(list(range(1, 10)), 9) >= 4


def test_what_is_brought_back_does_not_count_as_in_order() -> None:
    cache = Cache(num_cells=64, num_rows=4, offloaded=OffloadedKV(1000, 4, idle_tokens=1))
    cache.cache([1, 2, 3, 4])
    cache.cache([5])
    cache.kv.offload_unused()
    cache.kv.clear()
    cache.kv.bring_back([1, 2, 3, 4], 4)
    source = cache.kv.match([1, 2, 3, 4], 4).source
    assert source is not None
    assert source.num_in_order == 0


def test_a_prefix_is_offloaded_once_nobody_has_used_it_for_long() -> None:
    cache = Cache(num_cells=200, num_rows=8, offloaded=OffloadedKV(1000, 4, idle_tokens=10))
    cache.cache([1, 2, 3, 4, 5, 6])
    cache.cache([7, 7, 7, 7])
    cache.kv.offload_unused()
    assert cache.kv.num_used == 10
    cache.cache([8] * 6)
    cache.kv.offload_unused()  # a block at a time
    assert cache.found([1, 2, 3, 4, 5, 6]) == 4
    cache.kv.offload_unused()
    cache.kv.offload_unused()
    assert cache.found([1, 2, 3, 4, 5, 6]) == 0
    assert cache.found([7, 7, 7, 7]) == 4
    assert cache.kv.num_reachable([1, 2, 3, 4, 5, 6, 7], 7) == 6
    cache.kv.bring_back([1, 2, 3, 4, 5, 6, 7], 7)
    assert cache.found([1, 2, 3, 4, 5, 6]) == 6
    cache.check()
    cache.kv.drop_all()
    assert cache.kv.num_reachable([1, 2, 3, 4, 5, 6, 7], 7) == 0


def test_what_was_copied_ahead_goes_without_being_copied() -> None:
    class Counting(ScriptedRunner):
        num_saved = 0

        def save_sequence(self, sequence: int, spare: int, start: int, end: int) -> bytearray | None:
            self.num_saved += 1
            return super().save_sequence(sequence, spare, start, end)

    cache = Cache()
    memory = cache.memory = Counting(BYTES, num_cells=64, num_rows=4)
    offloaded = OffloadedKV(1000, 4, idle_tokens=10)
    kv = cache.kv = KVCache(memory, num_cells=64, num_rows=4, offloaded=offloaded)
    cache.cache([1, 2, 3, 4, 5, 6])
    while kv.can_copy_ahead:
        kv.copy_ahead()
    assert memory.num_saved == 2
    assert offloaded.num_tokens == 6
    assert cache.found([1, 2, 3, 4, 5, 6]) == 6, "it is still here, too"
    cache.cache([8] * 12)
    kv.offload_unused()
    kv.offload_unused()
    assert cache.found([1, 2, 3, 4, 5, 6]) == 0
    assert memory.num_saved == 2
    kv.bring_back([1, 2, 3, 4, 5, 6], 6)
    while kv.can_copy_ahead:
        kv.copy_ahead()
    assert memory.num_saved == 2 + 3, "of what came back nothing was copied again"
    offloaded.clear()
    cache.cache([9] * 12)
    for _ in range(6):
        kv.offload_unused()
    assert kv.num_reachable([1, 2, 3, 4, 5, 6], 6) == 6, "what was thrown away is copied again"
    cache.check()


def test_where_less_fits_into_main_memory_copies_ahead_throw_nothing_away() -> None:
    offloaded = OffloadedKV(24, 4, idle_tokens=1)
    cache = Cache(num_cells=100, num_rows=8, offloaded=offloaded)
    texts = [[number] * 4 for number in range(1, 6)]  # 12 bytes each
    for text in texts:
        cache.cache(text)
        while cache.kv.can_copy_ahead:
            cache.kv.copy_ahead()
    assert len(offloaded) == 2
    assert [cache.kv.num_reachable(text, 4) for text in texts] == [4] * 5
    assert cache.kv.num_used == 20
    cache.kv.offload_unused()
    cache.kv.offload_unused()
    assert cache.kv.num_used == 12, "what is offloaded already can go"
    assert [cache.kv.num_reachable(text, 4) for text in texts] == [4] * 5


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


def test_what_several_have_in_common_stays_where_it_is() -> None:
    for order in ((7, 8), (8, 7)):
        cache = Cache(num_cells=200, num_rows=8, offloaded=OffloadedKV(1000, 4))
        for last in order:
            cache.cache([1, 2, 3, 4, 5, 6, last, last])
        cache.cache([9] * 5)
        while cache.kv.can_copy_ahead:
            cache.kv.copy_ahead()
        prompt = [1, 2, 3, 4, 5, 6, 0]
        cache.kv.free_copied(cache.kv.match(prompt, 7))
        assert cache.found(prompt) == 6
        assert cache.kv.num_used == 6
        cache.check()


def test_of_two_who_have_computed_the_same_one_stays() -> None:
    cache = Cache(num_cells=200, num_rows=8, offloaded=OffloadedKV(1000, 4))
    rows = [cache.kv.acquire() for _ in range(2)]
    for row, last in zip(rows, (2, 3), strict=True):
        cache.compute(row, [1, 1, 1, last])
    for row in rows:
        cache.kv.release(row)
    while cache.kv.can_copy_ahead:
        cache.kv.copy_ahead()
    cache.kv.free_copied(cache.kv.match([1, 1, 1, 9], 4))
    assert cache.found([1, 1, 1, 9]) == 3
    assert cache.kv.num_used == 3
    cache.check()


def test_what_a_prompt_does_not_begin_with_leaves() -> None:
    cache = Cache(num_cells=200, num_rows=8, offloaded=OffloadedKV(1000, 4))
    cache.cache([1, 2, 3, 4, 5, 6, 7, 8])
    cache.cache([9] * 5)
    while cache.kv.can_copy_ahead:
        cache.kv.copy_ahead()
    cache.cache([6] * 3)  # not copied
    prompt = [1, 2, 3, 4, 5, 0, 0]
    cache.kv.free_copied(cache.kv.match(prompt, 7))
    assert cache.found(prompt) == 5
    assert cache.kv.num_used == 5 + 3
    assert cache.kv.num_reachable([1, 2, 3, 4, 5, 6, 7, 8], 8) == 8
    assert cache.kv.num_reachable([9] * 5, 5) == 5
    cache.check()


def test_who_goes_on_keeps_what_it_shares() -> None:
    with scripted(echo, num_cells=2000) as made:
        made.model.generate(LONG)
        wait_until(lambda: not made.engine._scheduler.kv.can_copy_ahead)
        before = made.engine.with_cache(lambda kv: kv.num_bytes_offloaded)
        assert made.model.generate(LONG + "!").usage.cached_tokens == len(LONG)
        assert made.model.generate(LONG + "?").usage.cached_tokens == len(LONG)
        assert made.engine.with_cache(lambda kv: kv.num_bytes_offloaded) >= before


def test_what_others_share_is_not_offloaded() -> None:
    cache = Cache(num_cells=200, num_rows=8, offloaded=OffloadedKV(1000, 4, idle_tokens=1))
    row, _ = cache.start([1, 2, 3, 4, 5])
    cache.cache([1, 2, 3, 4, 5, 6, 7])
    cache.compute(row, [9, 9, 9])
    cache.kv.offload_unused()
    assert cache.memory.row(row.id) == [1, 2, 3, 4, 5, 9, 9, 9]
    assert cache.kv.num_used == 8
    cache.kv.bring_back([1, 2, 3, 4, 5, 6, 7], 7)
    assert cache.found([1, 2, 3, 4, 5, 6, 7]) == 7
    cache.check()


def test_a_sequence_whose_window_is_gone_stays_where_it_is() -> None:
    cache = Cache()
    memory = cache.memory = Windowed(num_cells=64, num_rows=4)
    kv = cache.kv = KVCache(memory, num_cells=64, num_rows=4, offloaded=OffloadedKV(1000, 4, idle_tokens=1))
    row, _ = cache.start([1, 2, 3, 4, 5, 6])
    memory.cut[row.id] = 5
    kv.release(row)
    cache.cache([7] * 6)
    kv.offload_unused()
    assert cache.found([1, 2, 3, 4, 5, 6]) == 6
    cache.cache([8] * 6)
    kv.offload_unused()
    assert cache.found([7] * 6) == 4, "it does not keep others from it"
    cache.check()


def test_a_memory_that_cannot_be_saved_is_asked_once() -> None:
    class Unsaved(Windowed):
        asked = 0

        def save_sequence(self, sequence: int, spare: int, start: int, end: int) -> bytearray | None:
            self.asked += 1
            if self.asked == 1:
                raise MemoryError
            return None

    cache = Cache()
    memory = Unsaved(num_cells=8, num_rows=4)
    cache.memory = memory
    kv = cache.kv = KVCache(memory, num_cells=8, num_rows=4, offloaded=OffloadedKV(1000, 4, idle_tokens=1))
    for tokens in ([1, 2, 3, 4, 5, 6], [7, 8, 9], [10] * 8, [11] * 8):
        cache.cache(tokens)
        kv.offload_unused()
        assert cache.found(tokens) == len(tokens)
    assert memory.asked == 2


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

    with scripted(echo, num_cells=4000, most_saved=8, runner_type=Counting) as made:
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
