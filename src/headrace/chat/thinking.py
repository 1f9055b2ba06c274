"""Keeps the thought that a model writes before its answer apart from the answer."""

from __future__ import annotations

from enum import Enum

from headrace.values.output_format import Tags

__all__ = ["Phase", "ThoughtSplitter", "overlap", "tags_of"]

# As the chat templates of the models have them that write their thoughts down.
_KNOWN = (
    Tags("<think>", "</think>"),
    Tags("<thinking>", "</thinking>"),
    Tags("<thought>", "</thought>"),
    Tags("<reasoning>", "</reasoning>"),
    Tags("<seed:think>", "</seed:think>"),
    Tags("[THINK]", "[/THINK]"),
    Tags("◁think▷", "◁/think▷"),
    Tags("<|START_THINKING|>", "<|END_THINKING|>"),
)


def tags_of(template: str) -> Tags | None:
    """The tags that a chat template writes or looks for; None where it knows nothing of thoughts."""
    return next((tags for tags in _KNOWN if tags.closer in template), None)


class Phase(Enum):
    """Where in the output a text is."""

    START = "start"  # nothing but white space, or what may become the opening tag
    THINKING = "thinking"
    ANSWER = "answer"


class ThoughtSplitter:
    """Splits text that comes in pieces into a thought and an answer.

    Only a tag at the very start, white space aside, opens a thought: later ones, and closing tags without an opening
    one, are text like any other. A thought that is never closed lasts to the end. The tags go, and so does the white
    space at both ends of the thought and before the answer. Where the prompt has opened the thought already, the
    output begins inside it; should the model open it once more, that tag goes too.

    With `raw`, nothing goes: the tags and the white space are part of the thought.

    Args:
        tags: what opens and closes a thought.
        is_open: whether the prompt has opened it.
        raw: whether to leave everything as it is.

    Attributes:
        phase: where the text is.
        has_thought: whether there is or was a thought.
    """

    __slots__ = ("_held", "_is_open", "_is_raw", "_strips", "_tags", "has_thought", "phase")

    def __init__(self, tags: Tags, *, is_open: bool = False, raw: bool = False) -> None:
        self.phase = Phase.START
        self.has_thought = is_open
        self._tags = tags
        self._is_open = is_open
        self._is_raw = raw
        self._held = ""
        self._strips = is_open and not raw  # whether white space goes until something else comes

    @property
    def is_over(self) -> bool:
        """Whether the answer has begun."""
        return self.phase is Phase.ANSWER

    @property
    def is_closing(self) -> bool:
        """Whether the text ends with the beginning of the closing tag."""
        return self.phase is Phase.THINKING and overlap(self._held, self._tags.closer) > 0

    def feed(self, text: str) -> tuple[str, str]:
        """What this text adds to the thought, and what to the answer."""
        if self.phase is Phase.ANSWER:
            return "", self._stripped(text)
        self._held += text
        thought = ""
        if self.phase is Phase.START:
            thought = self._start()
        if self.phase is Phase.THINKING:
            more, rest = self._think()
            return thought + more, rest
        if self.is_over:
            answer, self._held = self._held, ""
            return thought, answer
        return thought, ""

    def flush(self) -> tuple[str, str]:
        """Ends the text: what was held back, as `feed` gives it."""
        held, self._held = self._held, ""
        if self.phase is Phase.ANSWER or (self.phase is Phase.START and not self._is_open):
            return "", held
        return (held, "") if self._is_raw else (self._stripped(held).rstrip(), "")

    def overshoots(self, text: str) -> bool:
        """Whether this text would close the thought and go on with more than white space."""
        closer = self._tags.closer
        if closer[-1] not in text or self.phase is Phase.ANSWER:
            return False
        _, found, rest = (self._held + text).partition(closer)
        return bool(found) and bool(rest.strip())

    def answer_after(self, text: str) -> str:
        """What would be known of the answer with this text, if it began now."""
        begun = (self._held + text).lstrip()
        is_answer = self.phase is Phase.START and not self._is_open and not self._tags.opener.startswith(begun)
        return begun if is_answer and not begun.startswith(self._tags.opener) else ""

    def _start(self) -> str:
        """Find out whether the output begins with a tag; with `raw`, return the tag."""
        opener = self._tags.opener
        begun = self._held.lstrip()
        if begun.startswith(opener):
            end = len(self._held) - len(begun) + len(opener)
            tag, self._held = self._held[:end], self._held[end:]
            self.has_thought = True
            self.phase = Phase.THINKING
            self._strips = not self._is_raw
            return tag if self._is_raw else ""
        if opener.startswith(begun):
            return ""
        self.phase = Phase.THINKING if self._is_open else Phase.ANSWER
        return ""

    def _think(self) -> tuple[str, str]:
        closer = self._tags.closer
        text, found, rest = self._held.partition(closer)
        if found:
            self._held = ""
            self.phase = Phase.ANSWER
            if self._is_raw:
                return text + found, rest
            thought = self._stripped(text).rstrip()
            self._strips = True
            return thought, self._stripped(rest)
        # White space before the tag goes with it, so it waits for what comes next.
        end = len(text) - overlap(text, closer)
        end = len(text[:end].rstrip()) if not self._is_raw else end
        self._held = text[end:]
        return self._stripped(text[:end]), ""

    def _stripped(self, text: str) -> str:
        if self._strips and text:
            text = text.lstrip()
            self._strips = not text
        return text


def overlap(text: str, tag: str) -> int:
    """How many characters at the end of a text may be the beginning of a tag, short of all of it."""
    if tag[:1] not in text[1 - len(tag) :]:  # nearly always
        return 0
    for size in range(min(len(text), len(tag) - 1), 0, -1):
        if text.endswith(tag[:size]):
            return size
    return 0
