"""The items of a response's output, written one after the other: a thought, an answer, calls; and their events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from headrace.server.http.json_text import dumps, quoted
from headrace.server.http.sse import event
from headrace.values.results import Kind, Part, ToolCallDelta

__all__ = ["OutputWriter"]

_PREFIXES: dict[Kind, str] = {"thinking": "rs", "text": "msg", "tool_call": "fc"}
_TEXTS: dict[Kind, str] = {
    "thinking": "response.reasoning_text",
    "text": "response.output_text",
    "tool_call": "response.function_call_arguments",
}


@dataclass
class _Item:
    """An item that is being written.

    Attributes:
        kind: of what it consists.
        id: its name.
        index: its place in the output.
        call: of a call, its first piece, which has its name.
        texts: what was written.
        logprobs: of the tokens of an answer, where they are wanted.
    """

    kind: Kind
    id: str
    index: int
    call: ToolCallDelta | None
    texts: list[str] = field(default_factory=list[str])
    logprobs: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    @property
    def place(self) -> dict[str, Any]:
        """Where its text is, in events."""
        place = {"item_id": self.id, "output_index": self.index}
        return place if self.call is not None else {**place, "content_index": 0}

    @property
    def part(self) -> dict[str, Any]:
        """Its text, as it is now."""
        text = "".join(self.texts)
        if self.kind == "thinking":
            return {"type": "reasoning_text", "text": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": self.logprobs}

    def shown(self, status: str, *, has_part: bool = True) -> dict[str, Any]:
        """The item as a response has it."""
        if self.call is not None:
            call = {"call_id": self.call.id, "name": self.call.name, "arguments": "".join(self.texts)}
            return {"id": self.id, "type": "function_call", "status": status, **call}
        content = [self.part] if has_part else []
        if self.kind == "thinking":
            return {"id": self.id, "type": "reasoning", "status": status, "summary": [], "content": content}
        return {"id": self.id, "type": "message", "status": status, "role": "assistant", "content": content}


class OutputWriter:
    """Writes the output of one response: an item of one kind is closed before the next is opened.

    Args:
        id: what the ids of its items end with.
    """

    def __init__(self, id: str) -> None:
        self._id = id
        self._num_events = 0
        self._done: list[dict[str, Any]] = []
        self._item: _Item | None = None
        # A delta is these strings with a number and a text between them: nothing else is made per token.
        self._before_number = self._before_text = self._after_text = ""

    def event(self, type: str, /, **fields: Any) -> bytes:
        """An event of the response, with the next number."""
        number = self._num_events
        self._num_events += 1
        return event(dumps({"type": type, "sequence_number": number, **fields}), name=type)

    @property
    def is_calling(self) -> bool:
        """Whether the item that is being written is a call."""
        return self._item is not None and self._item.call is not None

    def output(self, status: str) -> list[dict[str, Any]]:
        """The items so far.

        Args:
            status: of the one that is being written.
        """
        return self._done if self._item is None else [*self._done, self._item.shown(status)]

    def feed(self, parts: Sequence[Part], logprobs: Sequence[dict[str, Any]] = ()) -> list[bytes]:
        """What a token brought.

        Args:
            parts: its text.
            logprobs: those of the answer that are known now.
        """
        events: list[bytes] = []
        left = list(logprobs)
        if left and self._item is not None and self._item.kind == "text" and (not parts or parts[0].kind != "text"):
            events.append(self._delta("", left))  # before another item closes this one
            left = []
        for part in parts:
            if self._begins(part):
                events += self._open(part.kind, part.tool_call)
            if part.kind == "text":
                events.append(self._delta(part.text, left))
                left = []
            elif part.text:
                events.append(self._delta(part.text))
        return events

    def close(self, status: str) -> list[bytes]:
        """The end of it.

        Args:
            status: "completed", or "incomplete" where the last item is cut off.
        """
        # An answer that is empty is an answer, too: clients look for it.
        opened = self._open("text", None) if self._item is None else []
        return [*opened, *self._close(status)]

    def _begins(self, part: Part) -> bool:
        """Whether an item begins with this part."""
        is_new_call = part.tool_call is not None and part.tool_call.id is not None
        return self._item is None or self._item.kind != part.kind or is_new_call

    def _open(self, kind: Kind, call: ToolCallDelta | None) -> list[bytes]:
        closed = self._close("completed")
        index = len(self._done)
        item = self._item = _Item(kind, f"{_PREFIXES[kind]}_{self._id}_{index}", index, call)
        type = f"{_TEXTS[kind]}.delta"
        self._before_number = f'event: {type}\ndata: {{"type":"{type}","sequence_number":'
        self._before_text = f',{dumps(item.place)[1:-1]},"delta":'
        self._after_text = ',"logprobs":[]}\n\n' if kind == "text" else "}\n\n"
        shown = item.shown("in_progress", has_part=False)
        opened = self.event("response.output_item.added", output_index=index, item=shown)
        if call is not None:
            return [*closed, opened]
        return [*closed, opened, self.event("response.content_part.added", **item.place, part=item.part)]

    def _delta(self, text: str, logprobs: Sequence[dict[str, Any]] = ()) -> bytes:
        assert self._item is not None
        self._item.texts.append(text)
        if logprobs:
            self._item.logprobs += logprobs
            return self.event("response.output_text.delta", **self._item.place, delta=text, logprobs=logprobs)
        number = self._num_events
        self._num_events += 1
        return f"{self._before_number}{number}{self._before_text}{quoted(text)}{self._after_text}".encode()

    def _close(self, status: str) -> list[bytes]:
        item, self._item = self._item, None
        if item is None:
            return []
        shown = item.shown(status)
        self._done.append(shown)
        type, place = f"{_TEXTS[item.kind]}.done", item.place
        item_done = {"output_index": item.index, "item": shown}
        if item.call is not None:
            written = self.event(type, **place, name=shown["name"], arguments=shown["arguments"])
            return [written, self.event("response.output_item.done", **item_done)]
        part = item.part
        about = {"logprobs": item.logprobs} if item.kind == "text" else {}
        return [
            self.event(type, **place, text=part["text"], **about),
            self.event("response.content_part.done", **place, part=part),
            self.event("response.output_item.done", **item_done),
        ]
