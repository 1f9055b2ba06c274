"""However an output is split into tokens, a reader gets the same text, one Token per sampled token, and no stop."""

from __future__ import annotations

import codecs
import time
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise

import pytest
from harness import BYTES, UNHURRIED, ids, scripted, within
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace import GenerationResult, Model, Token

ALPHABET = "ab<é€🙂 \n"
FIRST = 1000  # ids below this are the bytes, which spell the prompt


@st.composite
def pieces_of(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> list[bytes]:
    """Bytes, cut anywhere."""
    data = draw(whole)
    cuts = sorted(draw(st.sets(st.integers(1, len(data) - 1)))) if len(data) > 1 else []
    return cut(data, cuts)


def cut(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    borders = [0, *cuts, len(data)]
    return [data[start:end] for start, end in pairwise(borders) if start < end]


def every_split(data: bytes) -> Iterator[list[bytes]]:
    """All 2 ** (n - 1) of them."""
    inner = range(1, len(data))
    for count in range(len(data)):
        for cuts in combinations(inner, count):
            yield cut(data, cuts)


def decoded(data: bytes) -> str:
    """What the bytes say so far: U+FFFD for what is no character, nothing for one that is not complete."""
    return codecs.getincrementaldecoder("utf-8")("replace").decode(data)


def until_stop(text: str, stops: Sequence[str]) -> tuple[str, str | None]:
    """The text before the first stop, and which it was."""
    found = [(at, len(stop), stop) for stop in stops if (at := text.find(stop)) >= 0]
    return (text[: min(found)[0]], min(found)[2]) if found else (text, None)


def generate(pieces: Sequence[bytes], **overrides: object) -> tuple[list[Token], GenerationResult]:
    """Stream these pieces as the tokens of a model; what every stream must keep is checked on the way."""
    script = [FIRST + at for at in range(len(pieces))]
    sampled: list[int] = []
    with scripted(
        script,
        pieces={**BYTES, **dict(zip(script, pieces, strict=True))},
        on_sample=lambda _, sample: sampled.append(sample.token),
    ) as made:
        return checked(made.model, sampled, **overrides)


def checked(model: Model, sampled: list[int], **overrides: object) -> tuple[list[Token], GenerationResult]:
    stream = model.generate_stream("p", UNHURRIED, **overrides)
    tokens = within(lambda: list(stream))
    result = within(stream.result)
    assert [token.index for token in tokens] == list(range(len(sampled)))
    assert [token.id for token in tokens] == sampled
    assert "".join(token.text for token in tokens) == result.text
    assert stream.tokens_generated() == result.tokens_used == result.usage.completion_tokens == len(sampled)
    assert result.usage.total_tokens == 1 + len(sampled)
    assert not any(token.is_last for token in tokens)
    assert result == within(stream.result), "a result changed"
    return tokens, result


@settings(max_examples=80, deadline=None, derandomize=True)
@given(pieces_of(st.text(ALPHABET, min_size=1, max_size=12).map(str.encode)))
def test_the_streamed_text_is_the_whole_at_every_split(pieces: list[bytes]) -> None:
    tokens, result = generate(pieces)
    assert result.text == b"".join(pieces).decode()
    assert [token.bytes for token in tokens] == [*pieces, b""]
    assert result.finish_reason == "stop"


@settings(max_examples=60, deadline=None, derandomize=True)
@given(pieces_of(st.binary(min_size=1, max_size=8).filter(lambda data: b"\xed" not in data)))
def test_bytes_that_are_no_text_become_replacement_characters_and_only_those(pieces: list[bytes]) -> None:
    _, result = generate(pieces)
    assert result.text == decoded(b"".join(pieces))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(pieces_of(st.text(ALPHABET, min_size=1, max_size=8).map(str.encode)), st.integers(1, 12))
def test_max_tokens_ends_with_the_text_of_exactly_so_many_tokens(pieces: list[bytes], most: int) -> None:
    tokens, result = generate(pieces, max_tokens=most)
    assert len(tokens) == min(most, len(pieces) + 1)
    assert result.text == decoded(b"".join(pieces[:most]))
    assert result.finish_reason == ("length" if most <= len(pieces) else "stop")


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    pieces_of(st.text(ALPHABET[:4], min_size=1, max_size=10).map(str.encode)),
    st.lists(st.text(ALPHABET[:4], min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_no_stop_leaks_at_any_split(pieces: list[bytes], stops: list[str]) -> None:
    _, result = generate(pieces, stop_sequences=stops)
    text, stop = until_stop(b"".join(pieces).decode(), stops)
    assert result.text == text
    assert result.stop_sequence == stop
    assert result.finish_reason == ("stop" if stop is None else "stop_sequence")


@pytest.mark.parametrize(
    ("text", "stops"),
    [("é🙂b", ()), ("🙂€", ("€",)), ("xaaab", ("aab",)), ("ababc!", ("abc", "bab")), ("ab🙂", ("b🙂c", "🙂"))],
)
def test_exhaustively(text: str, stops: tuple[str, ...]) -> None:
    """All splits of one text at once, each a stream of its own on one engine."""
    splits = list(every_split(text.encode()))
    pieces, scripts = dict(BYTES), list[list[int]]()
    for split in splits:
        script = list(range(FIRST + len(pieces), FIRST + len(pieces) + len(split)))
        pieces.update(zip(script, split, strict=True))
        scripts.append(script)
    with scripted(lambda prompt: scripts[prompt[0] - 1], pieces=pieces, max_queue=len(splits)) as made:
        streams = [made.model.generate_stream([at + 1], stop_sequences=stops) for at in range(len(splits))]
        for split, stream in zip(splits, streams, strict=True):
            tokens = within(list, stream)
            result = within(stream.result)
            assert "".join(token.text for token in tokens) == result.text == until_stop(text, stops)[0], split
            assert result.tokens_used == len(tokens)


def test_a_piece_may_hold_a_whole_stop_and_more() -> None:
    tokens, result = generate([b"one STOP two", b"three"], stop_sequences=["STOP"])
    assert [token.text for token in tokens] == ["one "]
    assert (result.text, result.stop_sequence) == ("one ", "STOP")


def test_text_held_for_a_stop_that_never_comes_arrives_with_the_last_token() -> None:
    tokens, result = generate([b"a", b"<", b"/"], stop_sequences=["</s>"])
    assert [token.text for token in tokens] == ["a", "", "", "</"]
    assert result.text == "a</"


def test_text_is_held_only_as_long_as_a_stop_is_possible() -> None:
    tokens, _ = generate([b"<", b"b", b"c"], stop_sequences=["<a>"])
    assert [token.text for token in tokens] == ["", "<b", "c", ""]


def test_a_token_knows_when_it_was_sampled() -> None:
    before = time.time()
    tokens, _ = generate([b"a", b"b"])
    assert all(before <= token.timestamp <= time.time() for token in tokens)


def test_the_prompt_is_not_part_of_the_text() -> None:
    with scripted(ids("yes")) as made:
        result = made.model.generate("is it?")
        assert result.text == "yes"
        assert result.usage.prompt_tokens == len("is it?")
