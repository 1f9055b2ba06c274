"""The tree of token ids by which the KV cache knows what is where: nodes, the rows that own them, and matches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

__all__ = ["NO_MATCH", "Match", "Node", "Row", "common_prefix", "descend", "num_own", "path", "tokens_of"]


@dataclass(eq=False, slots=True)
class Node:
    """A run of cells that the same rows own."""

    tokens: list[int]
    parent: Node | None
    rows: set[Row] = field(default_factory=lambda: set[Row]())
    # Two rows may have computed the same tokens side by side, so a first token can lead to several nodes.
    children: dict[int, list[Node]] = field(default_factory=dict[int, "list[Node]"])
    num_active: int = 0


@dataclass(eq=False, slots=True)
class Row:
    """One sequence id and the tokens whose KV it holds.

    Attributes:
        id: llama.cpp's sequence id.
        tip: the last node of its path.
        length: tokens held.
        is_active: whether a sequence is using it; otherwise it is a cached prefix.
        num_in_order: how many of its first tokens lie in the memory's first cells, in order, as in an empty memory.
        used_at: how many tokens had been computed when it was used last, if it is a cached prefix.
        num_copied: how many of its first tokens were copied out ahead of when its cells must go.
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
    """A prefix found in the tree.

    Attributes:
        length: tokens that need not be computed.
        num_pinned: how many of them are held by active rows, so that sharing them takes no cell from anybody.
        path: the nodes, with how many of their tokens matched.
        source: a row that holds all of it.
    """

    length: int
    num_pinned: int
    path: tuple[tuple[Node, int], ...]
    source: Row | None


NO_MATCH = Match(0, 0, (), None)


def common_prefix(a: Sequence[int], b: Sequence[int], limit: int, a_start: int = 0, b_start: int = 0) -> int:
    """Length of the common beginning of a[a_start:] and b[b_start:], at most `limit`."""
    limit = min(limit, len(a) - a_start, len(b) - b_start)
    low = 0
    width = 256
    while low < limit:  # slices compare at C speed, so narrow down to the first difference
        width = min(width, limit - low)
        if list(a[a_start + low : a_start + low + width]) == list(b[b_start + low : b_start + low + width]):
            low += width
        elif width == 1:
            break
        else:
            width = (width + 1) // 2
    return max(low, 0)


def path(row: Row) -> Iterator[Node]:
    """The nodes of a row, last first."""
    node = row.tip
    while node.parent is not None:
        yield node
        node = node.parent


def tokens_of(row: Row) -> list[int]:
    """All that a row holds."""
    return [token for node in reversed(list(path(row))) for token in node.tokens]


def num_own(row: Row) -> int:
    """Tokens at the end of a row that no other row holds."""
    own = 0
    for node in path(row):
        if len(node.rows) > 1:
            break
        own += len(node.tokens)
    return own


def descend(root: Node) -> Iterator[Node]:
    todo = [child for children in root.children.values() for child in children]
    while todo:
        node = todo.pop()
        yield node
        todo.extend(child for children in node.children.values() for child in children)
