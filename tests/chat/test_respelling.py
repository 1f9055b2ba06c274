"""A prompt in tokens that are cached already says the same as in the tokenizer's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace.chat.respelling import respelled

# Two ways and more to say most things; 9 is a control token.
PIECES = {1: b"a", 2: b"b", 3: b"ab", 4: b"ba", 5: b"aab", 6: b"\xc3", 7: b"\xa4", 8: "ä".encode(), 9: b""}
TOKENS = st.lists(st.sampled_from(sorted(PIECES)), max_size=12)


def said(tokens: tuple[int, ...] | list[int]) -> list[bytes]:
    """Text and control tokens, whatever the text is spelled like."""
    return b"".join(PIECES[token] or b"\xff" for token in tokens).split(b"\xff")


def test_what_is_known_is_taken_up_to_the_last_common_border() -> None:
    assert respelled([3, 9, 3], [1, 2, 9], PIECES.__getitem__) == (1, 2, 9, 3)
    assert respelled([5, 2], [1, 1], PIECES.__getitem__) == (5, 2)  # "aa" ends inside the first token
    assert respelled([5, 2], [1, 3, 1], PIECES.__getitem__) == (1, 3, 2)
    assert respelled([8, 1], [6, 7, 3], PIECES.__getitem__) == (6, 7, 1)
    assert respelled([3], [1, 2, 1, 2], PIECES.__getitem__) == (1, 2)


def test_control_tokens_are_not_made_and_not_lost() -> None:
    assert respelled([1, 9, 2], [1, 2], PIECES.__getitem__) == (1, 9, 2)
    assert respelled([1, 2], [1, 9, 2], PIECES.__getitem__) == (1, 2)
    assert respelled([3], [1, 9, 2], PIECES.__getitem__) == (3,)


@given(TOKENS, TOKENS)
def test_it_says_the_same(tokens: list[int], known: list[int]) -> None:
    assert said(respelled(tokens, known, PIECES.__getitem__)) == said(tokens)


@given(st.lists(st.sampled_from([1, 2, 3, 4, 9]), max_size=10))
def test_another_spelling_of_the_same_is_taken_whole(known: list[int]) -> None:
    letters = [letter for token in known for letter in (PIECES[token] or b"\xff").decode("latin-1")]
    tokens = [{"a": 1, "b": 2}.get(letter, 9) for letter in letters]
    assert respelled(tokens, known, PIECES.__getitem__) == tuple(known)
    assert respelled([*tokens, 5], known, PIECES.__getitem__) == (*known, 5)
