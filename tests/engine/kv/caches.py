"""A KV cache on the memory of a scripted runner, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness import BYTES

from headrace.engine.kv.cache import KVCache
from headrace.engine.kv.offload import OffloadedKV
from headrace.engine.kv.radix import Row
from headrace.engine.runner import Slice
from headrace.engine.scripted import ScriptedRunner


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


class Windowed(ScriptedRunner):
    """A memory like that of a model with sliding windows, which lets go of the beginning of some sequences."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(BYTES, **settings)
        self.cut: dict[int, int] = {}

    def can_reuse(self, sequence: int, length: int) -> bool:
        return super().can_reuse(sequence, length) and length >= self.cut.get(sequence, 0)
