"""`OutputFormat`: the parts of a stream's output (thought, tool calls, answer), and the grammars that they must fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

__all__ = ["PLAIN", "Grammar", "Matcher", "OutputFormat", "Tags", "ToolFormat"]


class Matcher(Protocol):
    """The position of one output in its grammar."""

    @property
    def is_stopped(self) -> bool:
        """Whether only the end may follow."""
        ...

    @property
    def is_accepting(self) -> bool:
        """Whether the output may end here."""
        ...

    def allowed(self) -> Any:
        """Returns a numpy array of bools: for each token of the vocabulary, whether it may come next.

        The array is valid until `accept`.
        """
        ...

    def accept(self, token: int) -> None:
        """Advance by a token."""
        ...


class Grammar(Protocol):
    """A compiled grammar, shared by any number of streams."""

    def start(self) -> Matcher:
        """Returns a matcher for one output."""
        ...


@dataclass(frozen=True, slots=True)
class Tags:
    """The opening and the closing tag of a thought."""

    opener: str
    closer: str


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """How a model writes tool calls.

    An answer with two calls is: trigger, lead, first call, separator, second call, closer. A call is: head, name,
    middle, the arguments' JSON, tail. White space is free between these parts.

    Attributes:
        trigger: text with which calls begin; it is never part of an answer.
        lead: text behind the trigger, before the first call.
        head: text before the name.
        middle: text between the name and the arguments.
        tail: text behind the arguments.
        separator: text between two calls; None if an answer has one call at most.
        closer: text behind the last call.
        is_leading: whether the trigger counts only at the very start of the answer.
        id_length: length of a call's id, in characters; 0 for ids of the usual form.
    """

    trigger: str
    head: str
    middle: str
    tail: str
    lead: str = ""
    separator: str | None = None
    closer: str = ""
    is_leading: bool = False
    id_length: int = 0


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """How to split the output of one stream into its parts, and the constraints on them.

    Attributes:
        tags: the tags around a thought; None if the model does not think.
        thinking: how to return the thought; see `StreamConfig.thinking`.
        is_thinking: whether the prompt has opened a thought.
        budget: the number of tokens after which a thought is closed; None for no limit.
        opening_tokens: tokens of the opening tag; none if the answer has begun in the prompt.
        closing_tokens: tokens of the closing tag.
        answer_grammar: grammar of the answer; None if it is free.
        tools: how the model writes calls; None if there are no tools.
        call_grammar: grammar of the first call, from behind the trigger to the call's tail.
        next_call_grammar: grammar of each further call.
        is_required: whether the answer has to be a call.
        is_parallel: whether one answer may have several calls.
        trigger_tokens: tokens of the trigger.
        after_call_tokens: tokens that follow every call.
        separator_tokens: tokens before another call.
        closer_tokens: tokens behind the last call.
        control_texts: texts of the tags and triggers that are control tokens, by token: the vocabulary has none.
    """

    tags: Tags | None = None
    thinking: Literal["split", "hide", "raw"] = "split"
    is_thinking: bool = False
    budget: int | None = None
    opening_tokens: tuple[int, ...] = ()
    closing_tokens: tuple[int, ...] = ()
    answer_grammar: Grammar | None = None
    tools: ToolFormat | None = None
    call_grammar: Grammar | None = None
    next_call_grammar: Grammar | None = None
    is_required: bool = False
    is_parallel: bool = True
    trigger_tokens: tuple[int, ...] = ()
    after_call_tokens: tuple[int, ...] = ()
    separator_tokens: tuple[int, ...] = ()
    closer_tokens: tuple[int, ...] = ()
    control_texts: Mapping[int, bytes] = field(default_factory=dict[int, bytes], hash=False)

    @property
    def is_constrained(self) -> bool:
        """Whether anything restricts the tokens that may be sampled."""
        return (
            self.answer_grammar is not None
            or self.call_grammar is not None
            or (self.tags is not None and self.budget is not None)
        )


PLAIN = OutputFormat()
