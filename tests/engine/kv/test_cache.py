"""The KV cache on the memory of a scripted runner: prefixes, eviction, sliding windows."""

from __future__ import annotations

import pytest
from harness import BYTES

from engine.kv.caches import Cache, Windowed
from headrace.engine.kv.cache import KVCache
from headrace.engine.runner import NoRoomError, Slice
from headrace.engine.scripted import ScriptedRunner


def test_a_prefix_is_found_in_whole_and_in_part() -> None:
    cache = Cache()
    cache.cache([1, 2, 3, 4])
    assert cache.found([1, 2, 3, 4]) == cache.found([1, 2, 3, 4, 5]) == 4
    assert cache.found([1, 2, 9]) == cache.found([1, 2]) == 2
    assert cache.found([9, 1, 2, 3, 4]) == 0


def test_a_shared_prefix_takes_its_cells_once() -> None:
    cache = Cache()
    rows = [cache.start([1, 2, 3, 4, at])[0] for at in (5, 6, 7)]
    assert cache.kv.num_used == 4 + 3
    cache.check()
    for row in rows:
        cache.kv.release(row)
        cache.check()
    assert cache.kv.num_used == cache.kv.num_cached == 4 + 3
    assert all(cache.found([1, 2, 3, 4, at]) == 5 for at in (5, 6, 7))


def test_a_recurrent_state_is_reused_whole_or_not_at_all() -> None:
    cache = Cache(partial=False)
    cache.cache([1, 2, 3, 4])
    assert cache.found([1, 2, 3, 4, 5]) == 4
    assert cache.found([1, 2, 3]) == cache.found([1, 2, 3, 9]) == 0
    cache.cache([1, 2])
    assert cache.found([1, 2, 3, 9]) == 2, "a shorter one, computed on its own, is as good"


def test_the_least_recently_used_goes_first() -> None:
    cache = Cache(num_cells=30, num_rows=8)
    for first in (1, 2, 3):
        cache.cache([first] * 10)
    cache.cache([1] * 10)  # used again
    assert cache.kv.make_room(10)
    assert [cache.found([first] * 10) for first in (1, 2, 3)] == [10, 0, 10]
    assert cache.kv.make_room(20)
    assert [cache.found([first] * 10) for first in (1, 2, 3)] == [10, 0, 0]


def test_the_row_least_recently_used_goes_where_rows_run_out() -> None:
    cache = Cache(num_rows=4)
    for first in (1, 2, 3):
        cache.cache([first] * 4)
    for first in (1, 4, 5):
        cache.cache([first] * 4)
    assert [cache.found([first] * 4) for first in (1, 2, 3, 4, 5)] == [4, 0, 4, 4, 4]


def test_what_active_rows_hold_is_never_evicted() -> None:
    cache = Cache(num_cells=20)
    row, _ = cache.start([1] * 10)
    cache.cache([1] * 10 + [2] * 5)
    assert not cache.kv.make_room(11)
    assert cache.kv.make_room(10)
    assert cache.memory.row(row.id) == [1] * 10
    assert cache.found([1] * 10) == 10
    cache.check()


def test_a_long_prefix_gives_up_its_end_and_keeps_its_beginning() -> None:
    cache = Cache(num_cells=1000)
    cache.memory.max_batch = 1000
    cache.cache([at % 250 + 1 for at in range(900)])
    assert cache.kv.make_room(200)
    assert cache.kv.num_used == 900 - 128, "evicting is a scan, so it takes some more than it must"
    assert cache.found([at % 250 + 1 for at in range(900)]) == 900 - 128
    cache.check()


def test_a_cached_row_that_holds_nothing_of_its_own_takes_no_row() -> None:
    cache = Cache(num_rows=3)
    cache.cache([1, 2, 3, 4])
    cache.cache([1, 2])
    cache.cache([1, 2, 3])
    cache.cache([1, 2, 3, 4, 5])
    assert len(cache.kv._cached) == 1
    assert cache.found([1, 2, 3, 4, 5]) == 5


def test_the_longest_of_several_prefixes_is_found_wherever_they_part() -> None:
    """Two rows computed the same tokens side by side, and one of the two nodes was split later on."""
    cache = Cache(num_rows=8)
    first, second = (cache.kv.acquire() for _ in range(2))
    cache.compute(first, [1, 2])
    cache.compute(second, [1, 2, 3])
    cache.start([1, 2, 3, 8])  # shares what the second has so far
    cache.compute(second, [4, 5])
    cache.compute(first, [3, 9, 9])
    cache.check()
    assert cache.found([1, 2, 3, 4, 5]) == 5
    assert cache.found([1, 2, 3, 9, 9]) == 5
    assert cache.found([1, 2, 3, 8]) == 4


def test_the_memory_of_the_scripted_runner_is_strict() -> None:
    """Otherwise it could not prove anything about the cache."""
    memory = ScriptedRunner(BYTES, num_cells=4, max_batch=3)
    memory.run([Slice(0, 0, [1, 2], None)])
    with pytest.raises(AssertionError, match="holds 2 tokens"):
        memory.run([Slice(0, 1, [3], None)])
    with pytest.raises(AssertionError, match="4 tokens; at most 3 are allowed"):
        memory.run([Slice(0, 2, [3] * 4, None)])
    with pytest.raises(NoRoomError):
        memory.run([Slice(0, 2, [3] * 3, None)])
    with pytest.raises(AssertionError, match="copy"):
        memory.copy_sequence(0, 1, 0, 3)
    with pytest.raises(AssertionError, match="only tails"):
        memory.remove_sequence(0, 0, 1)
    memory.copy_sequence(0, 1, 0, 2)
    assert memory.num_used == 2
    memory.run([Slice(1, 2, [3], None)])
    assert (memory.row(0), memory.row(1), memory.num_used) == ([1, 2], [1, 2, 3], 3)


def test_a_prefix_whose_window_is_gone_is_not_reused() -> None:
    cache = Cache()
    memory = cache.memory = Windowed(num_cells=64, num_rows=4)
    kv = cache.kv = KVCache(memory, num_cells=64, num_rows=4)
    row, _ = cache.start([1, 2, 3, 4, 5, 6])
    kv.release(row)
    memory.cut[row.id] = 5
    assert cache.found([1, 2, 3, 4, 5, 6, 7]) == 6  # to go on with it needs no more than its end
    assert cache.found([1, 2, 3, 9]) == 0
    # What is computed anew is kept beside it, and used from then on.
    cache.cache([1, 2, 3, 4])
    assert cache.found([1, 2, 3, 9]) == 3
    assert cache.found([1, 2, 3, 4, 5, 6, 7]) == 6
    cache.check()


def test_a_prefix_outlives_a_longer_one_whose_window_is_gone() -> None:
    """As a system prompt does, of which a long stream has made use."""
    cache = Cache()
    memory = cache.memory = Windowed(num_cells=64, num_rows=4)
    kv = cache.kv = KVCache(memory, num_cells=64, num_rows=4)
    cache.cache([1, 2, 3, 4])
    row, _ = cache.start([1, 2, 3, 4, 5, 6, 7, 8])
    memory.cut[row.id] = 6
    kv.release(row)
    assert cache.found([1, 2, 3, 4, 9]) == 4
    cache.check()


def test_a_row_is_kept_where_the_one_that_has_as_much_is_of_no_use() -> None:
    cache = Cache()
    memory = cache.memory = Windowed(num_cells=64, num_rows=4)
    kv = cache.kv = KVCache(memory, num_cells=64, num_rows=4)
    longer, _ = cache.start([1, 2, 3, 4, 5, 6, 7, 8])
    kv.release(longer)
    row, _ = cache.start([1, 2, 3, 4])
    memory.cut[longer.id] = 6
    kv.release(row)
    assert cache.found([1, 2, 3, 9]) == 3
    cache.check()


@pytest.mark.parametrize(("cut", "expected"), [(0, 8), (3, 0)])
def test_what_a_window_has_left_behind_is_nothing_to_repeat_from(cut: int, expected: int) -> None:
    """Others have its cells, so what follows would lie before what it follows."""
    cache = Cache()
    memory = cache.memory = Windowed(num_cells=64, num_rows=4)
    kv = cache.kv = KVCache(memory, num_cells=64, num_rows=4)
    row, _ = cache.start([1, 2, 3, 4, 5, 6, 7, 8])
    kv.release(row)
    memory.cut[row.id] = cut
    again = kv.acquire()
    kv.isolate(again, [1, 2, 3, 4, 5, 6, 7, 8, 9], 8, 4)
    assert again.length == kv.num_used == expected
    cache.check()


def test_loaded_kv_that_lies_in_disorder_is_not_said_to_be_in_order() -> None:
    class Disorderly(ScriptedRunner):
        def load_sequence(self, sequence: int, spare: int, start: int, end: int, data: bytearray) -> bool:
            super().load_sequence(sequence, spare, start, end, data)
            return start == 0

    cache = Cache()
    memory = cache.memory = Disorderly(BYTES, num_cells=64, num_rows=4)
    kv = cache.kv = KVCache(memory, num_cells=64, num_rows=4)
    assert kv.load([1, 2, 3, 4], 0, 2, bytearray(b"[1, 2]"))
    assert kv.load([1, 2, 3, 4], 2, 4, bytearray(b"[3, 4]"))
    source = kv.match([1, 2, 3, 4], 4).source
    assert source is not None
    assert source.num_in_order == 2
    cache.check()
