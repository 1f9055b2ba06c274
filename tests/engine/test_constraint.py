"""What may be sampled next: forced tokens, choices, grammars, and where a thought or a call ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from harness import BYTES, Scripted, ids, scripted, within
from numpy.typing import NDArray

from headrace import StreamConfig
from headrace.chat.prompts import Prompts
from headrace.chat.tool_formats import HERMES, format_of
from headrace.engine.constraint import Constraint
from headrace.engine.output import Output
from headrace.engine.scripted import ScriptedVocabulary
from headrace.values.output_format import OutputFormat, Tags

END = 0
PIECES = {
    END: b"",
    1: b"<think>",
    2: b"</think>",
    3: b"<tool_call>",
    4: b"\n</tool_call>",
    5: b'{"name": "f',
    6: b'", "arguments": ',
    7: b"{}",
    8: b"}",
    9: b"a",
    10: b"\n",
    11: b"</think>a",
    12: b"<tool_call>{",
    13: b"<",
    14: b"think>",
    15: b"tool_call>",
    16: b"{",
    17: b"]",
}
SIZE = len(PIECES)
CALL = (5, 6, 7, 8)


@dataclass
class Fixed:
    """A grammar that lets one sequence of tokens through; `many` is what may come before it, any number of times."""

    tokens: tuple[int, ...]
    many: int | None = None

    def start(self) -> FixedMatcher:
        return FixedMatcher(self)


class FixedMatcher:
    def __init__(self, grammar: Fixed) -> None:
        self.grammar = grammar
        self.at = 0

    @property
    def is_stopped(self) -> bool:
        return self.at == len(self.grammar.tokens)

    @property
    def is_accepting(self) -> bool:
        return self.is_stopped or (self.grammar.many is not None and self.at == 0)

    def allowed(self) -> NDArray[np.bool_]:
        allowed = np.zeros(SIZE, np.bool_)
        if not self.is_stopped:
            allowed[self.grammar.tokens[self.at]] = True
        if self.at == 0 and self.grammar.many is not None:
            allowed[self.grammar.many] = True
        if self.is_accepting:
            allowed[END] = True
        return allowed

    def accept(self, token: int) -> None:
        assert self.allowed()[token]
        self.at += token == self.grammar.tokens[self.at]


class Constrained:
    """A constraint with its output, driven by hand."""

    def __init__(self, output_format: OutputFormat, pieces: Mapping[int, bytes] = PIECES) -> None:
        self.pieces = pieces
        self.output_format = output_format
        self.output = Output(StreamConfig(), output_format)
        self.constraint = Constraint(output_format, self.output, pieces.__getitem__, frozenset({END}))

    def allowed(self) -> set[int]:
        row = np.zeros(SIZE, np.float32)
        self.constraint.restrict(row)
        assert set(row.tolist()) <= {0.0, -np.inf}
        return {int(token) for token in np.flatnonzero(row == 0) if not self.constraint.refuses(int(token))}

    def take(self, *tokens: int) -> Constrained:
        for token in tokens:
            assert token in self.allowed(), f"{token} is none of {self.allowed()}"
            self.output.feed(self.output_format.control_texts.get(token, self.pieces[token]))
            self.constraint.accept(token)
        return self


EVERYTHING = set(range(SIZE))
TAGS = Tags("<think>", "</think>")
THINKING = OutputFormat(tags=TAGS, opening_tokens=(1,), closing_tokens=(2,))
CALLING = OutputFormat(
    tools=HERMES,
    call_grammar=Fixed(CALL),
    next_call_grammar=Fixed(CALL),
    trigger_tokens=(3,),
    after_call_tokens=(4,),
    separator_tokens=(10, 3),
)
ANSWER = OutputFormat(answer_grammar=Fixed((9, 9)))


def test_only_what_restricts_something_is_constrained() -> None:
    assert not OutputFormat().is_constrained
    assert not THINKING.is_constrained
    assert replace(THINKING, budget=0).is_constrained
    assert CALLING.is_constrained
    assert ANSWER.is_constrained


def test_an_answer_follows_its_grammar_to_the_end() -> None:
    constrained = Constrained(ANSWER)
    assert constrained.allowed() == {9}
    constrained.take(9)
    assert not constrained.constraint.is_over
    assert not constrained.constraint.is_accepting
    constrained.take(9)
    assert constrained.constraint.is_over
    assert constrained.constraint.is_accepting


def test_an_answer_may_end_where_its_grammar_may() -> None:
    constrained = Constrained(OutputFormat(answer_grammar=Fixed((10,), many=9)))
    assert constrained.allowed() == {END, 9, 10}
    assert constrained.constraint.is_accepting
    constrained.take(9, 9)
    assert constrained.constraint.is_accepting
    assert not constrained.constraint.is_over
    assert constrained.allowed() == {END, 9, 10}


def test_a_thought_may_come_before_a_constrained_answer_and_is_free() -> None:
    constrained = Constrained(replace(THINKING, answer_grammar=Fixed((9, 9))))
    assert constrained.allowed() == {1, 9}
    constrained.take(1)
    # Everything but the end, and what closes it and goes on at once.
    assert constrained.allowed() == EVERYTHING - {END, 11}
    constrained.take(17, 3, 2)
    assert constrained.allowed() == {9}
    assert constrained.take(9, 9).constraint.is_over


def test_without_a_thought_the_answer_begins_at_once() -> None:
    constrained = Constrained(replace(THINKING, answer_grammar=Fixed((9, 9))))
    constrained.take(9)
    assert constrained.allowed() == {9}


def test_a_thought_that_the_prompt_has_opened_is_free_from_the_start() -> None:
    constrained = Constrained(replace(THINKING, answer_grammar=Fixed((9, 9)), is_thinking=True))
    assert constrained.allowed() == EVERYTHING - {END, 11}
    assert constrained.take(9, 2).allowed() == {9}


@pytest.mark.parametrize("budget", [0, 1, 3])
@pytest.mark.parametrize("is_open", [False, True])
def test_a_budget_counts_the_tokens_behind_the_opening_tag(budget: int, is_open: bool) -> None:
    constrained = Constrained(replace(THINKING, budget=budget, is_thinking=is_open))
    constrained.take(*([] if is_open else [1]), *[9] * budget)
    assert constrained.allowed() == {2}
    assert constrained.take(2).allowed() == EVERYTHING


def test_no_budget_at_all_forbids_a_thought_before_a_constrained_answer() -> None:
    assert Constrained(replace(THINKING, budget=0, answer_grammar=Fixed((9, 9)))).allowed() == {9}


def test_a_call_is_free_until_its_trigger_and_follows_its_grammar_from_there() -> None:
    constrained = Constrained(CALLING)
    assert constrained.allowed() == EVERYTHING - {12}
    constrained.take(9, 3)
    for token in (*CALL, 4):
        assert constrained.allowed() == {token}
        constrained.take(token)
    assert constrained.allowed() == {END, 10}
    assert not constrained.constraint.is_over
    assert not constrained.constraint.is_accepting


def test_another_call_follows_its_grammar_too() -> None:
    other = (5, 6, 7, 8, 8)
    constrained = Constrained(replace(CALLING, next_call_grammar=Fixed(other)))
    constrained.take(3, *CALL, 4, 10, 3)
    for token in (*other, 4):
        assert constrained.allowed() == {token}
        constrained.take(token)
    assert constrained.allowed() == {END, 10}
    assert constrained.take(10, 3).allowed() == {5}


def test_a_format_with_a_mark_behind_the_last_call_ends_with_it() -> None:
    constrained = Constrained(replace(CALLING, after_call_tokens=(), closer_tokens=(4, 17)))
    constrained.take(3, *CALL)
    assert constrained.allowed() == {4, 10}
    constrained.take(4)
    assert not constrained.constraint.is_over
    assert constrained.allowed() == {17}
    constrained.take(17)
    assert constrained.constraint.is_over
    assert not constrained.constraint.is_accepting, "a call is not the answer"


def test_a_required_call_has_its_trigger_forced() -> None:
    constrained = Constrained(replace(CALLING, is_required=True, trigger_tokens=(13, 15)))
    assert constrained.allowed() == {13}
    assert constrained.take(13).allowed() == {15}
    assert constrained.take(15).allowed() == {5}


def test_a_required_call_may_come_behind_a_thought() -> None:
    output_format = replace(CALLING, is_required=True, tags=TAGS, opening_tokens=(1,), closing_tokens=(2,))
    constrained = Constrained(output_format)
    assert constrained.allowed() == {1, 3}
    constrained.take(1, 9, 2)
    assert constrained.allowed() == {3}
    assert Constrained(output_format).take(3).allowed() == {5}


def test_a_thought_and_a_call_that_begin_alike_can_both_be_had() -> None:
    output_format = replace(
        CALLING, is_required=True, tags=TAGS, opening_tokens=(13, 14), closing_tokens=(2,), trigger_tokens=(13, 15)
    )
    constrained = Constrained(output_format)
    assert constrained.allowed() == {13}
    assert constrained.take(13).allowed() == {14, 15}
    assert constrained.take(15).allowed() == {5}
    constrained = Constrained(output_format).take(13, 14)
    assert constrained.allowed() == EVERYTHING - {END, 11}
    assert constrained.take(9, 2).allowed() == {13}


def test_an_answer_a_call_or_a_thought() -> None:
    output_format = replace(CALLING, answer_grammar=Fixed((9, 9)), tags=TAGS, opening_tokens=(1,), closing_tokens=(2,))
    assert Constrained(output_format).allowed() == {1, 3, 9}
    assert Constrained(output_format).take(9).allowed() == {9}
    assert Constrained(output_format).take(3).allowed() == {5}
    constrained = Constrained(output_format).take(1, 9, 2)
    assert constrained.allowed() == {3, 9}
    constrained.take(3, *CALL, 4)
    assert constrained.allowed() == {END, 10}
    assert not constrained.constraint.is_accepting


def test_a_trigger_in_a_thought_triggers_nothing() -> None:
    constrained = Constrained(replace(CALLING, tags=TAGS))
    constrained.take(1, 3)
    assert constrained.allowed() == EVERYTHING - {11}
    constrained.take(12, 2)
    assert constrained.allowed() == EVERYTHING - {12}


def test_what_must_come_can_come_whatever_the_model_and_the_settings_say() -> None:
    constrained = Constrained(replace(CALLING, is_required=True))
    row = np.full(SIZE, -np.inf, np.float32)
    constrained.constraint.restrict(row)
    assert np.isfinite(row[3])
    assert np.flatnonzero(np.isfinite(row)).tolist() == [3]


@pytest.mark.parametrize("allowed", [(9,), tuple(range(1, SIZE))])
def test_the_logits_of_what_may_come_stay_as_they_are(allowed: tuple[int, ...]) -> None:
    class Set(FixedMatcher):
        def allowed(self) -> NDArray[np.bool_]:
            return np.isin(np.arange(SIZE), allowed)

    grammar = Fixed((9,))
    constrained = Constrained(OutputFormat(answer_grammar=grammar))
    constrained.constraint._matcher = Set(grammar)  # the constraint has started the other one already
    row = np.arange(SIZE, dtype=np.float32)
    constrained.constraint.restrict(row)
    assert {token: row[token] for token in allowed} == {token: float(token) for token in allowed}
    assert all(row[token] == -np.inf for token in EVERYTHING - set(allowed))


# Tags and triggers that are control tokens, which the vocabulary shows as nothing.

CONTROL = {300: "<think>", 301: "</think>", 302: "[TOOL_CALLS]", 303: "[ARGS]", 304: "◁think▷", 305: "◁/think▷"}
ARGS_TEMPLATE = "{% if tools %}[TOOL_CALLS]name[ARGS]{}{% endif %}{{ messages[-1].content }}{# </think> #}"
LIST_TEMPLATE = "{% if tools %}[TOOL_CALLS][]{% endif %}{{ messages[-1].content }}{# </think> #}"


class ControlVocabulary(ScriptedVocabulary):
    """Knows control tokens, where it is asked to parse them."""

    special_tokens: Mapping[int, str] = {**ScriptedVocabulary.special_tokens, **CONTROL}
    special_texts: tuple[str, ...] = tuple(special_tokens.values())

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        for token, mark in CONTROL.items():
            if parse_special and mark in text:
                parts = text.split(mark)
                tokens = [
                    super(ControlVocabulary, self).tokenize(part, add_special=add_special, parse_special=False)
                    for part in parts
                ]
                return [id for part in tokens for id in (token, *part)][1:]
        return super().tokenize(text, add_special=add_special, parse_special=parse_special)


@contextmanager
def controlled(script: Sequence[int] | Callable[..., Any], template: str = ARGS_TEMPLATE) -> Iterator[Scripted]:
    pieces = {**BYTES, **dict.fromkeys(CONTROL, b"")}
    with scripted(script, pieces=pieces, chat_template=template) as made:
        vocabulary = ControlVocabulary(pieces, chat_template=template)
        made.core.prompts = Prompts(vocabulary, made.engine.max_length, "scripted")
        yield made


MESSAGES = [{"role": "user", "content": "p"}]
TOOL = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}},
}


@pytest.mark.parametrize("mode", ["split", "hide", "raw"])
@pytest.mark.parametrize(("opener", "closer"), [(300, 301), (304, 305)])
def test_tags_that_are_control_tokens(opener: int, closer: int, mode: str) -> None:
    tags = (CONTROL[opener], CONTROL[closer])
    with controlled([opener, *ids("a"), closer, *ids("\nb")]) as made:
        stream = made.model.chat_stream(MESSAGES, thinking=mode, thinking_tags=tags)
        tokens, result = within(list, stream), within(stream.result)
    assert result.thinking == ("a" if mode == "split" else None)
    assert result.text == (f"{tags[0]}a{tags[1]}\nb" if mode == "raw" else "b")
    assert "".join(token.text for token in tokens if token.kind == "text") == result.text
    assert result.usage.thinking_tokens == 3


@pytest.mark.parametrize("budget", [0, 1])
def test_a_budget_closes_with_the_control_token(budget: int) -> None:
    with controlled([300, *ids("a" * budget), *ids("b")]) as made:
        result = within(made.model.chat, MESSAGES, thinking_budget=budget)
    assert (result.thinking, result.text) == ("a" * budget, "b")
    assert result.usage.thinking_tokens == 2 + budget


def test_control_tokens_that_are_no_tags_show_as_nothing() -> None:
    with controlled([*ids("a"), 302, 304, *ids("b")]) as made:
        assert within(made.model.chat, MESSAGES).text == "ab"


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_triggers_that_are_control_tokens(choice: str) -> None:
    one = [302, *ids("f"), 303, *ids("{}")]
    with controlled([*one, *one]) as made:
        result = within(made.model.chat, MESSAGES, tools=[TOOL], tool_choice=choice)
    assert [(call.name, call.arguments) for call in result.tool_calls] == [("f", "{}"), ("f", "{}")]
    assert (result.text, result.finish_reason) == ("", "tool_calls")
    assert result.usage.completion_tokens == 2 * len(one) + 1


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_list_of_calls_behind_a_control_token(choice: str) -> None:
    call = '{"name": "f", "arguments": {}}'
    with controlled([302, *ids(f"[{call}, {call}]")], LIST_TEMPLATE) as made:
        result = within(made.model.chat, MESSAGES, tools=[TOOL], tool_choice=choice)
    assert [(call.name, call.arguments) for call in result.tool_calls] == [("f", "{}"), ("f", "{}")]
    assert (result.text, result.finish_reason) == ("", "tool_calls")


def test_a_thought_then_an_answer_by_a_regex() -> None:
    with controlled([300, *ids("a"), 301, *ids("yes")]) as made:
        result = within(made.model.chat, MESSAGES, regex="yes|no")
    assert (result.thinking, result.text, result.finish_reason) == ("a", "yes", "stop")


def test_the_formats_of_these_templates() -> None:
    for template in (ARGS_TEMPLATE, LIST_TEMPLATE):
        format = format_of(template)
        assert format is not None
        assert format.trigger == "[TOOL_CALLS]"
