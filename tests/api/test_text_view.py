"""`stream.text()`."""

from __future__ import annotations

import pytest
from harness import scripted, within

from api.viewing import TAGS, both, every_cut, scripted_pieces
from headrace import (
    Part,
    Token,
)
from headrace.api.text_view import text_of

# text()


@pytest.mark.parametrize("whole", ["", "a", "héllo 🙂 wörld", "日本語"])
def test_text(whole: str) -> None:
    with scripted(whole) as made:
        strings = both(made, "text")
        assert strings == list(whole)


def test_text_at_every_cut() -> None:
    for pieces in every_cut("ab€<t>no</t>🙂yes"):
        with scripted_pieces(pieces) as made:
            stream = made.model.generate_stream("p", thinking_tags=TAGS, stop_sequences=["s!"])
            strings = within(list, stream.text())
            assert "".join(strings) == stream.result().text
            assert all(strings)
    for pieces in every_cut("<t>no</t>🙂yes"):
        with scripted_pieces(pieces) as made:
            stream = made.model.generate_stream("p", thinking_tags=TAGS, stop_sequences=["s!"])
            assert "".join(within(list, stream.text())) == stream.result().text == "🙂yes"
            assert stream.result().thinking == "no"


def test_all_the_text_of_a_token_counts() -> None:
    """The last one may have several parts."""
    token = Token("a", 1, 0, 0.0, kind="thinking", rest=(Part("text", "b"), Part("tool_call", "c"), Part("text", "d")))
    assert text_of(token) == "bd"
    assert text_of(Token("a", 1, 0, 0.0, rest=(Part("text", "b"),))) == "ab"
    assert text_of(Token("a", 1, 0, 0.0, kind="tool_call")) == ""
