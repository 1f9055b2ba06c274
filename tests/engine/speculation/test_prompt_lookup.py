"""The guesser finds what a plain search finds, in whatever portions its tokens come, and knows how good it is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.engine.speculation.prompt_lookup import Lookup

TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=80)


class Naive:
    """The same by searching the whole text, at each token."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = tokens
        self.place = 0
        self.hits: list[bool] = []

    def follow(self) -> None:
        """Go through the text, a token at a time."""
        for count in range(1, len(self.tokens) + 1):
            seen = self.tokens[:count]
            if self.place:
                is_hit = self.tokens[self.place] == seen[-1]
                self.hits.append(is_hit)
                self.place = self.place + 1 if is_hit else 0
            if not self.place:
                self.place = self.search(seen)

    @staticmethod
    def search(seen: list[int]) -> int:
        """What follows the latest earlier occurrence of the last four tokens, or else of the last two: its place."""
        for length in (4, 2):
            for end in range(len(seen) - 1, length - 1, -1):
                # A run of two at the very start has no fourth token before it, and is not looked at before there are 4.
                if len(seen) >= 4 and end >= 4 and seen[end - length : end] == seen[-length:]:
                    return end
        return 0

    def guess(self, count: int) -> list[int]:
        """What came there, and then what would."""
        text = list(self.tokens)
        for at in range(count):
            text.append(text[self.place + at])
        return text[len(self.tokens) :] if self.place else []


@settings(max_examples=500)
@given(TOKENS, st.lists(st.integers(1, 20)), st.integers(1, 20))
def test_it_guesses_what_a_search_finds(tokens: list[int], portions: list[int], count: int) -> None:
    growing: list[int] = []
    lookup = Lookup(growing)  # nothing is indexed in bulk: that only leaves out what is guessed on the way
    for portion in [*portions, len(tokens)]:
        growing += tokens[len(growing) : len(growing) + portion]
        lookup.catch_up()
    naive = Naive(tokens)
    naive.follow()
    assert lookup.propose(count) == naive.guess(count)
    assert bool(lookup.length) == bool(naive.place)
    length = lookup.length
    if length:
        assert tokens[naive.place - length : naive.place] == tokens[len(tokens) - length :]


@settings(max_examples=300)
@given(st.lists(st.integers(0, 2), max_size=60), st.lists(st.integers(0, 2), min_size=8, max_size=60))
def test_a_prompt_in_bulk_is_indexed_like_one_that_came_token_by_token(prompt: list[int], more: list[int]) -> None:
    bulk_tokens, tokens = list(prompt), list[int]()
    bulk, lookup = Lookup(bulk_tokens), Lookup(tokens)
    tokens += prompt
    # They may follow different guesses until one is refuted; behind something new, both search.
    for token in (*more, 9, *more[-3:]):
        for grown, follower in ((tokens, lookup), (bulk_tokens, bulk)):
            grown.append(token)
            follower.catch_up()
    assert bulk.propose(10) == lookup.propose(10)


def test_of_a_long_prompt_only_the_end_is_indexed() -> None:
    tokens = list(range(100_000))
    lookup = Lookup(tokens)
    for start, found in ((50_000, False), (90_000, True)):
        tokens += range(start, start + 4)
        lookup.catch_up()
        assert lookup.propose(2) == ([start + 4, start + 5] if found else [])


@pytest.mark.parametrize(
    ("text", "guess"), [("xabcd-abcd", "-abcd-ab"), ("-hahaha", "hahahaha"), ("zzzzz", "zzzzzzzz")]
)
def test_a_guess_may_run_into_itself(text: str, guess: str) -> None:
    lookup = Lookup([ord(letter) for letter in text])
    lookup.catch_up()
    assert "".join(map(chr, lookup.propose(8))) == guess


def test_it_learns_how_often_it_is_right() -> None:
    tokens = list(range(100))
    lookup = Lookup(tokens)
    lookup.catch_up()
    assert lookup.chances(15) == []
    tokens += [10, 11, 12, 13]
    lookup.catch_up()
    first = lookup.chances(15)
    assert 0 < len(first) < 15
    assert first == sorted(first, reverse=True)
    tokens += range(14, 60)
    lookup.catch_up()
    assert lookup.chances(15)[-1] > first[0], "forty tokens came true"
    for at in range(60, 90):  # every third one is another
        tokens.append(at if at % 3 else 1000 + at)
        lookup.catch_up()
    assert all(chance < first[0] for chance in lookup.chances(15)[3:])
