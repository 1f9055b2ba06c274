"""The KV cache against a naive model of it: random operations, with the scripted runner checking every move."""

from __future__ import annotations

import json
from contextlib import suppress

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from engine.kv.caches import Cache
from headrace.engine.kv.offload import OffloadedKV
from headrace.engine.kv.radix import Row, common_prefix
from headrace.engine.runner import Slice

TOKENS = st.lists(st.integers(1, 2), min_size=1, max_size=12)


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
    def save_and_load(self, tokens: list[int], size: int) -> None:
        """KV that was saved is what is held, and comes back as a prefix that is there."""
        start = 0
        while start < len(tokens):
            end = min(start + size, len(tokens))
            held = self.kv.match(tokens, end).length == end
            saved = self.kv.save(tokens, start, end)
            assert saved is None or (held and json.loads(saved) == tokens[start:end])
            assert saved is not None or not (held and self.partial)
            if not self.kv.load(tokens, start, end, bytearray(json.dumps(tokens[start:end]).encode())):
                break
            assert self.kv.match(tokens, end).length == end
            start = end

    @rule(tokens=TOKENS)
    def fail_to_load(self, tokens: list[int]) -> None:
        """What is no KV changes nothing."""
        found = self.kv.match(tokens, len(tokens)).length
        with suppress(json.JSONDecodeError):
            loaded = self.kv.load(tokens, 0, len(tokens), bytearray(b"no JSON"))
            assert loaded == (found == len(tokens))

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
    def restore(self, tokens: list[int]) -> None:
        had, reach = self.kv.match(tokens, len(tokens)).length, self.kv.num_reachable(tokens, len(tokens))
        assert had <= reach <= len(tokens)
        self.kv.restore(tokens, len(tokens))
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
