"""`StopMatcher`: finds stop sequences in text that arrives piece by piece."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence

from headrace.values.errors import InvalidRequestError

__all__ = ["StopMatcher"]

_ROOT = 0


class StopMatcher:
    """Emits text up to the first stop sequence; how the text is split into pieces makes no difference.

    Let i be the smallest index at which a stop occurs in the whole text: text[:i] is emitted, and of the stops that
    start at i the shortest is `matched`. Text is held back from the place where a stop may have begun. A complete match
    is held back as well, while a stop that began before it may still be completed.

    The automaton is Aho and Corasick's ("Efficient string matching", CACM 18(6), 1975). Its state is the longest
    suffix of the text that begins a stop, which is exactly the text to hold back. A character takes amortized O(1),
    however long the stops are.

    Attributes:
        matched: the stop sequence that ended the text, or None.

    Raises:
        InvalidRequestError: one of the stops is empty.
    """

    __slots__ = ("_children", "_depth", "_ending", "_fallback", "_held", "_pending", "_search", "_state", "matched")

    def __init__(self, stops: Sequence[str]) -> None:
        if not all(stops):
            raise InvalidRequestError("stop_sequences", stops, "strings, none of them empty")
        self.matched: str | None = None
        self._held = ""
        self._state = _ROOT
        self._pending: tuple[int, str] | None = None  # a complete match in the held text: its start, and the stop
        self._build(stops)
        self._search = re.compile("|".join(map(re.escape, self._children[_ROOT])) or "(?!)").search

    @property
    def held(self) -> str:
        """Text that was fed but not returned, because a stop may begin with it."""
        return self._held

    def feed(self, text: str) -> str:
        """Returns the text that is safe to emit; always "" once a stop has matched."""
        if self.matched is not None:
            return ""
        position = len(self._held)
        if self._state == _ROOT:
            first = self._search(text)
            if first is None:
                return text
            position = first.start()
        return self._advance(self._held + text, position)

    def flush(self) -> str:
        """End the text. Returns the text that was held back, up to a complete match in it."""
        text, self._held, self._state = self._held, "", _ROOT
        return text if self._pending is None else self._finish(text, *self._pending)

    def _advance(self, text: str, position: int) -> str:
        children, fallback, depth, ending = self._children, self._fallback, self._depth, self._ending
        state, pending = self._state, self._pending
        for end in range(position + 1, len(text) + 1):
            character = text[end - 1]
            while character not in children[state] and state != _ROOT:
                state = fallback[state]
            state = children[state].get(character, _ROOT)
            stop = ending[state]
            if stop is not None and (pending is None or end - len(stop) < pending[0]):
                pending = (end - len(stop), stop)
            if pending is not None and pending[0] <= end - depth[state]:
                return self._finish(text, *pending)
        emitted = len(text) - depth[state]
        self._state, self._held = state, text[emitted:]
        self._pending = None if pending is None else (pending[0] - emitted, pending[1])
        return text[:emitted]

    def _finish(self, text: str, start: int, stop: str) -> str:
        self.matched, self._held, self._state, self._pending = stop, "", _ROOT, None
        return text[:start]

    def _build(self, stops: Sequence[str]) -> None:
        """Build the automaton: of each state the children, the depth, the fallback, and the longest stop it ends with.

        A state is a prefix of a stop, and its depth the length of that. Its fallback is its longest suffix that is a
        state, too.
        """
        children: list[dict[str, int]] = [{}]
        depth = [0]
        fallback = [_ROOT]
        ending: list[str | None] = [None]
        for stop in stops:
            state = _ROOT
            for character in stop:
                if character not in children[state]:
                    children[state][character] = len(children)
                    children.append({})
                    depth.append(depth[state] + 1)
                    fallback.append(_ROOT)
                    ending.append(None)
                state = children[state][character]
            ending[state] = stop
        # Breadth first: a state's fallback is shorter than the state, and has to be known before.
        queue = deque(children[_ROOT].values())
        while queue:
            state = queue.popleft()
            ending[state] = ending[state] or ending[fallback[state]]
            for character, child in children[state].items():
                back = fallback[state]
                while character not in children[back] and back != _ROOT:
                    back = fallback[back]
                fallback[child] = children[back].get(character, _ROOT)
                queue.append(child)
        self._children, self._depth, self._fallback, self._ending = children, depth, fallback, ending
