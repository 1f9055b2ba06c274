"""KV outside the model's memory: what nobody is using, kept where it costs the steps nothing.

Attention walks over every cell of the memory, also over those that none of the running sequences owns: a memory full of
cached prefixes makes the steps of a small model a quarter longer. Copying cells out and in again takes microseconds for
each token, computing them milliseconds. llama-server keeps whole prompts in main memory like this.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headrace.engine.kv.radix import common_prefix

__all__ = ["OffloadedKV", "Piece"]

# A piece this long is copied in a millisecond or two.
_LENGTH = 128


@dataclass(frozen=True, slots=True)
class Piece:
    """The KV of consecutive tokens of a text.

    Attributes:
        key: what all tokens before them are known by.
        tokens: what it holds the KV of.
        data: as the model's memory wrote it.
    """

    key: bytes
    tokens: tuple[int, ...]
    data: bytearray


class OffloadedKV:
    """Pieces of KV, the least recently used of which are thrown away. Belongs to the engine thread.

    Pieces begin at multiples of a length, so that the next one is found by the tokens before it.

    Args:
        max_bytes: of all pieces together.
        most_saved: tokens in a piece at most.
        after: a prefix is offloaded when nobody has used it while so many tokens were computed: what these cost more
            because of it is then several times what it takes to copy it out and in.
    """

    def __init__(self, max_bytes: int, most_saved: int, after: int = 512) -> None:
        self.max_bytes = max_bytes
        self.length = min(_LENGTH, most_saved)
        self.after = after
        self.num_bytes = 0
        self._bytes_per_token = 0.0
        self._by_key: dict[bytes, list[Piece]] = {}
        self._pieces: OrderedDict[int, Piece] = OrderedDict()  # least recently used first

    def __len__(self) -> int:
        return len(self._pieces)

    @property
    def num_tokens(self) -> int:
        """Tokens whose KV is here."""
        return sum(len(piece.tokens) for piece in self._pieces.values())

    def beginning(self, position: int) -> int:
        """Where the piece begins that holds this position."""
        return position - position % self.length

    def is_worth(self, num_tokens: int, num_cells: int, *, is_needed: bool) -> bool:
        """Whether to set so many tokens offloaded.

        Args:
            num_tokens: how many, a piece at most.
            num_cells: of the model's memory.
            is_needed: whether they have to leave that. Otherwise they only do where nothing is thrown away for it, or
                where as much is kept here as could be kept there.
        """
        num_bytes = num_tokens * self._bytes_per_token
        if is_needed or num_cells * self._bytes_per_token <= self.max_bytes:
            return num_bytes <= self.max_bytes
        return self.num_bytes + num_bytes <= self.max_bytes

    def chain(self, tokens: Sequence[int], known: int, limit: int) -> list[tuple[Piece, int, int]]:
        """The pieces that go on from tokens[:known], as far as tokens[:limit].

        Returns:
            Each with where it begins, and how far its tokens are these.
        """
        start = self.beginning(known)
        key = _hash(tokens[:start])
        found: list[tuple[Piece, int, int]] = []
        while start < limit:
            piece, count = self._find(key.digest(), tokens, start, limit)
            if piece is None or start + count <= known:
                break
            found.append((piece, start, start + count))
            if count < self.length:
                break
            key.update(_bytes(tokens[start : start + count]))
            start += count
        for piece, _, _ in reversed(found):  # without what comes before it none is of use
            self._pieces.move_to_end(id(piece))
        return found

    def holds(self, tokens: Sequence[int], start: int) -> bool:
        """Whether all of tokens[start:] is in one piece, which then is the last to be thrown away."""
        piece, count = self._find(_hash(tokens[:start]).digest(), tokens, start, len(tokens))
        if piece is None or count < len(tokens) - start:
            return False
        self._pieces.move_to_end(id(piece))
        return True

    def put(self, tokens: Sequence[int], start: int, data: bytearray) -> None:
        """Keep the KV of tokens[start:]."""
        piece = Piece(_hash(tokens[:start]).digest(), tuple(tokens[start:]), data)
        for other in list(self._by_key.get(piece.key, ())):
            if other.tokens == piece.tokens[: len(other.tokens)]:
                self.discard(other)
        self._by_key.setdefault(piece.key, []).append(piece)
        self._pieces[id(piece)] = piece
        self.num_bytes += len(data)
        self._bytes_per_token = len(data) / len(piece.tokens)
        while self.num_bytes > self.max_bytes:
            self.discard(next(iter(self._pieces.values())))

    def discard(self, piece: Piece) -> None:
        """Throw a piece away, if it is still here."""
        if self._pieces.pop(id(piece), None) is None:
            return
        siblings = self._by_key[piece.key]
        siblings.remove(piece)
        if not siblings:
            del self._by_key[piece.key]
        self.num_bytes -= len(piece.data)

    def clear(self) -> None:
        """Throw all of them away."""
        self._pieces.clear()
        self._by_key.clear()
        self.num_bytes = 0

    def _find(self, key: bytes, tokens: Sequence[int], start: int, limit: int) -> tuple[Piece | None, int]:
        """The piece behind a key that goes on furthest, and how many of its tokens are tokens[start:limit]."""
        best, most = None, 0
        for piece in self._by_key.get(key, ()):
            # Many texts may begin here. Only those that agree where the best one so far ends can be better.
            if most < min(len(piece.tokens), limit - start) and piece.tokens[most] == tokens[start + most]:
                same = common_prefix(piece.tokens, tokens, limit - start, 0, start)
                if same > most:
                    best, most = piece, same
        return best, most


def _hash(tokens: Sequence[int]) -> Any:
    return hashlib.blake2b(_bytes(tokens), digest_size=16)


def _bytes(tokens: Sequence[int]) -> bytes:
    return array("i", tokens).tobytes()
