"""Stop sequences match as they would in the whole text, at every split, and nothing is held without need."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.text.stops import StopMatcher
from headrace.values.errors import InvalidRequestError

STOPS = st.lists(st.text("abc", min_size=1, max_size=4), max_size=4)
TEXTS = st.text("abc", max_size=12)


def expected(stops: list[str], text: str) -> tuple[str, str | None]:
    """The whole text's answer: what is emitted, and which stop ended it."""
    for start in range(len(text)):
        here = [stop for stop in stops if text.startswith(stop, start)]
        if here:
            return text[:start], min(here, key=len)
    return text, None


def expected_so_far(stops: list[str], text: str) -> tuple[str, str, str | None]:
    """By definition, after `text` and before more: emitted, held, matched."""
    for start in range(len(text)):
        if any(stop.startswith(text[start:]) and stop != text[start:] for stop in stops) and not any(
            text.startswith(stop, start) for stop in stops
        ):
            return text[:start], text[start:], None
        if any(text.startswith(stop, start) for stop in stops):
            return text[:start], "", expected(stops, text)[1]
    return text, "", None


def run(stops: list[str], pieces: list[str]) -> tuple[str, str | None]:
    matcher = StopMatcher(stops)
    emitted = "".join(map(matcher.feed, pieces)) + matcher.flush()
    assert matcher.held == ""
    assert matcher.feed("more") == ("more" if matcher.matched is None and "more" not in stops else "")
    return emitted, matcher.matched


def every_split(text: str) -> list[list[str]]:
    positions = range(1, len(text))
    splits: list[list[str]] = []
    for mask in range(2 ** max(0, len(text) - 1)):
        cuts = [0, *(cut for cut in positions if mask >> (cut - 1) & 1), len(text)]
        splits.append([text[start:end] for start, end in pairwise(cuts)])
    return splits


@settings(deadline=None, max_examples=60)
@given(STOPS, TEXTS)
def test_every_split_of_every_text(stops: list[str], text: str) -> None:
    wanted = expected(stops, text)
    for pieces in every_split(text):
        assert run(stops, pieces) == wanted


@settings(max_examples=400)
@given(STOPS, st.lists(st.text("abc", max_size=3), max_size=8))
def test_held_is_the_least_possible_after_each_piece(stops: list[str], pieces: list[str]) -> None:
    matcher = StopMatcher(stops)
    emitted = fed = ""
    for piece in pieces:
        emitted += matcher.feed(piece)
        fed += piece
        assert (emitted, matcher.held, matcher.matched) == expected_so_far(stops, fed)


@pytest.mark.parametrize(
    ("stops", "text", "emitted", "matched"),
    [
        (["aab", "ab"], "xaab", "x", "aab"),
        (["aab", "ab"], "xab", "x", "ab"),
        (["ab", "abc"], "xabc", "x", "ab"),
        (["abc", "ab"], "xabc", "x", "ab"),
        (["abcd", "bc"], "xabce", "xa", "bc"),
        (["abcd", "bc"], "xabcd", "x", "abcd"),
        (["abcd", "bc"], "xabc", "xa", "bc"),
        (["abcde", "bcd", "c"], "abcdx", "a", "bcd"),
        (["abcde", "bcdf", "c"], "abcdx", "ab", "c"),
        (["abab"], "ababab", "", "abab"),
        (["abab"], "abaabab", "aba", "abab"),
        (["aaab"], "aaaaab", "aa", "aaab"),
        (["\n\n"], "a\nb\n\nc", "a\nb", "\n\n"),
        (["👩‍👧", "é"], "x👩‍👩‍👧é", "x👩‍", "👩‍👧"),
        (["終わり"], "終わ終わり。", "終わ", "終わり"),
        (["."], "a.b", "a", "."),
        (["a", "a"], "ba", "b", "a"),
        ([], "text", "text", None),
    ],
)
def test_known_cases_at_every_split(stops: list[str], text: str, emitted: str, matched: str | None) -> None:
    for pieces in every_split(text):
        assert run(stops, pieces) == (emitted, matched)


def test_a_complete_match_waits_for_an_earlier_beginning() -> None:
    matcher = StopMatcher(["abcd", "bc"])
    assert matcher.feed("xabc") == "x"
    assert (matcher.held, matcher.matched) == ("abc", None)
    assert matcher.feed("e") == "a"
    assert (matcher.held, matcher.matched) == ("", "bc")
    assert matcher.feed("anything") == ""


def test_a_complete_match_that_waits_wins_at_the_end() -> None:
    matcher = StopMatcher(["abcd", "bc"])
    assert matcher.feed("xabc") == "x"
    assert matcher.flush() == "a"
    assert matcher.matched == "bc"


def test_text_without_a_beginning_of_a_stop_passes_at_once() -> None:
    matcher = StopMatcher(["###", "\nUser:"])
    assert [matcher.feed(piece) for piece in ("User:", " a", "b \n")] == ["User:", " a", "b "]
    assert matcher.held == "\n"


def test_long_stops_cost_a_step_per_character() -> None:
    # Quadratic work would be 10^10 comparisons here and never end.
    stop = "a" * 100_000 + "b"
    matcher = StopMatcher([stop])
    assert matcher.feed("a" * 150_000) == "a" * 50_000
    assert matcher.feed("b") == ""
    assert matcher.matched == stop


def test_an_empty_stop_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="stop_sequences"):
        StopMatcher(["a", ""])
