"""`Node`, `Row` and `Match`: the parts of the radix tree over token ids, and functions on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

__all__ = ["NO_MATCH", "Match", "Node", "Row", "all_nodes", "common_prefix", "num_unshared", "path", "tokens_of"]


@dataclass(eq=False, slots=True)
class Node:
    """A run of cells that belong to the same rows.

    Attributes:
        tokens: the tokens of the cells.
        parent: the node before it; None for the root, which has no tokens.
        rows: the rows that hold the cells.
        children: the nodes after it, by their first token. Two rows may have computed the same tokens independently, so
            each entry is a list.
        num_active: how many of the rows are active.
    """

    tokens: list[int]
    parent: Node | None
    rows: set[Row] = field(default_factory=lambda: set[Row]())
    children: dict[int, list[Node]] = field(default_factory=dict[int, "list[Node]"])
    num_active: int = 0


@dataclass(eq=False, slots=True)
class Row:
    """One of llama.cpp's sequence ids, and the tokens whose KV it holds.

    Attributes:
        id: llama.cpp's sequence id.
        tip: the last node of the row's path.
        length: number of tokens.
        is_active: whether a sequence is using the row; otherwise the row is a cached prefix.
        num_in_order: how many of the first tokens lie in the cache's first cells, in order, and were computed as for a
            seeded stream that runs alone.
        used_at: for a cached prefix, how many tokens the engine had computed at its last use.
        num_copied: how many of the first tokens were copied ahead to main memory.
        is_copied: whether nothing is left to copy ahead.
    """

    id: int
    tip: Node
    length: int = 0
    is_active: bool = True
    num_in_order: int = 0
    used_at: int = 0
    num_copied: int = 0
    is_copied: bool = False


@dataclass(frozen=True, slots=True)
class Match:
    """A prefix that was found in the tree.

    Attributes:
        length: tokens of the prefix; they need not be computed.
        num_pinned: how many of these tokens are held by active rows, so that sharing them pins no more cells.
        path: the nodes, with the number of matching tokens of each.
        source: a row that holds the whole prefix.
    """

    length: int
    num_pinned: int
    path: tuple[tuple[Node, int], ...]
    source: Row | None


NO_MATCH = Match(0, 0, (), None)


def common_prefix(a: Sequence[int], b: Sequence[int], limit: int, a_start: int = 0, b_start: int = 0) -> int:
    """Returns the length of the common prefix of a[a_start:] and b[b_start:], at most `limit`."""
    limit = min(limit, len(a) - a_start, len(b) - b_start)
    low = 0
    width = 256
    while low < limit:  # comparing slices runs at C speed, so slices narrow down to the first difference
        width = min(width, limit - low)
        if list(a[a_start + low : a_start + low + width]) == list(b[b_start + low : b_start + low + width]):
            low += width
        elif width == 1:
            break
        else:
            width = (width + 1) // 2
    return max(low, 0)


def path(row: Row) -> Iterator[Node]:
    """Yields the nodes of a row, last first."""
    node = row.tip
    while node.parent is not None:
        yield node
        node = node.parent


def tokens_of(row: Row) -> list[int]:
    """Returns the tokens of a row."""
    return [token for node in reversed(list(path(row))) for token in node.tokens]


def num_unshared(row: Row) -> int:
    """Returns how many tokens at the end of a row belong to no other row."""
    own = 0
    for node in path(row):
        if len(node.rows) > 1:
            break
        own += len(node.tokens)
    return own


def all_nodes(root: Node) -> Iterator[Node]:
    """Yields every node below the root."""
    todo = [child for children in root.children.values() for child in children]
    while todo:
        node = todo.pop()
        yield node
        todo.extend(child for children in node.children.values() for child in children)
