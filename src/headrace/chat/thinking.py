"""`ThoughtSplitter`: splits a model's output into the thought and the answer. `tags_of`: the tags around a thought."""

from __future__ import annotations

from enum import Enum

from headrace.values.output_format import Tags

__all__ = ["Phase", "ThoughtSplitter", "overlap", "tags_of"]

# The tags in the chat templates of reasoning models.
_KNOWN_TAGS = (
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
    """Returns the tags that a chat template writes or looks for; None if it has none."""
    return next((tags for tags in _KNOWN_TAGS if tags.closer in template), None)


class Phase(Enum):
    """A part of the output."""

    START = "start"  # only white space so far, or text that may become the opening tag
    THINKING = "thinking"
    ANSWER = "answer"


class ThoughtSplitter:
    """Splits text that arrives piece by piece into a thought and an answer.

    Only a tag at the very start, white space aside, opens a thought. Later opening tags, and closing tags without an
    opening one, are ordinary text. A thought that is never closed lasts to the end. The tags are dropped, as is the
    white space at both ends of the thought and before the answer. If the prompt has opened the thought, the output
    begins inside it; an opening tag that the model writes nevertheless is dropped, too.

    With `raw`, nothing is dropped: the tags and the white space are part of the thought.

    Args:
        tags: the tags around a thought.
        is_open: whether the prompt has opened the thought.
        raw: whether to keep tags and white space.

    Attributes:
        phase: the part of the output that the text has reached.
        has_thought: whether a thought has begun.
    """

    __slots__ = ("_held", "_is_open", "_is_raw", "_is_stripping", "_tags", "has_thought", "phase")

    def __init__(self, tags: Tags, *, is_open: bool = False, raw: bool = False) -> None:
        self.phase = Phase.START
        self.has_thought = is_open
        self._tags = tags
        self._is_open = is_open
        self._is_raw = raw
        self._held = ""
        self._is_stripping = is_open and not raw  # whether white space is dropped until other text arrives

    @property
    def is_over(self) -> bool:
        """Whether the answer has begun."""
        return self.phase is Phase.ANSWER

    @property
    def is_closing(self) -> bool:
        """Whether the text ends with the beginning of the closing tag."""
        return self.phase is Phase.THINKING and overlap(self._held, self._tags.closer) > 0

    def feed(self, text: str) -> tuple[str, str]:
        """Returns what this text adds to the thought, and what it adds to the answer."""
        if self.phase is Phase.ANSWER:
            return "", self._stripped(text)
        self._held += text
        thought = ""
        if self.phase is Phase.START:
            thought = self._read_start()
        if self.phase is Phase.THINKING:
            more, rest = self._read_thought()
            return thought + more, rest
        if self.is_over:
            answer, self._held = self._held, ""
            return thought, answer
        return thought, ""

    def flush(self) -> tuple[str, str]:
        """End the text. Returns the text that was held back: of the thought, and of the answer."""
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
        """Returns the beginning of the answer that `feed` would find with this text, without feeding it."""
        begun = (self._held + text).lstrip()
        is_answer = self.phase is Phase.START and not self._is_open and not self._tags.opener.startswith(begun)
        return begun if is_answer and not begun.startswith(self._tags.opener) else ""

    def _read_start(self) -> str:
        """Find out whether the output begins with a tag. With `raw`, returns the tag."""
        opener = self._tags.opener
        begun = self._held.lstrip()
        if begun.startswith(opener):
            end = len(self._held) - len(begun) + len(opener)
            tag, self._held = self._held[:end], self._held[end:]
            self.has_thought = True
            self.phase = Phase.THINKING
            self._is_stripping = not self._is_raw
            return tag if self._is_raw else ""
        if opener.startswith(begun):
            return ""
        self.phase = Phase.THINKING if self._is_open else Phase.ANSWER
        return ""

    def _read_thought(self) -> tuple[str, str]:
        closer = self._tags.closer
        text, found, rest = self._held.partition(closer)
        if found:
            self._held = ""
            self.phase = Phase.ANSWER
            if self._is_raw:
                return text + found, rest
            thought = self._stripped(text).rstrip()
            self._is_stripping = True
            return thought, self._stripped(rest)
        # White space before the closing tag is dropped, so it is held back until the next text tells.
        end = len(text) - overlap(text, closer)
        end = len(text[:end].rstrip()) if not self._is_raw else end
        self._held = text[end:]
        return self._stripped(text[:end]), ""

    def _stripped(self, text: str) -> str:
        if self._is_stripping and text:
            text = text.lstrip()
            self._is_stripping = not text
        return text


def overlap(text: str, tag: str) -> int:
    """Returns how many characters at the end of a text may begin a tag; less than the whole tag."""
    if tag[:1] not in text[1 - len(tag) :]:  # the usual case
        return 0
    for size in range(min(len(text), len(tag) - 1), 0, -1):
        if text.endswith(tag[:size]):
            return size
    return 0
