"""What the output of a stream consists of besides plain text: a thought, tool calls, an answer of a certain form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

__all__ = ["PLAIN", "Grammar", "Matcher", "OutputFormat", "Tags", "ToolFormat"]


class Matcher(Protocol):
    """A grammar at work on one stream."""

    @property
    def is_stopped(self) -> bool:
        """Whether nothing but the end may follow."""
        ...

    @property
    def is_accepting(self) -> bool:
        """Whether the end may follow."""
        ...

    def allowed(self) -> Any:
        """For each token of the vocabulary whether it may come next: a numpy array of bools, good until `accept`."""
        ...

    def accept(self, token: int) -> None:
        """Take a token in."""
        ...


class Grammar(Protocol):
    """A compiled grammar, shared by any number of streams."""

    def start(self) -> Matcher:
        """Begin a text."""
        ...


@dataclass(frozen=True, slots=True)
class Tags:
    """What opens and what closes a thought."""

    opener: str
    closer: str


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """How a model writes tool calls.

    A turn with two calls is trigger, lead, first call, separator, lead, second call, closer; a call is its name between
    `head` and `middle`, then the JSON of its arguments, then `tail`. White space is free between the parts.

    Attributes:
        trigger: text with which calls begin; it is never part of an answer.
        lead: what follows the trigger once.
        head: what comes before the name.
        middle: what comes between the name and the arguments.
        tail: what comes behind the arguments.
        separator: what comes between two calls; None where the format knows only one.
        closer: what comes behind the last call.
        is_leading: whether the trigger counts only at the very start of the answer.
        id_length: characters of a call's id; 0 for ids of the usual form.
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
    """How to read the output of one stream, and what to keep it to.

    Attributes:
        tags: what marks a thought; None where the model does not think.
        thinking: what becomes of a thought.
        is_thinking: whether the prompt has opened the thought already.
        budget: after how many tokens a thought is closed.
        opening: the tokens of the tag that opens a thought; none where the answer has begun already.
        closing: the tokens of the tag that closes it.
        answer: what the answer has to fit.
        tools: how calls are written; None where there are no tools.
        call: what the first call has to fit, from behind the trigger to its tail.
        next_call: what another one has to fit.
        is_required: whether the answer has to be a call.
        is_parallel: whether there may be several calls.
        calling: the tokens of the trigger.
        after_call: the tokens that always follow a call.
        going_on: the tokens before another call.
        finishing: the tokens behind the last call.
        texts: texts of tokens which the vocabulary shows as nothing, because they are control tokens, but which are
            tags or triggers here.
    """

    tags: Tags | None = None
    thinking: Literal["split", "hide", "raw"] = "split"
    is_thinking: bool = False
    budget: int | None = None
    opening: tuple[int, ...] = ()
    closing: tuple[int, ...] = ()
    answer: Grammar | None = None
    tools: ToolFormat | None = None
    call: Grammar | None = None
    next_call: Grammar | None = None
    is_required: bool = False
    is_parallel: bool = True
    calling: tuple[int, ...] = ()
    after_call: tuple[int, ...] = ()
    going_on: tuple[int, ...] = ()
    finishing: tuple[int, ...] = ()
    texts: Mapping[int, bytes] = field(default_factory=dict[int, bytes], hash=False)

    @property
    def is_constrained(self) -> bool:
        """Whether anything restricts what may be sampled."""
        return self.answer is not None or self.call is not None or (self.tags is not None and self.budget is not None)


PLAIN = OutputFormat()
