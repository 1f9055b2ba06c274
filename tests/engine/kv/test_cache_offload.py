"""The KV cache offloads unused prefixes to main memory, and brings them back."""

from __future__ import annotations

from harness import BYTES

from engine.kv.caches import Cache, Windowed
from headrace.engine.kv.cache import KVCache
from headrace.engine.kv.offload import OffloadedKV
from headrace.engine.scripted import ScriptedRunner
from headrace.llama.state import StateError


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
    cache.kv.restore([1] * 8, 8)
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
    kv.restore([1, 2, 3, 4], 4)
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
    assert not cache.kv.load([1] * 8, 0, 8, bytearray(b"[1, 1, 1, 1, 1, 1, 1, 1]"))
    assert cache.found([4] * 4) == 4
    cache.kv.restore([1] * 8, 8)
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
    cache.kv.restore(list(range(1, 13)), 12)
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
    cache.kv.restore([1, 2, 3, 4], 4)
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
    cache.kv.restore([1, 2, 3, 4, 5, 6, 7], 7)
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
    kv.restore([1, 2, 3, 4, 5, 6], 6)
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


def test_what_others_share_is_not_offloaded() -> None:
    cache = Cache(num_cells=200, num_rows=8, offloaded=OffloadedKV(1000, 4, idle_tokens=1))
    row, _ = cache.start([1, 2, 3, 4, 5])
    cache.cache([1, 2, 3, 4, 5, 6, 7])
    cache.compute(row, [9, 9, 9])
    cache.kv.offload_unused()
    assert cache.memory.row(row.id) == [1, 2, 3, 4, 5, 9, 9, 9]
    assert cache.kv.num_used == 8
    cache.kv.restore([1, 2, 3, 4, 5, 6, 7], 7)
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
