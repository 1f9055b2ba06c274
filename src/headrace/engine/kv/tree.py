"""`KVTree`: a radix tree over token ids that records which row holds which cells.

A *row* is one of llama.cpp's sequence ids. It holds the KV of a path of tokens. Rows with a common prefix hold the same
cells: copying a prefix only adds an owner to its cells. The tree has the same structure: a node is a run of cells with
the same owners. So the used cells are exactly the tokens in the tree, and the tree tells in advance how many cells an
eviction frees. The radix tree is that of SGLang's RadixAttention (Zheng et al., 2023). Cells with several owners are
llama.cpp's unified KV cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from headrace.engine.kv.radix import NO_MATCH, Match, Node, Row, all_nodes, common_prefix, path

__all__ = ["KVBackend", "KVTree"]


class KVBackend(Protocol):
    """The operations on llama.cpp's KV memory that the cache needs; a `Runner` has them."""

    def copy_sequence(self, source: int, target: int, start: int, end: int) -> None:
        """Let `target` share the cells of `source` at positions start to end - 1."""
        ...

    def remove_sequence(self, sequence: int, start: int, end: int = -1) -> bool:
        """Remove positions start to end - 1 of `sequence` (-1: all that follow); False if that is impossible."""
        ...

    def can_reuse(self, sequence: int, length: int) -> bool:
        """Returns whether another sequence can start with the first `length` positions of this one."""
        ...

    def save_sequence(self, sequence: int, spare: int, start: int, end: int) -> bytearray | None:
        """Returns the KV of positions start to end - 1, copied through an empty sequence; None if impossible."""
        ...

    def load_sequence(self, sequence: int, spare: int, start: int, end: int, data: bytearray) -> bool:
        """Append saved KV to a sequence of `start` positions; returns whether its cells are in order."""
        ...


class KVTree:
    """Records which row holds which cells. `KVCache` in `cache.py` adds eviction and offloading.

    Args:
        backend: the model's KV memory.
        num_cells: number of cells: the most tokens.
        num_rows: sequence ids, for running sequences and cached prefixes together.
        can_drop_partial: whether part of a sequence can be removed. Recurrent and hybrid models cannot do that: their
            rows are only reused and evicted whole.

    Attributes:
        num_used: cells in use.
        num_pinned: cells that active rows hold, so that they cannot be evicted.
    """

    def __init__(self, backend: KVBackend, *, num_cells: int, num_rows: int, can_drop_partial: bool) -> None:
        self.num_cells = num_cells
        self.num_used = 0
        self.num_pinned = 0
        self.can_drop_partial = can_drop_partial
        self._backend = backend
        self._num_rows = num_rows
        self._num_computed: int = 0
        self._root = Node([], None)
        self._free_ids = list(range(num_rows - 1, -1, -1))
        self._active: set[Row] = set()
        self._cached: dict[int, Row] = {}  # least recently used first

    @property
    def num_active_rows(self) -> int:
        """Rows that sequences hold."""
        return len(self._active)

    @property
    def num_free(self) -> int:
        """Unused cells."""
        return self.num_cells - self.num_used

    @property
    def num_available(self) -> int:
        """Cells that are free, or become free when every cached prefix is evicted."""
        return self.num_cells - self.num_pinned

    @property
    def num_cached(self) -> int:
        """Cells that only cached prefixes hold."""
        return self.num_used - self.num_pinned

    def match(self, tokens: Sequence[int], limit: int) -> Match:
        """Returns the longest prefix of tokens[:limit] whose KV is in the cache."""
        best = NO_MATCH
        # Rows may have computed the same tokens independently. So several children may match, and each is followed.
        todo: list[tuple[Node, Match]] = [(self._root, best)]
        while todo:
            node, known = todo.pop()
            for child in node.children.get(tokens[known.length], ()) if known.length < limit else ():
                count = common_prefix(child.tokens, tokens, limit - known.length, 0, known.length)
                is_whole = count == len(child.tokens)
                source = self._source(child, is_whole, known.length + count)
                pinned = known.num_pinned + (count if child.num_active else 0)
                found = Match(known.length + count, pinned, (*known.path, (child, count)), source)
                if source is not None and found.length > best.length:
                    best = found
                if is_whole:
                    todo.append((child, found))
        return best

    def touch(self, match: Match) -> None:
        """Mark a match as most recently used."""
        row = match.source
        if row is not None and not row.is_active:
            self._cached[row.id] = self._cached.pop(row.id)
            row.used_at = self._num_computed

    def share(self, row: Row, match: Match) -> None:
        """Replace the contents of an active row by the matched prefix."""
        source = match.source
        self.touch(match)
        if row.length:
            self._shrink(row, 0)
        if source is None:
            return
        self._backend.copy_sequence(source.id, row.id, 0, match.length)
        for node, count in match.path:
            holder = self._split(node, count) if count < len(node.tokens) else node
            holder.rows.add(row)
            if not holder.num_active:
                self.num_pinned += len(holder.tokens)
            holder.num_active += 1
            row.tip = holder
        row.length = match.length
        row.num_in_order = min(match.length, source.num_in_order)

    def append(self, row: Row, tokens: list[int], *, is_alone: bool = True) -> None:
        """Record that tokens were computed at the end of an active row.

        Args:
            row: the active row.
            tokens: the tokens.
            is_alone: whether they were computed exactly as for a seeded stream that runs alone. Only then they can
                count as in order.
        """
        tip = row.tip
        if tip is self._root or len(tip.rows) > 1:
            tip = Node([], tip, {row}, num_active=1)
            tip.tokens.extend(tokens)
            assert tip.parent is not None
            tip.parent.children.setdefault(tokens[0], []).append(tip)
            row.tip = tip
        else:
            tip.tokens.extend(tokens)
        count = len(tokens)
        # The row has all used cells, in order. So the next free cells directly follow its last one.
        if is_alone and row.num_in_order == row.length == self.num_used:
            row.num_in_order += count
        row.length += count
        self.num_used += count
        self.num_pinned += count
        self._num_computed += count

    def roll_back(self, row: Row) -> None:
        """Remove the KV that a failed step left behind the row's end."""
        if not self._backend.remove_sequence(row.id, row.length):
            # A recurrent state cannot be cut, so the row becomes empty.
            self._shrink(row, 0)

    def release(self, row: Row) -> None:
        """Turn an active row into a cached prefix; drop it if another row holds all of it."""
        self._unpin(row)
        self._active.remove(row)
        row.is_active = False
        self._cached[row.id] = row
        row.used_at = self._num_computed
        if row.length == 0 or (self.can_drop_partial and self._is_covered(row)):
            self._drop(row)
            return
        if self.can_drop_partial:
            for node in path(row):
                for other in [other for other in node.rows if other.tip is node and other is not row]:
                    # This row holds all tokens of the other one.
                    if not other.is_active and self._backend.can_reuse(row.id, other.length):
                        self._drop(other)

    def clear(self) -> None:
        """Drop every cached prefix in the cache; offloaded KV stays."""
        for row in list(self._cached.values()):
            self._drop(row)

    def check_integrity(self) -> None:
        """Raise AssertionError if the tree, the rows and the counters do not agree."""
        used = pinned = 0
        for node in all_nodes(self._root):
            used += len(node.tokens)
            pinned += len(node.tokens) if node.num_active else 0
            assert node.tokens, "an empty node"
            assert node.rows, "a node without rows"
            assert node.num_active == sum(row.is_active for row in node.rows), "num_active is wrong"
            assert node.parent is not None
            assert any(node is child for child in node.parent.children[node.tokens[0]]), "a lost child"
            assert node.parent is self._root or node.rows <= node.parent.rows, "a row misses part of its path"
        assert used == self.num_used <= self.num_cells, f"{used} cells in the tree, {self.num_used} counted"
        assert pinned == self.num_pinned, f"{pinned} cells pinned, {self.num_pinned} counted"
        rows = [*self._active, *self._cached.values()]
        ids = [row.id for row in rows] + self._free_ids
        assert sorted(ids) == list(range(self._num_rows)), "a row was lost or is held twice"
        for row in rows:
            assert row.length == sum(len(node.tokens) for node in path(row)), "a row's length is wrong"
            assert all(row in node.rows for node in path(row)), "a row is missing on its path"

    def _take_row(self) -> Row:
        """Returns an empty active row. There must be a free sequence id."""
        row = Row(self._free_ids.pop(), self._root)
        self._active.add(row)
        return row

    def _is_covered(self, row: Row) -> bool:
        """Returns whether another row holds all tokens of this one, and can be used in its place."""
        others = [other for other in row.tip.rows if other is not row]
        if not others:
            return self._is_computed_twice(row)
        return any(self._backend.can_reuse(other.id, row.length) for other in others)

    def _is_computed_twice(self, row: Row) -> bool:
        """Returns whether another row has computed all tokens of this one independently, and can replace it."""
        tail: list[int] = []
        top = row.tip
        for node in path(row):
            if len(node.rows) > 1:
                break
            tail = node.tokens + tail
            top = node
        node, at = top.parent, 0
        while node is not None and at < len(tail):
            best: Node | None = None
            for child in node.children.get(tail[at], ()):
                whole = min(len(child.tokens), len(tail) - at)
                if row not in child.rows and common_prefix(child.tokens, tail, whole, 0, at) == whole:
                    length = row.length - len(tail) + at + whole
                    best = child if self._source(child, whole == len(child.tokens), length) is not None else best
            if best is None:
                return False
            at += len(best.tokens)
            node = best
        return True

    def _source(self, node: Node, is_whole: bool, length: int) -> Row | None:
        """Returns a row that can be copied up to the end of this node (`is_whole`) or to a token inside; or None."""
        if self.can_drop_partial:
            return next((row for row in node.rows if self._backend.can_reuse(row.id, length)), None)
        return next((row for row in node.rows if row.tip is node), None) if is_whole else None

    def _split(self, node: Node, at: int) -> Node:
        """Split a node after `at` tokens; returns the first half, which takes the node's place in the tree."""
        parent = node.parent
        assert parent is not None
        head = Node(node.tokens[:at], parent, set(node.rows), {node.tokens[at]: [node]}, node.num_active)
        siblings = parent.children[head.tokens[0]]
        siblings[siblings.index(node)] = head
        del node.tokens[:at]
        node.parent = head
        return head

    def _shrink(self, row: Row, length: int) -> int:
        """Cut a row to `length` tokens; returns the number of freed cells."""
        if length == row.length:
            return 0
        self._backend.remove_sequence(row.id, length)
        freed = 0
        while row.length > length:
            node = row.tip
            keep = max(0, length - (row.length - len(node.tokens)))
            cut = len(node.tokens) - keep
            if keep:
                head = self._split(node, keep)
                row.tip = head
            else:
                assert node.parent is not None
                row.tip = node.parent
            freed += self._leave(node, row)
            row.length -= cut
        row.num_in_order = min(row.num_in_order, length)
        return freed

    def _leave(self, node: Node, row: Row) -> int:
        """Remove a row from a node's owners; returns the number of freed cells: all if it was the last owner."""
        node.rows.remove(row)
        if row.is_active:
            node.num_active -= 1
            if not node.num_active:
                self.num_pinned -= len(node.tokens)
        if node.rows:
            return 0
        assert node.parent is not None
        siblings = node.parent.children[node.tokens[0]]
        siblings.remove(node)
        if not siblings:
            del node.parent.children[node.tokens[0]]
        self.num_used -= len(node.tokens)
        return len(node.tokens)

    def _unpin(self, row: Row) -> None:
        for node in path(row):
            node.num_active -= 1
            if not node.num_active:
                self.num_pinned -= len(node.tokens)

    def _drop(self, row: Row) -> None:
        del self._cached[row.id]
        self._shrink(row, 0)
        self._free_ids.append(row.id)
