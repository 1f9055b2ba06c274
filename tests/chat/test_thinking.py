"""Text is split into a thought and an answer, in the same way however it is split into pieces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.chat.thinking import ThoughtSplitter, overlap, tags_of
from headrace.values.output_format import Tags

OPEN, CLOSE = "<think>", "</think>"
TAGS = Tags(OPEN, CLOSE)
MULTIBYTE = Tags("◁think▷", "◁/think▷")
TEMPLATE = "{{ messages[-1].content }}{# <think> </think> #}"
OPENING_TEMPLATE = "{{ messages[-1].content }}{% if add_generation_prompt %}<think>\n{% endif %}{# </think> #}"
FIRST = 1000  # ids below this are the bytes, which spell the prompt


def reference(text: str, tags: Tags = TAGS, *, is_open: bool = False, raw: bool = False) -> tuple[str | None, str]:
    """What the docstring of ThoughtSplitter says, for one who sees the whole text: the thought and the answer."""
    begun = text.lstrip()
    if not is_open and not begun.startswith(tags.opener):
        return None, text
    body = begun.removeprefix(tags.opener)
    thought, closer, answer = body.partition(tags.closer)
    if raw:
        return text[: len(text) - len(answer)], answer
    return thought.strip(), answer.lstrip() if closer else ""


def split_up(
    pieces: Sequence[str], tags: Tags = TAGS, *, is_open: bool = False, raw: bool = False
) -> tuple[str | None, str]:
    splitter = ThoughtSplitter(tags, is_open=is_open, raw=raw)
    results = [*map(splitter.feed, pieces), splitter.flush()]
    thought, answer = ("".join(parts) for parts in zip(*results, strict=True))
    assert splitter.has_thought or not thought
    return (thought if splitter.has_thought else None), answer


def cut(text: str, cuts: Sequence[int]) -> list[str]:
    borders = [0, *cuts, len(text)]
    return [text[start:end] for start, end in pairwise(borders)]


def splits(text: str) -> Iterator[list[str]]:
    """As a whole, cut once and twice anywhere, and as single characters."""
    for count in (0, 1, 2):
        for cuts in combinations(range(1, len(text)), count):
            yield cut(text, cuts)
    yield list(text)


TEXTS = [
    "",
    " \n",
    "no thought",
    " no thought ",
    "<think>why</think>so",
    "\n <think>\n why \n</think>\n\n so ",
    "<think></think>so",
    "<think>\n\n</think>\n\nso",
    "<think>never closed \n",
    "<think>",
    "<think>\n",
    "<think>cut</thi",
    "<thi",
    " <think",
    "why</think>so",
    "</think>so",
    "say <think>a</think>",
    "<think>a<think>b</think>c",
    "<think>a</think>b<think>c</think>d",
    "<think>a</think></think>b",
    "<think>a</thin</think>b",
    "<think>a<</</think>b",
    "<think>a</think>",
    "<think>a</think> \n",
    "<think><think>a</think>b",
    "<thinking>a</think>b",
    "< think>a</think>b",
]


@pytest.mark.parametrize("raw", [False, True], ids=["apart", "raw"])
@pytest.mark.parametrize("is_open", [False, True], ids=["", "opened"])
@pytest.mark.parametrize("text", TEXTS, ids=repr)
def test_every_split_gives_what_the_whole_gives(text: str, is_open: bool, raw: bool) -> None:
    expected = reference(text, is_open=is_open, raw=raw)
    for pieces in splits(text):
        assert split_up(pieces, is_open=is_open, raw=raw) == expected, pieces


@settings(max_examples=500, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from([OPEN, CLOSE, "<", "</", "<thi", "nk>", "think", " ", "\n", "a", "é"]), max_size=8),
    st.data(),
)
def test_any_text_at_any_split(atoms: list[str], data: st.DataObject) -> None:
    text = "".join(atoms)
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(text) - 1)))))
    is_open, raw = data.draw(st.booleans()), data.draw(st.booleans())
    assert split_up(cut(text, cuts), is_open=is_open, raw=raw) == reference(text, is_open=is_open, raw=raw)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text("ab", min_size=1, max_size=3), st.text("ab", min_size=1, max_size=3), st.text("ab ", max_size=10))
def test_tags_that_overlap_themselves_and_one_another(opener: str, closer: str, text: str) -> None:
    tags = Tags(opener, closer)
    for pieces in (list(text), [text]):
        assert split_up(pieces, tags) == reference(text, tags)


def test_raw_leaves_every_character_where_it_was() -> None:
    for text in TEXTS:
        for is_open in (False, True):
            thought, answer = split_up(list(text), is_open=is_open, raw=True)
            assert (thought or "") + answer == text


def test_nothing_is_held_longer_than_it_must() -> None:
    splitter = ThoughtSplitter(TAGS)
    fed = ["<think>", "one", " ", "two", "<", "b>", "</th", "ink>", "\n", "so", " ", "</think>"]
    assert [splitter.feed(text) for text in fed] == [
        ("", ""),
        ("one", ""),
        ("", ""),  # it may be the last of the thought
        (" two", ""),
        ("", ""),
        ("<b>", ""),
        ("", ""),
        ("", ""),
        ("", ""),
        ("", "so"),
        ("", " "),
        ("", "</think>"),
    ]


def test_it_knows_which_text_would_reach_over_the_closing_tag() -> None:
    splitter = ThoughtSplitter(TAGS)
    splitter.feed("<think>a</thi")
    assert splitter.overshoots("nk>b")
    assert not splitter.overshoots("nk>")
    assert not splitter.overshoots("nk>\n ")
    assert not splitter.overshoots("s>b")
    splitter.feed("nk>")
    assert splitter.has_thought
    assert splitter.is_over
    assert not splitter.overshoots("</think>b")


@pytest.mark.parametrize(
    ("text", "tag", "size"),
    [("", "<a>", 0), ("<", "<a>", 1), ("x<a", "<a>", 2), ("<a>", "<a>", 0), ("aab", "aabaa", 3), ("b", "", 0)],
)
def test_overlap(text: str, tag: str, size: int) -> None:
    assert overlap(text, tag) == size


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ content.split('</think>')[-1] }}", TAGS),
        ("[/THINK]", Tags("[THINK]", "[/THINK]")),
        ("◁/think▷", MULTIBYTE),
        ("nothing of the kind", None),
        ("<think>", None),
    ],
)
def test_the_tags_are_found_in_the_template(template: str, expected: Tags | None) -> None:
    assert tags_of(template) == expected
