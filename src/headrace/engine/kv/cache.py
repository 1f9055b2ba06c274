"""`KVCache`: eviction of cached prefixes, and offloading of their KV to main memory.

The least recently used prefix is evicted first, as in SGLang's RadixAttention (Zheng et al., 2023). `tree.py` records
which row holds which cells. `offload.py` stores the KV in main memory.
"""

from __future__ import annotations

from collections.abc import Sequence

from headrace.engine.kv.offload import OffloadedKV
from headrace.engine.kv.radix import Match, Row, num_unshared, tokens_of
from headrace.engine.kv.tree import KVBackend, KVTree

__all__ = ["KVCache"]

# An eviction frees at least this many tokens of a row, because each eviction scans all cells.
_EVICT_AT_LEAST = 128
# The most blocks that are copied between two steps, to free a row's id or to bring KV back: some milliseconds of work.
_MAX_BLOCKS = 8


class KVCache(KVTree):
    """The KV cache of a model: owns every row and every cell, and decides which prefixes to evict or offload.

    Args:
        backend: the model's memory.
        num_cells: number of cells: the most tokens.
        num_rows: sequence ids, for running sequences and cached prefixes together. The backend has one more, which is
            always empty between calls: KV is saved and loaded through it.
        can_drop_partial: whether part of a sequence can be removed. Recurrent and hybrid models cannot do that: their
            rows are only reused and evicted whole.
        offloaded: the store for offloaded KV; None to evict without keeping a copy.
    """

    def __init__(
        self,
        backend: KVBackend,
        *,
        num_cells: int,
        num_rows: int,
        can_drop_partial: bool = True,
        offloaded: OffloadedKV | None = None,
    ) -> None:
        super().__init__(backend, num_cells=num_cells, num_rows=num_rows, can_drop_partial=can_drop_partial)
        self._offloaded = offloaded

    @property
    def num_bytes_offloaded(self) -> int:
        """Bytes of offloaded KV in main memory."""
        return 0 if self._offloaded is None else self._offloaded.num_bytes

    def acquire(self) -> Row:
        """Returns an empty active row. There must be fewer active rows than rows."""
        num_blocks = 0
        while not self._free_ids:
            oldest = next(iter(self._cached.values()))
            num_blocks += 1
            if num_blocks > _MAX_BLOCKS or not self._offload(oldest):
                self._drop(oldest)
        return self._take_row()

    def isolate(self, row: Row, tokens: Sequence[int], limit: int, chunk: int) -> None:
        """Give the only active row, still empty, the cells that it would have in an empty cache.

        Two things decide the last bits of logits: the order of the cells, in which attention adds up, and the chunks in
        which tokens were computed. So a prefix of tokens[:limit] is shared only if it lies in the first cells in order,
        and only in whole chunks. All other prefixes are dropped.
        """
        length = self.num_in_order(tokens, limit)
        match = self.match(tokens, length - length % chunk)
        if match.source is not None and match.source.num_in_order >= match.length:
            self.share(row, match)
        self.clear()

    def make_room(self, count: int) -> bool:
        """Evict cached prefixes until `count` cells are free; False if evicting all of them is not enough."""
        while self.num_free < count:
            if not self._cached:
                return False
            self._evict(count - self.num_free)
        return True

    def room_besides(self, count: int) -> int:
        """Returns how many temporary tokens a step of `count` tokens can have in addition without an eviction."""
        return max(0, self.num_free - count) if self.can_drop_partial else 0

    def save(self, tokens: Sequence[int], start: int, end: int) -> bytearray | None:
        """Returns the KV of tokens[start:end] in the backend's format; None if it is not cached or cannot be saved."""
        match = self.match(tokens, end)
        if match.length < end or match.source is None or not self.can_drop_partial:
            return None
        self.touch(match)
        return self._backend.save_sequence(match.source.id, self._num_rows, start, end)

    def num_in_order(self, tokens: Sequence[int], limit: int) -> int:
        """Returns how many of tokens[:limit] a seeded stream that starts alone can reuse."""
        match = self.match(tokens, limit)
        # If other sequences got the cells behind a sliding window, the cells after these are out of order, too.
        if match.source is None or not self._backend.can_reuse(match.source.id, 0):
            return 0
        return min(match.source.num_in_order, match.length)

    def load(
        self, tokens: Sequence[int], start: int, end: int, data: bytearray, *, num_in_order: int | None = None
    ) -> bool:
        """Load saved KV of tokens[start:end] behind the cached tokens[:start]; the result is a cached prefix.

        Args:
            tokens: the text.
            start: position of the first saved token.
            end: position after the last saved token.
            data: the KV, as `save` returned it.
            num_in_order: how many of tokens[:end] a seeded stream that starts alone can reuse; None for all.

        Returns:
            False if tokens[:start] are not cached, or if running sequences leave no room.

        Raises:
            ValueError: the data is not the KV of these tokens; nothing has changed.
        """
        match = self.match(tokens, end)
        if match.length == end:
            self.touch(match)
            return True
        match = self.match(tokens, start)
        if match.length < start or not self.can_drop_partial or len(self._free_ids) + len(self._cached) < 2:
            return False
        if end - match.num_pinned > self.num_available:  # evicting everything would not make room
            return False
        self.touch(match)
        row = self.acquire()
        try:
            self.share(row, match)
            if not self.make_room(end - start):
                return False
            in_order = self._backend.load_sequence(row.id, self._num_rows, start, end, data)
            self.append(row, list(tokens[start:end]))
            self._num_computed -= end - start
            row.num_in_order = min(row.num_in_order, end if num_in_order is None else num_in_order)
            if not in_order:
                row.num_in_order = min(row.num_in_order, start)
            return True
        finally:
            self.release(row)

    def offload_unused(self) -> None:
        """Offload one block of a prefix that has long been unused: its cells make every step longer."""
        offloaded = self._offloaded
        if offloaded is None:
            return
        for row in self._cached.values():
            if self._num_computed - row.used_at < offloaded.idle_tokens or self._offload(row, is_needed=False):
                return

    @property
    def can_copy_ahead(self) -> bool:
        """Whether there is a cached prefix that is not copied to main memory yet."""
        return self._offloaded is not None and not all(row.is_copied for row in self._cached.values())

    def copy_ahead(self) -> None:
        """Copy one block of a cached prefix to main memory, so that freeing its cells later delays no step.

        If main memory holds as much KV as the cache, the block replaces the least recently used ones.
        """
        row = next((row for row in self._cached.values() if not row.is_copied), None)
        if self._offloaded is None or row is None:
            return
        start, end = row.num_copied, min(row.num_copied + self._offloaded.block_length, row.length)
        held = start < end and self._offloaded.holds(tokens_of(row)[:end], start)
        if held or (start < end and self._copy_out(row, start, end, is_needed=False)):
            row.num_copied = end
        else:
            row.is_copied = True
            self._offloaded.find_chain(tokens_of(row), 0, row.length)  # marks its blocks as used, the first one last

    def free_copied(self, keep: Match) -> None:
        """Free the cells of prefixes that were copied ahead, except those of a match.

        A step walks over all cells up to the last used one. So it is faster if a new stream gets the first cells.
        """
        offloaded = self._offloaded
        if offloaded is None:
            return
        holders = set(keep.path[-1][0].rows) if keep.path else set[Row]()
        # Rows that hold the match come last. Otherwise such a row could be dropped because another row has the same
        # tokens, and then the other row could be freed, too.
        for row in sorted(self._cached.values(), key=holders.__contains__):
            own = num_unshared(row)
            if not own or row.num_copied < row.length:
                continue
            chain = offloaded.find_chain(tokens_of(row), 0, row.length)
            if chain and chain[-1][2] == row.length:
                self._cut(row, max(row.length - own, keep.length if row in holders else 0))

    def num_reachable(self, tokens: Sequence[int], limit: int) -> int:
        """Returns how many of tokens[:limit] are cached or offloaded, so that they need not be computed."""
        known = self.match(tokens, limit).length
        chain = self._offloaded.find_chain(tokens, known, limit) if self._offloaded is not None else []
        return chain[-1][2] if chain else known

    def restore(self, tokens: Sequence[int], limit: int, *, at_once: bool = True) -> bool:
        """Load offloaded KV of tokens[:limit] into the cache as a cached prefix, as far as there is room.

        Args:
            tokens: the text.
            limit: how many of the tokens are wanted.
            at_once: whether to load all blocks; otherwise only a few, because other sequences wait for the next step.

        Returns:
            Whether there are more blocks to load.
        """
        offloaded = self._offloaded
        if offloaded is None:
            return False
        chain = offloaded.find_chain(tokens, self.match(tokens, limit).length, limit)
        count = len(chain) if at_once else _MAX_BLOCKS
        for block, start, _ in chain[:count]:
            whole = [*tokens[:start], *block.tokens]
            try:
                if not self.load(whole, start, len(whole), block.data, num_in_order=start):
                    return False
            except ValueError:  # the backend has fewer free cells than counted, or they are fragmented
                offloaded.discard(block)
                return False
        return len(chain) > count

    def drop_all(self) -> None:
        """Drop every cached prefix, offloaded ones included."""
        self.clear()
        if self._offloaded is not None:
            self._offloaded.clear()

    def close(self) -> None:
        """Free the offloaded KV."""
        self._offloaded = None

    def _offload(self, row: Row, *, is_needed: bool = True) -> bool:
        """Move the last block of a cached row to main memory, and free those of its cells that no other row holds.

        Returns:
            False if the row has no cells of its own, or the block cannot be kept.
        """
        own = num_unshared(row)
        if self._offloaded is None or not own:
            return False
        start = self._offloaded.block_start(row.length - 1)
        if not self._copy_out(row, start, row.length, is_needed=is_needed):
            return False
        self._cut(row, max(start, row.length - own))
        return True

    def _cut(self, row: Row, length: int) -> None:
        """Shorten a cached row; drop it if it becomes empty, or if another row holds all of it."""
        self._shrink(row, length)
        if not row.length or self._is_covered(row):
            self._drop(row)

    def _copy_out(self, row: Row, start: int, end: int, *, is_needed: bool) -> bool:
        """Copy positions start to end - 1 of a cached row to main memory; False if impossible or not worth it."""
        offloaded = self._offloaded
        # If cells behind a sliding window are gone, a saved block could not be reused.
        if offloaded is None or not self.can_drop_partial or not self._backend.can_reuse(row.id, 0):
            return False
        if row.num_copied >= end and offloaded.holds(tokens_of(row)[:end], start):
            return True
        row.num_copied = min(row.num_copied, start)
        if not offloaded.is_worthwhile(end - start, self.num_cells, is_needed=is_needed):
            return False
        tokens = tokens_of(row)[:end]
        if offloaded.holds(tokens, start):
            return True
        try:
            data = self._backend.save_sequence(row.id, self._num_rows, start, end)
        except MemoryError:
            return False
        if data is None:  # this model's KV cannot be saved
            self._offloaded = None
            return False
        offloaded.put(tokens, start, data)
        return True

    def _evict(self, count: int) -> None:
        """Free cells of the least recently used cached row: those at its end that no other row shares."""
        row = next(iter(self._cached.values()))
        if self._offload(row):
            return
        own = num_unshared(row)
        cut = max(count, _EVICT_AT_LEAST)
        if self.can_drop_partial and cut < own:
            self._shrink(row, row.length - cut)
        else:
            self._drop(row)
