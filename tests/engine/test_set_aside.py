"""KV that is set aside: what is found again, what is thrown away first, and what a stream has of it."""

from __future__ import annotations

import pytest
from harness import echo, echoed, ids, scripted, texts

from engine.test_kv_cache import Cache, Windowed
from headrace.engine.kv_cache import KVCache
from headrace.engine.set_aside import SetAside

LONG = "abcdefgh" * 8


def filled(*texts: str, max_bytes: int = 1000, length: int = 4) -> SetAside:
    aside = SetAside(max_bytes, length)
    for text in texts:
        start = aside.beginning(len(text) - 1)
        aside.put(ids(text), start, bytearray(10))
    return aside


def test_a_piece_is_found_by_what_comes_before_it() -> None:
    aside = filled("abcd", "abcdef", "xbcdef")
    assert aside.reach(ids("abcdefgh"), 0, 8) == 6
    assert aside.reach(ids("abcdefgh"), 0, 5) == 5
    assert aside.reach(ids("abcxefgh"), 0, 8) == 3
    assert aside.reach(ids("xbcdefgh"), 0, 8) == 0, "its beginning is not here"
    assert aside.reach(ids("xbcdefgh"), 4, 8) == 6, "but the memory may have it"
    assert aside.reach(ids("abcdefgh"), 7, 8) == 7


def test_of_pieces_with_the_same_beginning_the_one_that_goes_on_is_taken() -> None:
    aside = filled("abx", "aby", "abyz")
    assert aside.num_tokens == 3 + 4, "what is the beginning of another one is not kept beside it"
    found = aside.find(ids("abyz"), 0, 4)
    assert found is not None
    assert found[1] == 4
    assert aside.holds(ids("aby"), 0)
    assert not aside.holds(ids("abz"), 0)


def test_what_was_used_longest_ago_is_thrown_away() -> None:
    aside = filled("a", "b", "c", max_bytes=30)
    first = aside.find(ids("a"), 0, 1)
    assert first is not None
    aside.touch(first[0])
    aside.put(ids("d"), 0, bytearray(10))
    assert [aside.holds(ids(text), 0) for text in "abcd"] == [True, False, True, True]
    aside.put(ids("e"), 0, bytearray(31))
    assert len(aside) == aside.num_bytes == 0, "not even this one fits"
    aside.touch(first[0])
    assert len(aside) == 0


def test_it_is_set_aside_once_nobody_has_used_it_for_long() -> None:
    cache = Cache(num_cells=200, num_rows=8, aside=SetAside(1000, 4, after=10))
    cache.cache([1, 2, 3, 4, 5, 6])
    cache.cache([7, 7, 7, 7])
    cache.kv.tidy()
    assert cache.kv.num_used == 10
    cache.cache([8] * 6)
    cache.kv.tidy()  # a piece at a time
    assert cache.found([1, 2, 3, 4, 5, 6]) == 4
    cache.kv.tidy()
    cache.kv.tidy()
    assert cache.found([1, 2, 3, 4, 5, 6]) == 0
    assert cache.found([7, 7, 7, 7]) == 4
    assert cache.kv.reach([1, 2, 3, 4, 5, 6, 7], 7) == 6
    cache.kv.bring_back([1, 2, 3, 4, 5, 6, 7], 7)
    assert cache.found([1, 2, 3, 4, 5, 6]) == 6
    cache.check()
    cache.kv.forget()
    assert cache.kv.reach([1, 2, 3, 4, 5, 6, 7], 7) == 0


def test_what_others_share_is_not_set_aside() -> None:
    cache = Cache(num_cells=200, num_rows=8, aside=SetAside(1000, 4, after=1))
    row, _ = cache.start([1, 2, 3, 4, 5])
    cache.cache([1, 2, 3, 4, 5, 6, 7])
    cache.compute(row, [9, 9, 9])
    cache.kv.tidy()
    assert cache.memory.row(row.id) == [1, 2, 3, 4, 5, 9, 9, 9]
    assert cache.kv.num_used == 8
    cache.kv.bring_back([1, 2, 3, 4, 5, 6, 7], 7)
    assert cache.found([1, 2, 3, 4, 5, 6, 7]) == 7
    cache.check()


def test_a_sequence_whose_window_is_gone_stays_where_it_is() -> None:
    cache = Cache()
    memory = cache.memory = Windowed(num_cells=64, num_rows=4)
    kv = cache.kv = KVCache(memory, num_cells=64, num_rows=4, aside=SetAside(1000, 4, after=1))
    row, _ = cache.start([1, 2, 3, 4, 5, 6])
    memory.cut[row.id] = 5
    kv.release(row)
    cache.cache([7] * 6)
    kv.tidy()
    assert cache.found([1, 2, 3, 4, 5, 6]) == 6
    cache.cache([8] * 6)
    kv.tidy()
    assert cache.found([7] * 6) == 4, "it does not keep others from it"
    cache.check()


def test_a_memory_that_cannot_be_saved_is_evicted() -> None:
    class Unsaved(Windowed):
        def save_sequence(self, sequence: int, spare: int, start: int, end: int) -> bytearray | None:
            if start == 4:
                raise MemoryError
            return None

    cache = Cache()
    memory = cache.memory = Unsaved(num_cells=8, num_rows=4)
    kv = cache.kv = KVCache(memory, num_cells=8, num_rows=4, aside=SetAside(1000, 4, after=1))
    for tokens in ([1, 2, 3, 4, 5, 6], [7, 8, 9], [10] * 8):
        cache.cache(tokens)
        kv.tidy()
        assert cache.found(tokens) == len(tokens)


@pytest.mark.parametrize(("megabytes", "expected"), [(256, 49), (0, 0), (0.0001, 0)])
def test_what_had_to_make_room_is_not_computed_again(megabytes: float, expected: int) -> None:
    with scripted(echo, num_cells=400, max_streams=2, prefix_cache_mb=megabytes) as made:
        prompts = [letter * 50 for letter in "abcdef"]
        for prompt in prompts:
            assert made.model.generate(prompt).text == echoed(prompt)
        result = made.model.generate(prompts[0])
        assert result.usage.cached_tokens == expected
        assert result.text == echoed(prompts[0])
        made.engine.clear_cache()
        assert made.model.generate(prompts[0]).usage.cached_tokens == 0


def test_a_stream_takes_up_what_was_set_aside_while_others_run() -> None:
    with scripted(echo, num_cells=2000, max_streams=4) as made:
        made.model.generate(LONG)
        others = [made.model.generate(letter * 150) for letter in "uvwxyz"]
        assert made.engine.metrics().kv_cached < 1500
        assert [other.finish_reason for other in others] == ["stop"] * 6
        streams = [made.model.generate_stream(LONG + end) for end in ("", "!", "?")]
        assert [texts(stream) for stream in streams] == [echoed(LONG + end) for end in ("", "!", "?")]
        assert [stream.usage.cached_tokens for stream in streams] == [len(LONG) - 1, len(LONG), len(LONG)]


def test_a_seeded_stream_alone_begins_with_nothing_that_was_set_aside() -> None:
    """Its KV lies as in an empty memory."""
    with scripted(echo, num_cells=2000) as made:
        made.model.generate(LONG)
        for letter in "uvwxyz":
            made.model.generate(letter * 150)
        assert made.model.generate(LONG, seed=1).usage.cached_tokens == 0
        assert made.model.generate(LONG + "!").usage.cached_tokens == len(LONG)
