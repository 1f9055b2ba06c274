"""`OutputWriter`: the output of a response as items, one after the other, and the events of these items."""

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
    """An item that is being written: a thought, an answer, or a tool call.

    Attributes:
        kind: the kind of its text.
        id: the item's id.
        index: its index in the output.
        call: the first piece of a tool call, which has the tool's name; None for other kinds.
        texts: its text so far, in pieces.
        logprobs: log probabilities of an answer's tokens, if they are asked for.
    """

    kind: Kind
    id: str
    index: int
    call: ToolCallDelta | None
    texts: list[str] = field(default_factory=list[str])
    logprobs: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    @property
    def place(self) -> dict[str, Any]:
        """The fields of events that say where the item's text is."""
        place = {"item_id": self.id, "output_index": self.index}
        return place if self.call is not None else {**place, "content_index": 0}

    @property
    def part(self) -> dict[str, Any]:
        """The content part with the item's text so far."""
        text = "".join(self.texts)
        if self.kind == "thinking":
            return {"type": "reasoning_text", "text": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": self.logprobs}

    def shown(self, status: str, *, has_part: bool = True) -> dict[str, Any]:
        """Returns the item as a response shows it."""
        if self.call is not None:
            call = {"call_id": self.call.id, "name": self.call.name, "arguments": "".join(self.texts)}
            return {"id": self.id, "type": "function_call", "status": status, **call}
        content = [self.part] if has_part else []
        if self.kind == "thinking":
            return {"id": self.id, "type": "reasoning", "status": status, "summary": [], "content": content}
        return {"id": self.id, "type": "message", "status": status, "role": "assistant", "content": content}


class OutputWriter:
    """Writes the output of one response. Only one item is open at a time.

    Args:
        id: a part of the items' ids, the same for all.
    """

    def __init__(self, id: str) -> None:
        self._id = id
        self._num_events = 0
        self._done: list[dict[str, Any]] = []
        self._item: _Item | None = None
        # The event of a delta is these strings, with a number and a text between them, so a token costs little.
        self._before_number = self._before_text = self._after_text = ""

    def event(self, type: str, /, **fields: Any) -> bytes:
        """Returns an event with the next sequence number."""
        number = self._num_events
        self._num_events += 1
        return event(dumps({"type": type, "sequence_number": number, **fields}), name=type)

    @property
    def is_calling(self) -> bool:
        """Whether the open item is a tool call."""
        return self._item is not None and self._item.call is not None

    def output(self, status: str) -> list[dict[str, Any]]:
        """Returns the items so far.

        Args:
            status: the status of the open item.
        """
        return self._done if self._item is None else [*self._done, self._item.shown(status)]

    def feed(self, parts: Sequence[Part], logprobs: Sequence[dict[str, Any]] = ()) -> list[bytes]:
        """Take the parts of a token. Returns their events.

        Args:
            parts: the token's text.
            logprobs: log probabilities of the answer's tokens whose text has been sent by now.
        """
        events: list[bytes] = []
        unsent = list(logprobs)
        if unsent and self._item is not None and self._item.kind == "text" and (not parts or parts[0].kind != "text"):
            events.append(self._delta("", unsent))  # before the next item closes this one
            unsent = []
        for part in parts:
            if self._begins(part):
                events += self._open(part.kind, part.tool_call)
            if part.kind == "text":
                events.append(self._delta(part.text, unsent))
                unsent = []
            elif part.text:
                events.append(self._delta(part.text))
        return events

    def close(self, status: str) -> list[bytes]:
        """End the output. Returns the last events.

        Args:
            status: "completed", or "incomplete" if the last item is cut off.
        """
        # Clients expect an answer, so an empty output gets an empty answer.
        opened = self._open("text", None) if self._item is None else []
        return [*opened, *self._close(status)]

    def _begins(self, part: Part) -> bool:
        """Returns whether an item begins with this part."""
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
        extras = {"logprobs": item.logprobs} if item.kind == "text" else {}
        return [
            self.event(type, **place, text=part["text"], **extras),
            self.event("response.content_part.done", **place, part=part),
            self.event("response.output_item.done", **item_done),
        ]
