"""`Accumulator`: joins the parts of a stream to its text, its thought and its tool calls."""

from __future__ import annotations

from collections.abc import Iterable

from headrace.values.results import Kind, Part, ToolCall

__all__ = ["Accumulator"]


class Accumulator:
    """The text, the thought and the tool calls of a stream so far.

    Args:
        parts: the parts to begin with.
    """

    __slots__ = ("_calls", "_texts")

    def __init__(self, parts: Iterable[Part] = ()) -> None:
        self._texts: dict[Kind, list[str]] = {"text": [], "thinking": []}
        self._calls: list[list[Part]] = []
        for part in parts:
            self.add(part)

    def add(self, part: Part) -> None:
        """Add the next part."""
        call = part.tool_call
        if call is None:
            self._texts[part.kind].append(part.text)
        elif call.index == len(self._calls):
            self._calls.append([part])
        else:
            self._calls[call.index].append(part)

    def add_text(self, text: str) -> None:
        """Add text of the answer; the same as `add` with a part of kind "text"."""
        self._texts["text"].append(text)

    @property
    def text(self) -> str:
        """The text of the answer."""
        return "".join(self._texts["text"])

    @property
    def num_characters(self) -> int:
        """The length of `text`."""
        return sum(map(len, self._texts["text"]))

    @property
    def thinking(self) -> str:
        """The text of the thought."""
        return "".join(self._texts["thinking"])

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tool calls; the last one may be incomplete."""
        return tuple(map(_joined, self._calls))


def _joined(parts: list[Part]) -> ToolCall:
    deltas = [part.tool_call for part in parts if part.tool_call is not None]
    arguments = "".join(delta.arguments for delta in deltas)
    return ToolCall(deltas[0].id or "", deltas[0].name or "", arguments, is_complete=deltas[-1].is_complete)
