"""The KV cache against a naive model of it, with the scripted runner as the memory that checks every move."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from harness import BYTES
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from headrace.engine.kv.cache import KVCache
from headrace.engine.kv.offload import OffloadedKV
from headrace.engine.kv.radix import Row, common_prefix
from headrace.engine.runner import NoRoomError, Slice
from headrace.engine.scripted import ScriptedRunner

TOKENS = st.lists(st.integers(1, 2), min_size=1, max_size=12)


class Cache:
    """A cache on a scripted memory, driven as the scheduler drives it."""

    def __init__(
        self, *, num_cells: int = 64, num_rows: int = 4, partial: bool = True, offloaded: OffloadedKV | None = None
    ) -> None:
        self.memory = ScriptedRunner(BYTES, num_cells=num_cells, num_rows=num_rows, can_drop_partial=partial)
        self.kv = KVCache(
            self.memory, num_cells=num_cells, num_rows=num_rows, can_drop_partial=partial, offloaded=offloaded
        )

    def start(self, tokens: Sequence[int]) -> tuple[Row, int]:
        """A row that holds these tokens, and how many of them it found; there must be room."""
        row = self.kv.acquire()
        found = self.kv.match(tokens, len(tokens))
        if found.length:
            self.kv.share(row, found)
        self.compute(row, tokens[row.length :])
        return row, found.length

    def compute(self, row: Row, tokens: Sequence[int]) -> None:
        if tokens:
            assert self.kv.make_room(len(tokens))
            self.memory.run([Slice(row.id, row.length, tokens, None)])
            self.kv.append(row, list(tokens))

    def cache(self, tokens: Sequence[int]) -> None:
        """Compute and release."""
        row, _ = self.start(tokens)
        self.kv.release(row)
        self.check()

    def found(self, tokens: Sequence[int]) -> int:
        return self.kv.match(tokens, len(tokens)).length

    def check(self) -> None:
        self.kv.check_integrity()
        assert self.kv.num_used == self.memory.num_used
        assert self.kv.num_used + self.kv.num_available - self.kv.num_cached <= self.kv.num_cells


class CacheMachine(RuleBasedStateMachine):
    """Active rows come, share, compute, fail and go, in a memory that is too small for all of them."""

    partial = True
    offloaded: OffloadedKV | None = None
    active = Bundle("active")

    @initialize(num_cells=st.integers(24, 64), num_rows=st.integers(2, 6))
    def set_up(self, num_cells: int, num_rows: int) -> None:
        self.cache = Cache(num_cells=num_cells, num_rows=num_rows, partial=self.partial, offloaded=self.offloaded)
        self.kv, self.memory = self.cache.kv, self.cache.memory
        self.num_rows = num_rows
        self.tokens: dict[int, list[int]] = {}  # what each active row must hold, by its id
        self.known: dict[int, Row] = {}

    @precondition(lambda self: len(self.tokens) < self.num_rows)
    @rule(target=active, tokens=TOKENS)
    def acquire(self, tokens: list[int]) -> Row:
        row = self.kv.acquire()
        self.known[row.id] = row
        self.tokens[row.id] = []
        self.share(row, tokens)
        return row

    @rule(row=active, tokens=TOKENS, data=st.data())
    def share_more(self, row: Row, tokens: list[int], data: st.DataObject) -> None:
        """A sequence that waited for another one's prefill looks again."""
        self.share(row, self.tokens[row.id] + tokens)

    def share(self, row: Row, tokens: list[int]) -> None:
        match = self.kv.match(tokens, len(tokens))
        self.check_match(match.length, match.num_pinned, tokens)
        if match.length > row.length:
            self.kv.share(row, match)
            self.tokens[row.id] = tokens[: match.length]

    def check_match(self, length: int, num_pinned: int, tokens: list[int]) -> None:
        rows = {row: self.memory.row(row) for row in range(self.num_rows)}
        if self.partial:
            longest = max(common_prefix(held, tokens, len(tokens)) for held in rows.values())
        else:
            longest = max(len(held) if tokens[: len(held)] == held else 0 for held in rows.values())
        assert length == longest
        assert num_pinned <= length

    @rule(row=active, tokens=TOKENS)
    def compute(self, row: Row, tokens: list[int]) -> None:
        if not self.kv.make_room(len(tokens)):
            assert self.kv.num_available < len(tokens)
            assert self.kv.num_cached == 0
            return
        self.memory.run([Slice(row.id, row.length, tokens, None)])
        self.kv.append(row, tokens)
        self.tokens[row.id] = self.tokens[row.id] + tokens

    @rule(row=active)
    def fail_a_step(self, row: Row) -> None:
        self.kv.roll_back(row)

    @rule(row=consumes(active))
    def release(self, row: Row) -> None:
        self.kv.release(row)
        del self.tokens[row.id]

    @rule(tokens=TOKENS, size=st.integers(1, 5))
    def save_and_adopt(self, tokens: list[int], size: int) -> None:
        """KV that was saved is what is held, and comes back as a prefix that is there."""
        start = 0
        while start < len(tokens):
            end = min(start + size, len(tokens))
            held = self.kv.match(tokens, end).length == end
            saved = self.kv.save(tokens, start, end)
            assert saved is None or (held and json.loads(saved) == tokens[start:end])
            assert saved is not None or not (held and self.partial)
            if not self.kv.adopt(tokens, start, end, bytearray(json.dumps(tokens[start:end]).encode())):
                break
            assert self.kv.match(tokens, end).length == end
            start = end

    @rule(tokens=TOKENS)
    def fail_to_adopt(self, tokens: list[int]) -> None:
        """What is no KV changes nothing."""
        found = self.kv.match(tokens, len(tokens)).length
        with suppress(json.JSONDecodeError):
            adopted = self.kv.adopt(tokens, 0, len(tokens), bytearray(b"no JSON"))
            assert adopted == (found == len(tokens))

    @rule()
    def clear(self) -> None:
        self.kv.clear()
        assert self.kv.num_cached == 0

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "cache"):
            return
        self.cache.check()
        assert self.kv.num_active_rows == len(self.tokens)
        for row, tokens in self.tokens.items():
            assert self.memory.row(row) == tokens, "an active row lost or gained something"
            assert self.known[row].length == len(tokens)
        pinned = {id(cell) for row in self.tokens for _, cell in self.memory._rows.get(row, [])}
        assert self.kv.num_pinned == len(pinned)


class RecurrentCacheMachine(CacheMachine):
    """The same where only whole rows can be reused."""

    partial = False


class OffloadCacheMachine(CacheMachine):
    """The same where what has long been of no use is offloaded, in as little memory as a few blocks take."""

    @initialize(max_bytes=st.sampled_from([0, 30, 100, 1000]), length=st.integers(1, 5), after=st.integers(0, 20))
    def make_room_offloaded(self, max_bytes: int, length: int, after: int) -> None:
        self.offloaded = OffloadedKV(max_bytes, length, after)

    @precondition(lambda self: hasattr(self, "cache"))
    @rule()
    def offload_unused(self) -> None:
        before = self.kv.num_cached
        self.kv.offload_unused()
        assert self.kv.num_cached <= before

    @precondition(lambda self: hasattr(self, "cache"))
    @rule()
    def copy_ahead(self) -> None:
        before = self.kv.num_cached, self.kv.num_used
        could = self.kv.can_copy_ahead
        self.kv.copy_ahead()
        assert (self.kv.num_cached, self.kv.num_used) == before, "a copy leaves what it is of"
        assert could or not self.kv.can_copy_ahead

    @precondition(lambda self: hasattr(self, "cache"))
    @rule(tokens=TOKENS, other=TOKENS)
    def free_copied(self, tokens: list[int], other: list[int]) -> None:
        before = self.kv.num_cached
        keep = self.kv.match(tokens, len(tokens))
        reached = [self.kv.num_reachable(text, len(text)) for text in (tokens, *self.tokens.values(), other)]
        self.kv.free_copied(keep)
        assert self.kv.num_cached <= before
        assert self.kv.match(tokens, len(tokens)).length == keep.length
        assert [self.kv.num_reachable(text, len(text)) for text in (tokens, *self.tokens.values(), other)] == reached

    @precondition(lambda self: hasattr(self, "cache"))
    @rule(tokens=TOKENS)
    def bring_back(self, tokens: list[int]) -> None:
        had, reach = self.kv.match(tokens, len(tokens)).length, self.kv.num_reachable(tokens, len(tokens))
        assert had <= reach <= len(tokens)
        self.kv.bring_back(tokens, len(tokens))
        assert had <= self.kv.match(tokens, len(tokens)).length <= reach

    @invariant()
    def keeps_to_its_budget(self) -> None:
        if self.offloaded is not None:
            assert self.offloaded.num_bytes == sum(len(block.data) for block in self.offloaded._blocks.values())
            assert self.offloaded.num_bytes <= self.offloaded.max_bytes
            for block in self.offloaded._blocks.values():
                assert json.loads(block.data) == list(block.tokens)
                assert len(block.tokens) <= self.offloaded.block_length


MODEST = settings(max_examples=100, stateful_step_count=40, deadline=None, derandomize=True)
TestCache = CacheMachine.TestCase
TestCache.settings = MODEST
TestRecurrentCache = RecurrentCacheMachine.TestCase
TestRecurrentCache.settings = MODEST
TestOffloadCache = OffloadCacheMachine.TestCase
TestOffloadCache.settings = MODEST


@given(TOKENS, TOKENS, st.integers(0, 12), st.integers(0, 5), st.integers(0, 5))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_common_prefix(a: list[int], b: list[int], limit: int, a_start: int, b_start: int) -> None:
    count = 0
    while count < limit and a[a_start + count : a_start + count + 1] == b[b_start + count : b_start + count + 1] != []:
        count += 1
    assert common_prefix(a, b, limit, a_start, b_start) == count


@pytest.mark.parametrize("difference", [0, 1, 255, 256, 257, 700, 1000])
def test_common_prefix_of_long_sequences(difference: int) -> None:
    a = [1] * 1000
    b = [1] * difference + [2] * (1000 - difference)
    assert common_prefix(a, b, 1000) == difference


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


class Windowed(ScriptedRunner):
    """A memory like that of a model with sliding windows, which lets go of the beginning of some sequences."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(BYTES, **settings)
        self.cut: dict[int, int] = {}

    def can_reuse(self, sequence: int, length: int) -> bool:
        return super().can_reuse(sequence, length) and length >= self.cut.get(sequence, 0)


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
    assert kv.adopt([1, 2, 3, 4], 0, 2, bytearray(b"[1, 2]"))
    assert kv.adopt([1, 2, 3, 4], 2, 4, bytearray(b"[3, 4]"))
    source = kv.match([1, 2, 3, 4], 4).source
    assert source is not None
    assert source.num_in_order == 2
    cache.check()
