"""KV outside the model's memory: what nobody has used for a while, kept where it costs the steps nothing.

Attention walks over every cell of the memory, also over those that none of the running sequences owns: a memory full of
cached prefixes makes the steps of a small model a quarter longer. Copying cells out and in again takes microseconds for
each token, computing them milliseconds. llama-server keeps whole prompts in main memory like this.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Piece", "SetAside"]

# A piece this long is copied in a millisecond or two.
_LENGTH = 128


@dataclass(frozen=True, slots=True)
class Piece:
    """The KV of consecutive tokens of a text.

    Attributes:
        before: all tokens before them.
        tokens: what it holds the KV of.
        data: as the model's memory wrote it.
    """

    before: bytes
    tokens: tuple[int, ...]
    data: bytearray


class SetAside:
    """Pieces of KV, the least recently used of which are thrown away. Belongs to the engine thread.

    Pieces begin at multiples of a length, so that the next one is found by the tokens before it.

    Args:
        max_bytes: of all pieces together.
        most_saved: tokens in a piece at most.
        after: a prefix is set aside when nobody has used it while so many tokens were computed: what these cost more
            because of it is then several times what it takes to copy it out and in.
    """

    def __init__(self, max_bytes: int, most_saved: int, after: int = 512) -> None:
        self.max_bytes = max_bytes
        self.after = after
        self.length = min(_LENGTH, most_saved)
        self.num_bytes = 0
        self._by_beginning: dict[bytes, list[Piece]] = {}
        self._pieces: OrderedDict[int, Piece] = OrderedDict()  # least recently used first

    def __len__(self) -> int:
        return len(self._pieces)

    @property
    def num_tokens(self) -> int:
        """Tokens whose KV is here."""
        return sum(len(piece.tokens) for piece in self._pieces.values())

    def find(self, tokens: Sequence[int], start: int, limit: int) -> tuple[Piece, int] | None:
        """The piece that goes on furthest from tokens[:start], and how many of its tokens are tokens[start:limit].

        Args:
            tokens: of a text.
            start: where a piece may begin.
            limit: how many of the tokens are of interest.
        """
        best: tuple[Piece, int] | None = None
        for piece in self._by_beginning.get(_key(tokens, start), ()):
            count = min(len(piece.tokens), limit - start)
            same = next((i for i in range(count) if piece.tokens[i] != tokens[start + i]), count)
            if same and (best is None or same > best[1]):
                best = piece, same
        return best

    def reach(self, tokens: Sequence[int], known: int, limit: int) -> int:
        """How many of tokens[:limit] have their KV, where that of the first `known` is in the model's memory."""
        while found := self.find(tokens, self.beginning(known), limit):
            end = self.beginning(known) + found[1]
            if end <= known:
                break
            known = end
        return known

    def beginning(self, position: int) -> int:
        """Where the piece begins that holds this position."""
        return position - position % self.length

    def holds(self, tokens: Sequence[int], start: int) -> bool:
        """Whether all of tokens[start:] is in one piece."""
        found = self.find(tokens, start, len(tokens))
        return found is not None and found[1] == len(tokens) - start

    def put(self, tokens: Sequence[int], start: int, data: bytearray) -> None:
        """Keep the KV of tokens[start:]."""
        piece = Piece(_key(tokens, start), tuple(tokens[start:]), data)
        for other in list(self._by_beginning.get(piece.before, ())):
            if other.tokens == piece.tokens[: len(other.tokens)]:
                self._remove(other)
        self._by_beginning.setdefault(piece.before, []).append(piece)
        self._pieces[id(piece)] = piece
        self.num_bytes += len(data)
        while self.num_bytes > self.max_bytes:
            self._remove(next(iter(self._pieces.values())))

    def touch(self, piece: Piece) -> None:
        """Make a piece the last to be thrown away, if it is still here."""
        if id(piece) in self._pieces:
            self._pieces.move_to_end(id(piece))

    def clear(self) -> None:
        """Throw all of them away."""
        self._pieces.clear()
        self._by_beginning.clear()
        self.num_bytes = 0

    def _remove(self, piece: Piece) -> None:
        del self._pieces[id(piece)]
        siblings = self._by_beginning[piece.before]
        siblings.remove(piece)
        if not siblings:
            del self._by_beginning[piece.before]
        self.num_bytes -= len(piece.data)


def _key(tokens: Sequence[int], start: int) -> bytes:
    return array("i", tokens[:start]).tobytes()
