"""`OffloadedKV`: KV of unused prefixes in main memory, outside llama.cpp's KV cache, in `KVBlock`s.

Attention walks over every used cell of the KV cache, also over cells that no running sequence owns. So a cache full of
prefixes makes steps of a small model a quarter longer. Copying KV out and in takes microseconds per token; computing it
takes milliseconds. llama-server keeps whole prompts in main memory for the same reason.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headrace.engine.kv.radix import common_prefix

__all__ = ["KVBlock", "OffloadedKV"]

# Tokens in a block. Copying such a block takes a millisecond or two.
_BLOCK_LENGTH = 128


@dataclass(frozen=True, slots=True)
class KVBlock:
    """The KV of consecutive tokens.

    Attributes:
        key: hash of all tokens before the block.
        tokens: the tokens of the block.
        data: their KV, as the backend saved it.
    """

    key: bytes
    tokens: tuple[int, ...]
    data: bytearray


class OffloadedKV:
    """A store of KV blocks that discards the least recently used. Used by the engine thread only.

    Blocks start at multiples of `block_length` and are found by a hash of the tokens before them.

    Args:
        max_bytes: the most bytes of all blocks together.
        max_saved: the most tokens that the backend saves at once.
        idle_tokens: a prefix is offloaded once this many tokens were computed since its last use. By then its cells
            have cost several times as much as copying them out and in.
    """

    def __init__(self, max_bytes: int, max_saved: int, idle_tokens: int = 512) -> None:
        self.max_bytes = max_bytes
        self.block_length = min(_BLOCK_LENGTH, max_saved)
        self.idle_tokens = idle_tokens
        self.num_bytes = 0
        self._bytes_per_token = 0.0
        self._by_key: dict[bytes, list[KVBlock]] = {}
        self._blocks: OrderedDict[int, KVBlock] = OrderedDict()  # by id(), least recently used first

    def __len__(self) -> int:
        return len(self._blocks)

    @property
    def num_tokens(self) -> int:
        """Tokens of all blocks together."""
        return sum(len(block.tokens) for block in self._blocks.values())

    def block_start(self, position: int) -> int:
        """Returns the first position of the block that contains this position."""
        return position - position % self.block_length

    def is_worthwhile(self, num_tokens: int, num_cells: int, *, is_needed: bool) -> bool:
        """Returns whether to offload a block of `num_tokens` tokens.

        Args:
            num_tokens: tokens of the block.
            num_cells: cells of the KV cache.
            is_needed: whether the block's cells have to be freed. Otherwise a block is offloaded only if no other block
                is discarded for it, or if this store is as large as the KV cache.
        """
        num_bytes = num_tokens * self._bytes_per_token
        if is_needed or num_cells * self._bytes_per_token <= self.max_bytes:
            return num_bytes <= self.max_bytes
        return self.num_bytes + num_bytes <= self.max_bytes

    def find_chain(self, tokens: Sequence[int], known: int, limit: int) -> list[tuple[KVBlock, int, int]]:
        """Returns the blocks that continue tokens[:known] towards tokens[:limit].

        Returns:
            For each block, the block, the position where it starts, and the position up to which it matches.
        """
        start = self.block_start(known)
        key = _hash(tokens[:start])
        found: list[tuple[KVBlock, int, int]] = []
        while start < limit:
            block, count = self._find(key.digest(), tokens, start, limit)
            if block is None or start + count <= known:
                break
            found.append((block, start, start + count))
            if count < self.block_length:
                break
            key.update(_bytes(tokens[start : start + count]))
            start += count
        for block, _, _ in reversed(found):  # the first block becomes the most recent: the others need it
            self._blocks.move_to_end(id(block))
        return found

    def holds(self, tokens: Sequence[int], start: int) -> bool:
        """Returns whether one block holds all of tokens[start:]; that block becomes the most recently used."""
        block, count = self._find(_hash(tokens[:start]).digest(), tokens, start, len(tokens))
        if block is None or count < len(tokens) - start:
            return False
        self._blocks.move_to_end(id(block))
        return True

    def put(self, tokens: Sequence[int], start: int, data: bytearray) -> None:
        """Store the KV of tokens[start:] as a block."""
        block = KVBlock(_hash(tokens[:start]).digest(), tuple(tokens[start:]), data)
        for other in list(self._by_key.get(block.key, ())):
            if other.tokens == block.tokens[: len(other.tokens)]:
                self.discard(other)
        self._by_key.setdefault(block.key, []).append(block)
        self._blocks[id(block)] = block
        self.num_bytes += len(data)
        self._bytes_per_token = len(data) / len(block.tokens)
        while self.num_bytes > self.max_bytes:
            self.discard(next(iter(self._blocks.values())))

    def discard(self, block: KVBlock) -> None:
        """Discard a block, if it is still stored."""
        if self._blocks.pop(id(block), None) is None:
            return
        siblings = self._by_key[block.key]
        siblings.remove(block)
        if not siblings:
            del self._by_key[block.key]
        self.num_bytes -= len(block.data)

    def clear(self) -> None:
        """Discard all blocks."""
        self._blocks.clear()
        self._by_key.clear()
        self.num_bytes = 0

    def _find(self, key: bytes, tokens: Sequence[int], start: int, limit: int) -> tuple[KVBlock | None, int]:
        """Returns the block with this key that shares most of tokens[start:limit], and how many tokens it shares."""
        best, most = None, 0
        for block in self._by_key.get(key, ()):
            # Many blocks may have this key. A longer match must have the token after the longest one so far.
            if most < min(len(block.tokens), limit - start) and block.tokens[most] == tokens[start + most]:
                same = common_prefix(block.tokens, tokens, limit - start, 0, start)
                if same > most:
                    best, most = block, same
        return best, most


def _hash(tokens: Sequence[int]) -> Any:
    return hashlib.blake2b(_bytes(tokens), digest_size=16)


def _bytes(tokens: Sequence[int]) -> bytes:
    return array("i", tokens).tobytes()
