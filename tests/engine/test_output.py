"""From the bytes of tokens to text, thought and calls: whatever the split, the same, and each part exactly once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace import StreamConfig
from headrace.chat.tool_formats import HERMES
from headrace.engine.output import Output
from headrace.values.output_format import PLAIN, OutputFormat, Tags
from headrace.values.results import Part, ToolCall

TAGS = Tags("◁think▷", "◁/think▷")
BOTH = OutputFormat(tags=TAGS, tools=HERMES)
CALL = '<tool_call>{"name": "f", "arguments": {"é": "</tool_call>"}}</tool_call>'


def read(
    pieces: Sequence[bytes], output_format: OutputFormat = BOTH, stops: Sequence[str] = (), *, is_cut: bool = False
) -> tuple[Output, list[Part | None], tuple[Part, ...]]:
    """An output, what went with each token, and what was left in the end."""
    output = Output(StreamConfig(stop_sequences=tuple(stops)), output_format)
    shown: list[Part | None] = []
    for piece in pieces:
        output.feed(piece)
        if output.stop_sequence is not None:
            break
        shown.append(output.take())
        check(output, shown)
    if not is_cut and output.stop_sequence is None:
        output.flush()
    rest = () if is_cut else output.take_rest()
    check(output, [*shown, *rest])
    return output, shown, rest


def check(output: Output, parts: Sequence[Part | None]) -> None:
    """What was taken until now is what the output says that it was."""
    taken = [part for part in parts if part is not None]
    assert "".join(part.text for part in taken if part.kind == "text") == output.text
    assert "".join(part.text for part in taken if part.kind == "thinking") == (output.thinking or "")
    calls: list[ToolCall] = []
    for part in taken:
        delta = part.tool_call
        if delta is None:
            assert part.text
        elif delta.index == len(calls):
            assert delta.id
            assert delta.name
            calls.append(ToolCall(delta.id, delta.name, delta.arguments))
        else:
            assert delta.index == len(calls) - 1
            calls[-1] = ToolCall(calls[-1].id, calls[-1].name, calls[-1].arguments + delta.arguments)
    given = output.tool_calls
    assert [(call.id, call.name, call.arguments) for call in given] == [
        (call.id, call.name, call.arguments) for call in calls
    ]


def seen(output: Output) -> tuple[str | None, str, list[tuple[str, str, bool]]]:
    return output.thinking, output.text, [(call.name, call.arguments, call.is_complete) for call in output.tool_calls]


def cut(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    return [data[start:end] for start, end in pairwise([0, *cuts, len(data)])]


def splits(data: bytes, most: int = 2) -> Iterator[list[bytes]]:
    for count in range(most + 1):
        for cuts in combinations(range(1, len(data)), count):
            yield cut(data, cuts)
    yield [bytes([byte]) for byte in data]


@pytest.mark.parametrize(
    ("text", "thought", "answer", "calls"),
    [
        ("plain é", None, "plain é", []),
        ("◁think▷ é ◁/think▷ ü", "é", "ü", []),
        (f"◁think▷é◁/think▷\nü {CALL}", "é", "ü ", [("f", '{"é": "</tool_call>"}', True)]),
        (f"{CALL}\n{CALL}", None, "", [("f", '{"é": "</tool_call>"}', True)] * 2),
        (f"◁think▷{CALL}", CALL, "", []),
        (f"{CALL} ◁think▷", None, "◁think▷", [("f", '{"é": "</tool_call>"}', True)]),
    ],
    ids=repr,
)
def test_every_split_into_tokens(
    text: str, thought: str | None, answer: str, calls: list[tuple[str, str, bool]]
) -> None:
    data = text.encode()
    for pieces in splits(data, 2 if len(data) < 40 else 1):
        output, shown, _ = read(pieces)
        assert seen(output) == (thought, answer, calls), pieces
        assert len(shown) == len(pieces)


def until_stop(text: str, stops: Sequence[str]) -> tuple[str, str | None]:
    found = [(at, len(stop), stop) for stop in stops if (at := text.find(stop)) >= 0]
    return (text[: min(found)[0]], min(found)[2]) if found else (text, None)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    st.sampled_from(["", "◁think▷STOP é◁/think▷", "◁think▷S◁/think▷\n"]),
    st.text("STOP<t é", max_size=8),
    st.lists(st.sampled_from(["STOP", "ST", "OP<", "é", "TT", "T<tool_call>"]), max_size=3),
    st.data(),
)
def test_stops_are_looked_for_in_the_answer_at_any_split(
    thought: str, answer: str, stops: list[str], data: st.DataObject
) -> None:
    text = (thought + answer).encode()
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(text) - 1)))))
    output, _, _ = read(cut(text, cuts), stops=stops)
    shown, stop = until_stop(answer.lstrip() if thought else answer, stops)
    assert (output.text, output.stop_sequence) == (shown, stop)
    assert output.thinking == (thought.strip().removeprefix(TAGS.opener).removesuffix(TAGS.closer) if thought else None)


def test_a_stop_is_not_completed_by_a_call() -> None:
    for pieces in splits(f"ab ST{CALL}OP".encode(), 1):
        output, _, _ = read(pieces, stops=["STOP"])
        assert output.stop_sequence is None
        assert seen(output) == (None, "ab STOP", [("f", '{"é": "</tool_call>"}', True)]), pieces


def test_a_stop_in_a_call_is_part_of_the_call() -> None:
    for pieces in splits(CALL.encode(), 1):
        output, _, _ = read(pieces, stops=["tool", "arguments", "é", "}"])
        assert output.stop_sequence is None
        assert seen(output)[2] == [("f", '{"é": "</tool_call>"}', True)]


def test_a_call_behind_a_stop_is_none() -> None:
    for pieces in splits(f"ab STOP{CALL}".encode(), 1):
        output, _, _ = read(pieces, stops=["STOP"])
        assert output.stop_sequence == "STOP"
        assert seen(output) == (None, "ab ", []), pieces


def test_a_match_that_waits_for_a_longer_one_counts_when_a_call_comes() -> None:
    for pieces in splits(f"abc{CALL}".encode(), 1):
        output, _, _ = read(pieces, stops=["bc", "abcd"])
        assert output.stop_sequence == "bc"
        assert seen(output) == (None, "a", []), pieces


def test_what_was_not_taken_does_not_count() -> None:
    output = Output(StreamConfig(), BOTH)
    output.feed(f"so {CALL}".encode())
    assert seen(output) == (None, "", [])
    part = output.take()
    assert part == Part("text", "so ")
    assert seen(output) == (None, "so ", [])
    assert output.num_calls == 1
    call = output.take()
    assert call is not None
    assert call.kind == "tool_call"
    assert seen(output) == (None, "so ", [("f", '{"é": "</tool_call>"}', True)])
    assert output.take() is None


def test_a_call_of_which_only_a_part_was_taken_is_not_complete() -> None:
    output = Output(StreamConfig(), BOTH)
    output.feed(b'<tool_call>{"name": "f", "arguments": {"x":')
    assert output.take() is not None
    output.feed(b" 1}}")
    assert seen(output)[2] == [("f", '{"x":', False)]


def test_parts_of_one_kind_go_together_and_two_calls_do_not() -> None:
    two = '<tool_call>{"name": "f", "arguments": {}}</tool_call><tool_call>{"name": "g", "arguments": {}}</tool_call>'
    output, shown, rest = read([two.encode(), b"x"])
    assert [part.tool_call.name for part in shown if part is not None and part.tool_call is not None] == ["f", "g"]
    assert rest == (Part("text", "x"),)
    assert [call.is_complete for call in output.tool_calls] == [True, True]


@pytest.mark.parametrize(("mode", "expected"), [("split", 0), ("hide", 0), ("raw", len("\n◁think▷ a ◁/think▷"))])
def test_it_knows_where_the_answer_starts(mode: str, expected: int) -> None:
    text = "\n◁think▷ a ◁/think▷ {}"
    for pieces in splits(text.encode(), 1):
        output, _, _ = read(pieces, OutputFormat(tags=TAGS, thinking=mode))  # pyright: ignore[reportArgumentType]
        assert output.answer_start == expected
        assert output.text[output.answer_start :].strip() == "{}"


def test_hidden_thoughts_are_not_there_at_all() -> None:
    for pieces in splits("◁think▷ é ◁/think▷ü".encode(), 1):
        output, shown, rest = read(pieces, OutputFormat(tags=TAGS, thinking="hide"))
        assert seen(output) == (None, "ü", [])
        assert "".join(part.text for part in (*shown, *rest) if part is not None) == "ü"


@pytest.mark.parametrize("mode", ["split", "hide", "raw"])
def test_a_cut_at_every_byte_shows_no_more_than_was_taken(mode: str) -> None:
    data = f"◁think▷ é ◁/think▷ü {CALL}".encode()
    for end in range(len(data) + 1):
        pieces = [bytes([byte]) for byte in data[:end]]
        output_format = OutputFormat(tags=TAGS, tools=HERMES, thinking=mode)  # pyright: ignore[reportArgumentType]
        read(pieces, output_format, ["üx"], is_cut=True)
        read(pieces, output_format, ["üx"])


def test_the_kind_of_a_token_that_shows_nothing() -> None:
    output = Output(StreamConfig(), BOTH)
    kinds: list[str] = []
    for piece in ("◁think", "▷", "a", " ", "◁/think▷", "b", "<tool_call>", '{"name": "f', '", "arguments": ', "{}"):
        output.feed(piece.encode())
        part = output.take()
        kinds.append(part.kind if part is not None else f"({output.kind})")
    call = "(tool_call)"
    assert kinds == ["(text)", "(thinking)", "thinking", "(thinking)", "(text)", "text", call, call, *["tool_call"] * 2]


def test_without_tags_and_tools_everything_is_text() -> None:
    text = f"<think>a</think>{CALL}"
    output, shown, _ = read([bytes([byte]) for byte in text.encode()], PLAIN)
    assert seen(output) == (None, text, [])
    assert not output.overshoots(b"</think>x<tool_call>x")
    assert len(shown) == len(text.encode())


def test_half_a_character_shows_nothing_and_is_dropped_in_the_end() -> None:
    output, shown, rest = read(["é".encode()[:1]], PLAIN)
    assert (shown, rest, output.text) == ([None], (), "")


def test_what_reaches_over_a_tag_or_a_trigger() -> None:
    output = Output(StreamConfig(), BOTH)
    output.feed("◁think▷a◁/thin".encode())
    assert output.overshoots("k▷x".encode())
    assert not output.overshoots("k▷ ".encode())
    output.feed("k▷".encode()[:3])
    assert output.overshoots("k▷x".encode()[3:])
    output.feed("k▷".encode()[3:])
    output.feed(b"b <tool_call")
    assert output.overshoots(b">{")
    assert not output.overshoots(b">\n")
