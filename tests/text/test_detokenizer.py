"""Bytes become the characters that decoding the whole would give, however they are split."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.text.detokenizer import Detokenizer

FAMILY = "👩‍👩‍👧‍👦"  # four emoji and three zero-width joiners
# Bytes that matter to UTF-8, so that hypothesis finds the borders of its rules.
TELLING_BYTES = st.sampled_from([*b"a\x00\x7f", *range(0x80, 0xC0, 9), *range(0xC0, 0x100)])
SEQUENCES = st.one_of(st.binary(max_size=12), st.lists(TELLING_BYTES, max_size=8).map(bytes), st.text().map(str.encode))


# Every beginning of every character; the last six bits never show in one, so a character of each 64 will do.
BEGINNINGS = {
    character[:length]
    for code in range(0x80, 0x110000, 64)
    if not 0xD800 <= code < 0xE000
    for character in [chr(code).encode()]
    for length in range(1, len(character))
}


def cut_off(data: bytes) -> bytes:
    """The incomplete character at the end: what can still become a valid one. By brute force, not by rule."""
    return next((data[start:] for start in range(len(data)) if data[start:] in BEGINNINGS), b"")


def pieces_at(data: bytes, cuts: list[int]) -> list[bytes]:
    return [data[start:end] for start, end in pairwise([0, *cuts, len(data)])]


def run(pieces: list[bytes]) -> str:
    detokenizer = Detokenizer()
    return "".join(map(detokenizer.feed, pieces)) + detokenizer.flush()


def every_split(data: bytes) -> list[list[bytes]]:
    positions = range(1, len(data))
    return [
        pieces_at(data, [cut for cut in positions if mask >> (cut - 1) & 1])
        for mask in range(2 ** max(0, len(data) - 1))
    ]


@given(SEQUENCES, st.data())
def test_any_bytes_at_any_split(data: bytes, draws: st.DataObject) -> None:
    cuts = draws.draw(st.lists(st.integers(0, len(data))).map(sorted))
    pieces = pieces_at(data, cuts)
    detokenizer = Detokenizer()
    text = "".join(map(detokenizer.feed, pieces))
    complete = data[: len(data) - detokenizer.num_held]
    assert text == complete.decode("utf-8", "replace")
    assert text + detokenizer.flush() == text
    # What is held is the beginning of a character, so the whole decodes to one replacement more.
    held = data[len(complete) :]
    assert data.decode("utf-8", "replace") == text + ("\ufffd" if held else "")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (FAMILY.encode()[:11], FAMILY.encode()[:11].decode()),
        (b"\xed\xa0\x80", "\ufffd" * 3),
        (b"\xed\xa0", "\ufffd" * 2),
        (b"\xed\xbfa", "\ufffd\ufffda"),
        (b"\xed\xa0\x80\xed\xb0\x80", "\ufffd" * 6),
        (b"\xc0\xaf", "\ufffd" * 2),
        (b"\xe0\x80\xaf", "\ufffd" * 3),
        (b"\xf0\x80\x80\xaf", "\ufffd" * 4),
        (b"\xf5\x80\x80\x80", "\ufffd" * 4),
        (b"\xf4\x90\x80\x80", "\ufffd" * 4),
        (b"a\x80b", "a\ufffdb"),
        (b"\x80\xbf\x80", "\ufffd" * 3),
        (b"\xf0\x9fA", "\ufffdA"),
        (b"\xe2\x82\xe2\x82\xac", "\ufffd€"),
        (b"\xff\xfe", "\ufffd" * 2),
        (b"\xef\xbb\xbfa", "\ufeffa"),
        ("\x00é\U0010ffff".encode(), "\x00é\U0010ffff"),
        (b"", ""),
    ],
)
def test_known_sequences_at_every_split(data: bytes, text: str) -> None:
    assert {run(pieces) for pieces in every_split(data)} == {text}


@pytest.mark.parametrize("character", ["é", "€", "😀"])
def test_a_character_cut_off_at_the_end_is_dropped(character: str) -> None:
    data = character.encode()
    for length in range(1, len(data)):
        for pieces in every_split(b"ok" + data[:length]):
            assert run(pieces) == "ok"


@given(SEQUENCES)
def test_only_what_can_become_a_character_is_held(data: bytes) -> None:
    detokenizer = Detokenizer()
    for byte in data:
        detokenizer.feed(bytes([byte]))
    assert detokenizer.num_held == len(cut_off(data))


def test_a_character_comes_with_its_last_byte() -> None:
    detokenizer = Detokenizer()
    fed = [detokenizer.feed(bytes([byte])) for byte in "😀".encode()]
    assert fed == ["", "", "", "😀"]
    assert detokenizer.num_held == 0


def test_flush_forgets_what_was_held() -> None:
    detokenizer = Detokenizer()
    detokenizer.feed(b"\xf0\x9f")
    assert detokenizer.num_held == 2
    assert detokenizer.flush() == ""
    assert detokenizer.num_held == 0
    assert detokenizer.feed(b"a") == "a"
