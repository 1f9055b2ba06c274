"""The store of offloaded KV: what it finds, and what it discards first."""

from __future__ import annotations

from typing import Any

import pytest
from harness import ids

from headrace.engine.kv.offload import OffloadedKV
from headrace.engine.kv.radix import common_prefix


def filled(*texts: str, max_bytes: int = 1000, length: int = 4) -> OffloadedKV:
    offloaded = OffloadedKV(max_bytes, length)
    for text in texts:
        start = offloaded.block_start(len(text) - 1)
        offloaded.put(ids(text), start, bytearray(10))
    return offloaded


def reach(offloaded: OffloadedKV, text: str, known: int, limit: int) -> int:
    chain = offloaded.find_chain(ids(text), known, limit)
    return chain[-1][2] if chain else known


def test_a_block_is_found_by_the_tokens_before_it() -> None:
    offloaded = filled("abcd", "abcdef", "xbcdef")
    assert reach(offloaded, "abcdefgh", 0, 8) == 6
    assert reach(offloaded, "abcdefgh", 0, 5) == 5
    assert reach(offloaded, "abcxefgh", 0, 8) == 3
    assert reach(offloaded, "xbcdefgh", 0, 8) == 0, "its beginning is not here"
    assert reach(offloaded, "xbcdefgh", 4, 8) == 6, "but the memory may have it"
    assert reach(offloaded, "abcdefgh", 7, 8) == 7
    assert reach(offloaded, "abcd", 4, 4) == 4


def test_of_blocks_with_the_same_key_the_one_that_matches_longest_is_taken() -> None:
    offloaded = filled("abx", "aby", "abyz")
    assert offloaded.num_tokens == 3 + 4, "what is the beginning of another one is not kept beside it"
    ((block, start, end),) = offloaded.find_chain(ids("abyz"), 0, 4)
    assert (block.tokens, start, end) == (tuple(ids("abyz")), 0, 4)
    assert offloaded.holds(ids("aby"), 0)
    assert not offloaded.holds(ids("abz"), 0)


def test_many_texts_may_begin_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """As short prompts of one chat template do."""
    texts = [f"<user>{number:03}" for number in range(1000)]
    offloaded = filled(*texts, max_bytes=100_000, length=32)
    compared: list[int] = []

    def counted(*args: Any) -> int:
        compared.append(1)
        return common_prefix(*args)

    monkeypatch.setattr("headrace.engine.kv.offload.common_prefix", counted)
    assert all(offloaded.holds(ids(text), 0) for text in texts[::100])
    assert reach(offloaded, "<user>99x", 0, 9) == 8
    assert len(compared) < 200


def test_what_was_used_longest_ago_is_thrown_away() -> None:
    offloaded = filled("a", "b", "c", "d", max_bytes=40)
    ((first, _, _),) = offloaded.find_chain(ids("a"), 0, 1)
    assert offloaded.holds(ids("b"), 0)
    offloaded.put(ids("e"), 0, bytearray(10))
    offloaded.put(ids("f"), 0, bytearray(10))
    assert [offloaded.holds(ids(text), 0) for text in "abcdef"] == [True, True, False, False, True, True]
    offloaded.put(ids("g"), 0, bytearray(41))
    assert len(offloaded) == offloaded.num_bytes == 0, "not even this one fits"
    offloaded.discard(first)
    assert len(offloaded) == 0


def test_the_end_of_a_text_is_thrown_away_before_its_beginning() -> None:
    offloaded = filled("abcdefgh", "abcd", max_bytes=30)
    assert reach(offloaded, "abcdefgh", 0, 8) == 8
    for text in "xy":
        offloaded.put(ids(text), 0, bytearray(10))
    assert reach(offloaded, "abcdefgh", 0, 8) == 4
