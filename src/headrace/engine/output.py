"""The output of one stream: from the bytes of its tokens to text, thought and tool calls."""

from __future__ import annotations

from collections import deque

from headrace.chat.call_reader import CallReader
from headrace.chat.thinking import ThoughtSplitter
from headrace.text.detokenizer import Detokenizer
from headrace.text.stops import StopMatcher
from headrace.values.accumulator import Accumulator
from headrace.values.config import StreamConfig
from headrace.values.output_format import OutputFormat
from headrace.values.results import Kind, Part, ToolCall, ToolCallDelta

__all__ = ["Output"]


class Output:
    """Reads what a stream writes, token by token: `feed` each, and `take` what goes with it.

    Stop sequences are looked for in the answer, not in thoughts and calls. With each token goes text of one kind: where
    a token completes text of two kinds, the second waits for the next token.

    Args:
        config: the stream's settings.
        output_format: what the output consists of.

    Attributes:
        answer_start: where in the text the answer starts: a raw thought comes before it.
        is_plain: whether it can be nothing but text.
    """

    __slots__ = (
        "_calls",
        "_detokenizer",
        "_hides",
        "_is_raw",
        "_pending",
        "_stops",
        "_taken",
        "_thought",
        "answer_start",
        "is_plain",
    )

    def __init__(self, config: StreamConfig, output_format: OutputFormat) -> None:
        self.answer_start = 0
        self._detokenizer = Detokenizer()
        self._stops = StopMatcher(config.stop_sequences) if config.stop_sequences else None
        self._hides = output_format.thinking == "hide"
        self._is_raw = output_format.thinking == "raw"
        self._thought = (
            ThoughtSplitter(output_format.tags, is_open=output_format.is_thinking, raw=self._is_raw)
            if output_format.tags
            else None
        )
        self._calls = CallReader(output_format.tools) if output_format.tools is not None else None
        self.is_plain = self._thought is None and self._calls is None
        self._taken = Accumulator()
        self._pending: deque[Part] = deque()

    # What is known of it so far.

    @property
    def text(self) -> str:
        """Everything taken of kind "text"."""
        return self._taken.text

    @property
    def thinking(self) -> str | None:
        """What was taken of the thought; None where there is none, or it is not kept apart."""
        return self._taken.thinking if self.has_thought and not self._is_raw and not self._hides else None

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """What was taken of the calls; the last may be incomplete."""
        return self._taken.tool_calls

    @property
    def num_calls(self) -> int:
        """How many calls are complete."""
        return self._calls.num_complete if self._calls is not None else 0

    @property
    def stop_sequence(self) -> str | None:
        """Which stop sequence matched."""
        return self._stops.matched if self._stops is not None else None

    @property
    def is_calling(self) -> bool:
        """Whether it is inside a tool call."""
        return self._calls is not None and self._calls.is_calling

    @property
    def has_thought(self) -> bool:
        """Whether there is or was a thought."""
        return self._thought is not None and self._thought.has_thought

    @property
    def is_answer(self) -> bool:
        """Whether the answer has begun."""
        return self._thought is None or self._thought.is_over

    @property
    def is_thinking(self) -> bool:
        """Whether a thought has begun, and not ended."""
        return self.has_thought and not self.is_answer

    @property
    def kind(self) -> Kind:
        """What a token is that shows nothing."""
        if self.is_thinking and not self._is_raw:
            return "thinking"
        return "tool_call" if self._calls is not None and self._calls.is_in_calls else "text"

    @property
    def is_closing(self) -> bool:
        """Whether the beginning of the tag that closes the thought has come, and not the rest."""
        return self.is_thinking and self._thought is not None and self._thought.is_closing

    @property
    def is_hidden(self) -> bool:
        """Whether what comes now may be part of a thought that is to be hidden."""
        return self._hides and not self.is_answer

    def overshoots(self, piece: bytes) -> bool:
        """Whether these bytes would complete a tag or a trigger, and go on with more than white space."""
        if self.is_plain:
            return False
        text = self._detokenizer.peek(piece)
        if self._thought is not None and not self._thought.is_over:
            if self._thought.overshoots(text):
                return True
            text = self._thought.answer_after(text)
        return self._calls is not None and self._calls.overshoots(text)

    # The way through it.

    def pass_on(self, piece: bytes) -> str:
        """`feed` and `take` at once, where it `is_plain`: most streams are, and this is done for every token."""
        text = self._detokenizer.feed(piece)
        if self._stops is not None:
            text = self._stops.feed(text)
        if text:
            self._taken.add_text(text)
        return text

    def feed(self, piece: bytes) -> None:
        """Read a token's bytes."""
        text = self._detokenizer.feed(piece)
        if not text:
            return
        if self._thought is not None and not self._thought.is_over:
            thought, text = self._thought.feed(text)
            self._note(thought)
            if self._thought.is_over:
                self._begin_answer()
        elif self._thought is not None:
            text = self._thought.feed(text)[1]
        if text:
            self._answer(text)

    def flush(self, *, is_in_tag: bool = False) -> None:
        """Read to the end: what was held back is no beginning of anything.

        Args:
            is_in_tag: whether it is known to be part of a tag or a trigger, and so no text.
        """
        text = self._detokenizer.flush()
        if not is_in_tag:
            if self._thought is not None:
                thought, text = self._thought.flush()
                self._note(thought)
            if text:
                self._answer(text)
            for part in self._calls.flush() if self._calls is not None else ():
                self._put(part)
        if self._stops is not None and self._stops.matched is None:
            self._show(self._stops.flush())

    def take(self) -> Part | None:
        """What goes with this token, of one kind; None where there is nothing."""
        pending = self._pending
        if not pending:
            return None
        part = pending.popleft()
        while pending and (joined := _joined(part, pending[0])) is not None:
            part = joined
            pending.popleft()
        self._taken.add(part)
        return part

    def take_rest(self) -> tuple[Part, ...]:
        """All that is left, where there is no next token."""
        return tuple(iter(self.take, None))

    def _note(self, thought: str) -> None:
        if self._is_raw:
            self._show(thought)
        elif thought and not self._hides:
            self._pending.append(Part("thinking", thought))

    def _begin_answer(self) -> None:
        pending = sum(len(part.text) for part in self._pending if part.kind == "text")
        self.answer_start = self._taken.num_characters + pending

    def _answer(self, text: str) -> None:
        if self._calls is None:
            self._put(Part("text", text))
        else:
            for part in self._calls.feed(text):
                self._put(part)

    def _put(self, part: Part) -> None:
        if self._stops is None:
            self._pending.append(part)
        elif self._stops.matched is None:
            if part.kind == "text":
                self._show(self._stops.feed(part.text))
            else:
                self._show(self._stops.flush())  # no stop sequence reaches into a call
                if self._stops.matched is None:
                    self._pending.append(part)

    def _show(self, text: str) -> None:
        if text:
            self._pending.append(Part("text", text))


def _joined(part: Part, other: Part) -> Part | None:
    """Two parts as one; None where they are of different kinds, or of different calls."""
    one, two = part.tool_call, other.tool_call
    if one is not None and two is not None:
        if two.index != one.index:
            return None
        joined = ToolCallDelta(one.index, one.id, one.name, one.arguments + two.arguments, two.is_complete)
        return Part(part.kind, joined.arguments, joined)
    return Part(part.kind, part.text + other.text) if part.kind == other.kind else None
