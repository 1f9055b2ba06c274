"""Tool calls are read out of text however it is split; their formats are found by the chat template."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.chat.call_reader import CallReader
from headrace.chat.tool_formats import HERMES, format_of
from headrace.chat.tool_messages import with_instructions
from headrace.values.accumulator import Accumulator
from headrace.values.output_format import ToolFormat
from headrace.values.results import Part

CONTENT = "{{ messages[-1].content }}"
HERMES_TEMPLATE = '{% if tools %}<tool_call> {"name": ..., "arguments": ...} </tool_call>{% endif %}' + CONTENT
MISTRAL_TEMPLATE = "{% if tools %}[TOOL_CALLS] {% endif %}" + CONTENT
MISTRAL_ARGS_TEMPLATE = "{% if tools %}[TOOL_CALLS]name[ARGS]{}{% endif %}" + CONTENT
LLAMA_TEMPLATE = '{% if tools %}{"name": function, "parameters": dictionary}{% endif %}' + CONTENT


def known(template: str) -> ToolFormat:
    format = format_of(template)
    assert format is not None
    return format


MISTRAL, MISTRAL_ARGS, LLAMA = map(known, (MISTRAL_TEMPLATE, MISTRAL_ARGS_TEMPLATE, LLAMA_TEMPLATE))

Call = tuple[str, str, bool]


def split_up(format: ToolFormat, pieces: Sequence[str]) -> tuple[str, list[Call]]:
    """The answer and the calls; what the deltas must keep is checked on the way."""
    reader = CallReader(format)
    parts = [part for piece in pieces for part in reader.feed(piece)]
    parts += reader.flush()
    calls = Accumulator(parts).tool_calls
    assert rebuilt(parts) == [(call.id, call.name, call.arguments) for call in calls]
    assert reader.num_complete == sum(call.is_complete for call in calls)
    assert all(call.is_complete for call in calls[:-1])
    answer = "".join(part.text for part in parts if part.kind == "text")
    return answer, [(call.name, call.arguments, call.is_complete) for call in calls]


def rebuilt(parts: Sequence[Part]) -> list[tuple[str | None, str | None, str]]:
    """The calls as a client puts them together: id and name come first and once, then pieces of the arguments."""
    calls: list[tuple[str | None, str | None, str]] = []
    for part in parts:
        delta = part.tool_call
        assert (delta is not None) == (part.kind == "tool_call")
        if delta is None:
            continue
        assert part.text == delta.arguments
        if delta.index == len(calls):
            assert delta.id
            assert delta.name
            calls.append((delta.id, delta.name, delta.arguments))
        else:
            assert delta.index == len(calls) - 1
            assert delta.id is None
            assert delta.name is None
            id, name, arguments = calls[-1]
            calls[-1] = (id, name, arguments + delta.arguments)
    return calls


def cut(text: str, cuts: Sequence[int]) -> list[str]:
    return [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]


def splits(text: str) -> Iterator[list[str]]:
    """As a whole, cut once anywhere, cut twice anywhere in the short ones, and as single characters."""
    for count in (0, 1, 2) if len(text) < 100 else (0, 1):
        for cuts in combinations(range(1, len(text)), count):
            yield cut(text, cuts)
    yield list(text)


TRICKY = '{"a": "}]\\"{", "b": [{"c": {}}, "\\\\"], "é": "</tool_call>[ARGS]"}'
CASES: list[tuple[str, ToolFormat, str, str, list[Call]]] = [
    (
        "one",
        HERMES,
        '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>',
        "",
        [("add", '{"a": 1}', True)],
    ),
    ("dense", HERMES, '<tool_call>{"name":"add","arguments":{}}</tool_call>', "", [("add", "{}", True)]),
    (
        "two",
        HERMES,
        '<tool_call>{"name": "a", "arguments": {}}</tool_call>\n<tool_call>{"name": "b", "arguments": {}}</tool_call>',
        "",
        [("a", "{}", True), ("b", "{}", True)],
    ),
    (
        "text before, between and behind",
        HERMES,
        'Wait. <tool_call>{"name": "a", "arguments": {}}</tool_call>\n and <tool_call>{"name": "b", "arguments": {}}'
        "\n</tool_call>\ndone",
        "Wait. and done",
        [("a", "{}", True), ("b", "{}", True)],
    ),
    (
        "tricky arguments",
        HERMES,
        f'<tool_call>{{"name": "a", "arguments": {TRICKY}}}</tool_call>',
        "",
        [("a", TRICKY, True)],
    ),
    ("Unicode", HERMES, '<tool_call>{"name": "größe.x-1", "arguments": {}}', "", [("größe.x-1", "{}", True)]),
    ("cut", HERMES, '<tool_call>{"name": "a", "arguments": {"x": "1}', "", [("a", '{"x": "1}', False)]),
    ("cut before the arguments", HERMES, '<tool_call>{"name": "a", "arguments": ', "", [("a", "", False)]),
    ("cut behind the arguments", HERMES, '<tool_call>{"name": "a", "arguments": {}', "", [("a", "{}", True)]),
    ("cut before the name", HERMES, 'so <tool_call>{"name": "a', "so ", []),
    ("garbage", HERMES, "see <tool_call>s are nice", "see <tool_call>s are nice", []),
    ("garbage for a name", HERMES, '<tool_call>{"name": 5}', '<tool_call>{"name": 5}', []),
    ("no name", HERMES, '<tool_call>{"name": "", "arguments": {}}', '<tool_call>{"name": "", "arguments": {}}', []),
    ("other order", HERMES, '<tool_call>{"arguments": {}}', '<tool_call>{"arguments": {}}', []),
    (
        "garbage, then a call",
        HERMES,
        '<tool_call><tool_call>{"name": "a", "arguments": {}}',
        "<tool_call>",
        [("a", "{}", True)],
    ),
    (
        "garbage behind a call",
        HERMES,
        '<tool_call>{"name": "a", "arguments": {}}</tool_call><tool_call>no',
        "<tool_call>no",
        [("a", "{}", True)],
    ),
    ("part of a trigger", HERMES, "a <tool_", "a <tool_", []),
    ("a closing tag alone", HERMES, "</tool_call>", "</tool_call>", []),
    ("nothing", HERMES, "", "", []),
    ("one", MISTRAL, '[TOOL_CALLS][{"name": "a", "arguments": {"x": [1]}}]', "", [("a", '{"x": [1]}', True)]),
    (
        "two",
        MISTRAL,
        '[TOOL_CALLS] [{"name": "a", "arguments": {}}, {"name": "b", "arguments": {}}]',
        "",
        [("a", "{}", True), ("b", "{}", True)],
    ),
    ("text", MISTRAL, 'hm [TOOL_CALLS][{"name": "a", "arguments": {}}]  so', "hm so", [("a", "{}", True)]),
    ("garbage", MISTRAL, "[TOOL_CALLS]{}", "[TOOL_CALLS]{}", []),
    (
        "garbage behind a comma",
        MISTRAL,
        '[TOOL_CALLS][{"name": "a", "arguments": {}}, no',
        " no",
        [("a", "{}", True)],
    ),
    ("one", MISTRAL_ARGS, '[TOOL_CALLS]a[ARGS]{"x": 1}', "", [("a", '{"x": 1}', True)]),
    ("white space", MISTRAL_ARGS, '[TOOL_CALLS] a [ARGS] {"x": 1}', "", [("a", '{"x": 1}', True)]),
    (
        "two",
        MISTRAL_ARGS,
        '[TOOL_CALLS]a[ARGS]{"x": "[TOOL_CALLS]"}[TOOL_CALLS]b[ARGS]{}',
        "",
        [("a", '{"x": "[TOOL_CALLS]"}', True), ("b", "{}", True)],
    ),
    ("garbage", MISTRAL_ARGS, "[TOOL_CALLS]!", "[TOOL_CALLS]!", []),
    ("one", LLAMA, '{"name": "a", "parameters": {"x": 1}}', "", [("a", '{"x": 1}', True)]),
    ("white space before", LLAMA, '\n {"name": "a", "parameters": {}}', "\n ", [("a", "{}", True)]),
    ("text before", LLAMA, 'so {"name": "a", "parameters": {}}', 'so {"name": "a", "parameters": {}}', []),
    ("another object", LLAMA, '{"name": "Bob", "age": 3}', '{"name": "Bob", "age": 3}', []),
    ("cut", LLAMA, '{"name": "a", "parameters": {"x"', "", [("a", '{"x"', False)]),
    (
        "only the first",
        LLAMA,
        '{"name": "a", "parameters": {}}; {"name": "b", "parameters": {}}',
        '; {"name": "b", "parameters": {}}',
        [("a", "{}", True)],
    ),
]
NAMES = {id(HERMES): "hermes", id(MISTRAL): "mistral", id(MISTRAL_ARGS): "mistral-args", id(LLAMA): "llama"}


@pytest.mark.parametrize(
    ("format", "text", "answer", "calls"),
    [case[1:] for case in CASES],
    ids=[f"{NAMES[id(case[1])]}: {case[0]}" for case in CASES],
)
def test_every_split_gives_the_same(format: ToolFormat, text: str, answer: str, calls: list[Call]) -> None:
    for pieces in splits(text):
        assert split_up(format, pieces) == (answer, calls), pieces


_HEAD = {
    "hermes": r'<tool_call>\s*\{\s*"name"\s*:\s*"([\w.-]+)\s*"\s*,\s*"arguments"\s*:\s*',
    "args": r"\[TOOL_CALLS\]\s*([\w.-]+)\s*\[ARGS\]\s*",
}
_BEHIND = {"hermes": r"(?:\s*\})?(?:\s*</tool_call>)?\s*", "args": r"\s*"}
_END = "§"  # no format goes on with it, so that nothing is left open


def reference(kind: str, trigger: str, text: str) -> tuple[str, list[Call]]:
    """What the docstring of CallReader says, for one who sees the whole text."""
    answer, calls = "", list[Call]()
    while (at := text.find(trigger)) >= 0:
        answer, text = answer + text[:at], text[at:]
        head = re.match(_HEAD[kind], text)
        if head is None:
            answer, text = answer + trigger, text[len(trigger) :]
            continue
        text = text[head.end() :]
        try:
            _, end = json.JSONDecoder().raw_decode(text)
        except ValueError:
            return answer, [*calls, (head[1], text, False)]
        calls.append((head[1], text[:end], True))
        behind = re.match(_BEHIND[kind], text[end:])
        assert behind is not None
        text = text[end + behind.end() :]
    return answer + text, calls


_ATOMS = {
    "hermes": [
        "<tool_call>",
        "</tool_call>",
        '{"name": "',
        "f",
        '", "arguments": ',
        '{"x": [1, "}"]}',
        "{}",
        "}",
        "\n",
    ],
    "args": ["[TOOL_CALLS]", "f", " g", "[ARGS]", '{"x": "]"}', "{}", "\n", "[", "!"],
}
_WHOLE = {
    "hermes": '<tool_call>\n{"name": "f", "arguments": {"x": "\\"}"}}\n</tool_call>',
    "args": '[TOOL_CALLS]f[ARGS]{"x": "\\"}"}',
}


@settings(max_examples=600, deadline=None, derandomize=True)
@given(st.sampled_from(["hermes", "args"]), st.data())
def test_any_text_at_any_split(kind: str, data: st.DataObject) -> None:
    format = HERMES if kind == "hermes" else MISTRAL_ARGS
    text = "".join(data.draw(st.lists(st.sampled_from([*_ATOMS[kind], _WHOLE[kind], "a "]), max_size=8)))
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(text))))))
    answer, calls = split_up(format, cut(text + _END, cuts))
    assert (answer, calls) == split_up(format, [text + _END])
    expected = reference(kind, format.trigger, text + _END)
    if all(is_complete and arguments[0] == "{" for _, arguments, is_complete in expected[1]):  # else it is no object
        assert (answer, calls) == expected


def test_arguments_arrive_as_they_come() -> None:
    reader = CallReader(HERMES)
    shown = [
        [(part.kind, part.text) for part in reader.feed(piece)]
        for piece in ("so", "<tool", '_call>{"name": "a"', ', "arguments": ', '{"x"', ": 1", "}", "}", "</tool_call>")
    ]
    call = "tool_call"
    assert shown == [[("text", "so")], [], [], [(call, "")], [(call, '{"x"')], [(call, ": 1")], [(call, "}")], [], []]


@pytest.mark.parametrize(
    ("format", "pattern"),
    [(HERMES, "call_[0-9a-f]{24}"), (MISTRAL, "[A-Za-z0-9]{9}"), (MISTRAL_ARGS, "[A-Za-z0-9]{9}")],
    ids=["hermes", "mistral", "mistral-args"],
)
def test_every_call_has_an_id_of_its_own(format: ToolFormat, pattern: str) -> None:
    texts = {
        id(HERMES): '<tool_call>{"name": "a", "arguments": {}}</tool_call>' * 50,
        id(MISTRAL): "[TOOL_CALLS][" + ", ".join(['{"name": "a", "arguments": {}}'] * 50) + "]",
        id(MISTRAL_ARGS): "[TOOL_CALLS]a[ARGS]{}" * 50,
    }
    ids = [call.id for call in Accumulator(CallReader(format).feed(texts[id(format)])).tool_calls]
    assert len(set(ids)) == 50
    assert all(re.fullmatch(pattern, id) for id in ids)


def test_it_knows_which_text_would_reach_over_a_trigger() -> None:
    reader = CallReader(HERMES)
    reader.feed("a <tool_ca")
    assert reader.overshoots('ll>{"')
    assert not reader.overshoots("ll>\n")
    assert not reader.overshoots("ll> ")
    assert not reader.overshoots("x>{")
    reader.feed("ll>")
    assert not reader.overshoots("<tool_call>{")


@pytest.mark.parametrize(
    ("template", "format"),
    [
        (HERMES_TEMPLATE, HERMES),
        (MISTRAL_TEMPLATE, MISTRAL),
        (MISTRAL_ARGS_TEMPLATE, MISTRAL_ARGS),
        (LLAMA_TEMPLATE, LLAMA),
        ("{{ messages[0] }}", None),
        ("{{ tools }}", None),
        ("<tool_call>", None),
    ],
)
def test_the_format_is_found_in_the_template(template: str, format: ToolFormat | None) -> None:
    assert format_of(template) == format


def test_tools_in_words() -> None:
    tool: dict[str, Any] = {"type": "function", "function": {"name": "add", "description": "ä", "parameters": {}}}
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"x": 1}'}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "two", "tool_call_id": "1"},
        {"role": "assistant", "content": "it is two"},
    ]
    before = json.dumps(messages)
    turns = with_instructions(messages, [tool])
    assert json.dumps(messages) == before, "the caller's messages were changed"
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user", "assistant"]
    assert json.dumps(tool, ensure_ascii=False) in turns[0]["content"]
    assert turns[3]["content"] == "<tool_response>\ntwo\n</tool_response>"
    # What is shown to the model of its earlier call is what would be read as one.
    assert split_up(HERMES, [turns[2]["content"]]) == ("", [("add", '{"x": 1}', True)])
    assert with_instructions([{"role": "system", "content": "Be brief."}, *messages], [tool])[0]["content"].startswith(
        "Be brief.\n\n"
    )
    assert [turn["role"] for turn in with_instructions(messages, [])] == ["user", "assistant", "user", "assistant"]
