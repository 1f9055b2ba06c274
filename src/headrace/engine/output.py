"""`Output`: turns the bytes of a stream's tokens into text, thoughts and tool calls."""

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
    """Parses the output of one stream. For each token: `feed` its bytes, then `take` the part to emit with it.

    Stop sequences are searched in the answer, not in thoughts and tool calls. A token is emitted with a part of one
    kind. If it completes parts of two kinds, the second part is emitted with the next token.

    Args:
        config: the stream's settings.
        output_format: how thoughts and tool calls are written.

    Attributes:
        answer_start: index in the text at which the answer starts, behind a raw thought.
        is_plain: whether the output can have neither thoughts nor tool calls.
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

    # The state of the output so far.

    @property
    def text(self) -> str:
        """All text of kind "text" that was taken."""
        return self._taken.text

    @property
    def thinking(self) -> str | None:
        """The part of the thought that was taken; None if there is none, or if thinking is not "split"."""
        return self._taken.thinking if self.has_thought and not self._is_raw and not self._hides else None

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tool calls that were taken; the last one may be incomplete."""
        return self._taken.tool_calls

    @property
    def num_calls(self) -> int:
        """The number of complete tool calls."""
        return self._calls.num_complete if self._calls is not None else 0

    @property
    def stop_sequence(self) -> str | None:
        """The stop sequence that matched, or None."""
        return self._stops.matched if self._stops is not None else None

    @property
    def is_calling(self) -> bool:
        """Whether the output is inside a tool call."""
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
        """Whether a thought has begun and not ended."""
        return self.has_thought and not self.is_answer

    @property
    def kind(self) -> Kind:
        """The kind of a token that is emitted without text."""
        if self.is_thinking and not self._is_raw:
            return "thinking"
        return "tool_call" if self._calls is not None and self._calls.is_in_calls else "text"

    @property
    def is_closing(self) -> bool:
        """Whether the closing tag of the thought has begun and is not complete."""
        return self.is_thinking and self._thought is not None and self._thought.is_closing

    @property
    def is_hidden(self) -> bool:
        """Whether the next text may belong to a hidden thought."""
        return self._hides and not self.is_answer

    def overshoots(self, piece: bytes) -> bool:
        """Returns whether these bytes complete a tag or a trigger, and go on with more than white space."""
        if self.is_plain:
            return False
        text = self._detokenizer.peek(piece)
        if self._thought is not None and not self._thought.is_over:
            if self._thought.overshoots(text):
                return True
            text = self._thought.answer_after(text)
        return self._calls is not None and self._calls.overshoots(text)

    # Parsing.

    def feed_plain(self, piece: bytes) -> str:
        """`feed` and `take` in one, for an output that `is_plain`: faster, since most streams are plain."""
        text = self._detokenizer.feed(piece)
        if self._stops is not None:
            text = self._stops.feed(text)
        if text:
            self._taken.add_text(text)
        return text

    def feed(self, piece: bytes) -> None:
        """Parse a token's bytes."""
        text = self._detokenizer.feed(piece)
        if not text:
            return
        if self._thought is not None and not self._thought.is_over:
            thought, text = self._thought.feed(text)
            self._add_thought(thought)
            if self._thought.is_over:
                self._begin_answer()
        elif self._thought is not None:
            text = self._thought.feed(text)[1]
        if text:
            self._add_answer(text)

    def flush(self, *, is_in_tag: bool = False) -> None:
        """End the output: the held-back text is now known to start no tag and no stop sequence.

        Args:
            is_in_tag: whether the held-back text is part of a tag or a trigger, so that it is dropped.
        """
        text = self._detokenizer.flush()
        if not is_in_tag:
            if self._thought is not None:
                thought, text = self._thought.flush()
                self._add_thought(thought)
            if text:
                self._add_answer(text)
            for part in self._calls.flush() if self._calls is not None else ():
                self._add_part(part)
        if self._stops is not None and self._stops.matched is None:
            self._add_text(self._stops.flush())

    def take(self) -> Part | None:
        """Returns the part to emit with this token; None if there is nothing to emit."""
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
        """Returns all remaining parts, after the last token."""
        return tuple(iter(self.take, None))

    def _add_thought(self, thought: str) -> None:
        if self._is_raw:
            self._add_text(thought)
        elif thought and not self._hides:
            self._pending.append(Part("thinking", thought))

    def _begin_answer(self) -> None:
        pending = sum(len(part.text) for part in self._pending if part.kind == "text")
        self.answer_start = self._taken.num_characters + pending

    def _add_answer(self, text: str) -> None:
        if self._calls is None:
            self._add_part(Part("text", text))
        else:
            for part in self._calls.feed(text):
                self._add_part(part)

    def _add_part(self, part: Part) -> None:
        if self._stops is None:
            self._pending.append(part)
        elif self._stops.matched is None:
            if part.kind == "text":
                self._add_text(self._stops.feed(part.text))
            else:
                self._add_text(self._stops.flush())  # no stop sequence reaches into a call
                if self._stops.matched is None:
                    self._pending.append(part)

    def _add_text(self, text: str) -> None:
        if text:
            self._pending.append(Part("text", text))


def _joined(part: Part, other: Part) -> Part | None:
    """Returns two parts as one; None if they have different kinds, or belong to different tool calls."""
    one, two = part.tool_call, other.tool_call
    if one is not None and two is not None:
        if two.index != one.index:
            return None
        joined = ToolCallDelta(one.index, one.id, one.name, one.arguments + two.arguments, two.is_complete)
        return Part(part.kind, joined.arguments, joined)
    return Part(part.kind, part.text + other.text) if part.kind == other.kind else None
