"""Which KV stays when there is no room for all of it: cached prefixes are evicted, offloaded and brought back.

The least recently used goes first, as in SGLang's RadixAttention (Zheng et al., 2023); who holds what is in
`kv_tree.py`, what is outside the model's memory in `offloaded.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from headrace.engine.kv.offload import OffloadedKV
from headrace.engine.kv.radix import Match, Row, num_own, tokens_of
from headrace.engine.kv.tree import KVBackend, KVTree

__all__ = ["KVCache"]

# Evicting costs a scan of all cells, so a cached row that must shrink gives up at least this many tokens.
_EVICT_AT_LEAST = 128
# Pieces that are copied between two steps, out because a row's id is needed or in: some milliseconds' worth.
_MOST_PIECES = 8


class KVCache(KVTree):
    """Owns every row and cell.

    Args:
        backend: the model's memory.
        num_cells: KV budget, in tokens.
        num_rows: sequence ids, for running sequences and cached prefixes together. The backend has one more, which is
            always empty: KV is saved and loaded by way of it.
        can_drop_partial: whether part of a sequence can be removed; recurrent and hybrid models cannot, there only
            whole rows are reused and evicted.
        offloaded: where KV goes that nobody is using; None to evict it when its cells are needed.
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
        """Bytes of KV that are offloaded."""
        return 0 if self._offloaded is None else self._offloaded.num_bytes

    def acquire(self) -> Row:
        """An empty active row. There must be fewer active rows than rows."""
        num_pieces = 0
        while not self._free_ids:
            oldest = next(iter(self._cached.values()))
            num_pieces += 1
            if num_pieces > _MOST_PIECES or not self._offload(oldest):
                self._drop(oldest)
        return self._take_row()

    def isolate(self, row: Row, tokens: Sequence[int], limit: int, piece: int) -> None:
        """Put the only active row, still empty, where it would be in an empty memory: drop every cached prefix.

        A prefix of tokens[:limit] is shared where it lies in the first cells in order. The order of a sequence's cells
        is the order in which attention adds them up, so it decides the last bits of the logits. So does what is
        computed together; so whole pieces are shared, and the rest is computed as it was before.
        """
        length = self.num_in_order(tokens, limit)
        match = self.match(tokens, length - length % piece)
        if match.source is not None and match.source.num_in_order >= match.length:
            self.share(row, match)
        self.clear()

    def make_room(self, count: int) -> bool:
        """Evict cached prefixes until `count` cells are free; False where even all of them do not suffice."""
        while self.num_free < count:
            if not self._cached:
                return False
            self._evict(count - self.num_free)
        return True

    def room_besides(self, count: int) -> int:
        """How many tokens more than a step needs can be computed in it and removed again, with nothing evicted."""
        return max(0, self.num_free - count) if self.can_drop_partial else 0

    def save(self, tokens: Sequence[int], start: int, end: int) -> bytearray | None:
        """The KV of tokens[start:end], as the backend writes it; None where it is not here, or cannot be saved."""
        match = self.match(tokens, end)
        if match.length < end or match.source is None or not self.can_drop_partial:
            return None
        self.touch(match)
        return self._backend.save_sequence(match.source.id, self._num_rows, start, end)

    def num_in_order(self, tokens: Sequence[int], limit: int) -> int:
        """How many of tokens[:limit] a seeded stream that starts alone could begin with."""
        match = self.match(tokens, limit)
        # Where cells that a window has left behind went to others, those that follow lie elsewhere, too.
        if match.source is None or not self._backend.can_reuse(match.source.id, 0):
            return 0
        return min(match.source.num_in_order, match.length)

    def adopt(
        self, tokens: Sequence[int], start: int, end: int, data: bytearray, *, num_in_order: int | None = None
    ) -> bool:
        """Take in the KV of tokens[start:end] that was saved, as a cached prefix with what is here of tokens[:start].

        Args:
            tokens: of a text.
            start: the first of those whose KV it is.
            end: behind the last of them.
            data: the KV.
            num_in_order: how many of tokens[:end] were computed as whenever a seeded stream is alone; None for all.

        Returns:
            False where what comes before is not here, or where running sequences leave no room.

        Raises:
            ValueError: the data is no such KV; nothing has changed.
        """
        match = self.match(tokens, end)
        if match.length == end:
            self.touch(match)
            return True
        match = self.match(tokens, start)
        if match.length < start or not self.can_drop_partial or len(self._free_ids) + len(self._cached) < 2:
            return False
        if end - match.num_pinned > self.num_available:  # it would drive everybody out, in vain
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

    def tidy(self) -> None:
        """Set offloaded a piece of what has long been of no use: its cells make every step longer."""
        offloaded = self._offloaded
        if offloaded is None:
            return
        for row in self._cached.values():
            if self._num_computed - row.used_at < offloaded.after or self._offload(row, is_needed=False):
                return

    @property
    def can_copy_ahead(self) -> bool:
        """Whether a cached prefix is not copied out yet."""
        return self._offloaded is not None and not all(row.is_copied for row in self._cached.values())

    def copy_ahead(self) -> None:
        """Copy a piece of a cached prefix out, so that no step has to wait for that when its cells must go.

        Where as much fits offloaded as into the memory, it takes the place of what was used longest ago.
        """
        row = next((row for row in self._cached.values() if not row.is_copied), None)
        if self._offloaded is None or row is None:
            return
        start, end = row.num_copied, min(row.num_copied + self._offloaded.length, row.length)
        held = start < end and self._offloaded.holds(tokens_of(row)[:end], start)
        if held or (start < end and self._copy_out(row, start, end, is_needed=False)):
            row.num_copied = end
        else:
            row.is_copied = True
            self._offloaded.chain(tokens_of(row), 0, row.length)  # its end goes before what it hangs on

    def let_go(self, keep: Match) -> None:
        """Free the cells of what was copied ahead, but for a match: what comes next lies in the first cells, then.

        How many cells a step walks over is decided by the last one in use.
        """
        offloaded = self._offloaded
        if offloaded is None:
            return
        holders = set(keep.path[-1][0].rows) if keep.path else set[Row]()
        # Those that hold it come last: another row that has computed the same must not leave in trust of one of them.
        for row in sorted(self._cached.values(), key=holders.__contains__):
            own = num_own(row)
            if not own or row.num_copied < row.length:
                continue
            chain = offloaded.chain(tokens_of(row), 0, row.length)
            if chain and chain[-1][2] == row.length:
                self._cut(row, max(row.length - own, keep.length if row in holders else 0))

    def reach(self, tokens: Sequence[int], limit: int) -> int:
        """How many of tokens[:limit] need not be computed, if there is room for what was offloaded."""
        known = self.match(tokens, limit).length
        chain = self._offloaded.chain(tokens, known, limit) if self._offloaded is not None else []
        return chain[-1][2] if chain else known

    def bring_back(self, tokens: Sequence[int], limit: int, *, at_once: bool = True) -> bool:
        """Take in what was offloaded of tokens[:limit], as far as there is room, as a cached prefix.

        Args:
            tokens: of a text.
            limit: how many of them are of use.
            at_once: all of it, instead of a few pieces: somebody may be waiting for the next step.

        Returns:
            Whether there is more.
        """
        offloaded = self._offloaded
        if offloaded is None:
            return False
        pieces = offloaded.chain(tokens, self.match(tokens, limit).length, limit)
        count = len(pieces) if at_once else _MOST_PIECES
        for piece, start, _ in pieces[:count]:
            whole = [*tokens[:start], *piece.tokens]
            try:
                if not self.adopt(whole, start, len(whole), piece.data, num_in_order=start):
                    return False
            except ValueError:  # the memory has less room than we thought, or in pieces
                offloaded.discard(piece)
                return False
        return len(pieces) > count

    def forget(self) -> None:
        """Drop every cached prefix, wherever it is."""
        self.clear()
        if self._offloaded is not None:
            self._offloaded.clear()

    def close(self) -> None:
        """Let go of what was offloaded."""
        self._offloaded = None

    def _offload(self, row: Row, *, is_needed: bool = True) -> bool:
        """Free cells of a cached row, its own tail, and keep what was in them; False where that cannot be done."""
        own = num_own(row)
        if self._offloaded is None or not own:
            return False
        start = self._offloaded.beginning(row.length - 1)
        if not self._copy_out(row, start, row.length, is_needed=is_needed):
            return False
        self._cut(row, max(start, row.length - own))
        return True

    def _cut(self, row: Row, length: int) -> None:
        """Shorten a cached row, and drop it where it is of no use any more."""
        self._shrink(row, length)
        if not row.length or self._is_covered(row):
            self._drop(row)

    def _copy_out(self, row: Row, start: int, end: int, *, is_needed: bool) -> bool:
        """Keep a piece of a cached row in main memory, too; False where that cannot be done, or is not worth it."""
        offloaded = self._offloaded
        # Where a model has left cells of a sequence behind, its pieces would be of no use.
        if offloaded is None or not self.can_drop_partial or not self._backend.can_reuse(row.id, 0):
            return False
        if row.num_copied >= end and offloaded.holds(tokens_of(row)[:end], start):
            return True
        row.num_copied = min(row.num_copied, start)
        if not offloaded.is_worth(end - start, self.num_cells, is_needed=is_needed):
            return False
        tokens = tokens_of(row)[:end]
        if offloaded.holds(tokens, start):
            return True
        try:
            data = self._backend.save_sequence(row.id, self._num_rows, start, end)
        except MemoryError:
            return False
        if data is None:  # of this model nothing can be saved
            self._offloaded = None
            return False
        offloaded.put(tokens, start, data)
        return True

    def _evict(self, count: int) -> None:
        """Free cells of the least recently used cached row: its own tail, since what it shares frees nothing."""
        row = next(iter(self._cached.values()))
        if self._offload(row):
            return
        own = num_own(row)
        cut = max(count, _EVICT_AT_LEAST)
        if self.can_drop_partial and cut < own:
            self._shrink(row, row.length - cut)
        else:
            self._drop(row)
