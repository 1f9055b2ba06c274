"""Keeps a user's words from being taken for control tokens in a prompt made by a chat template.

In the rendered text, words of the user and of the template can no longer be told apart. So before rendering, those
words of the user that could be all or part of a control token's text are replaced by one character each, which
stands for them until the rendered text is taken apart. These are
  - every control token's text inside a string, and
  - at the two ends of a string (white space aside, as templates strip it) what could be the beginning, the end or
    the middle of a control token together with what the template, or another string, writes next to it.
A control token's text that is not wholly the template's own then contains a border between segments, and is not
recognized, because segments are tokenized one by one. Afterwards the words that turned out to be no part of a control
token are joined with their neighbours again, so that an ordinary prompt is one segment, tokenized as in training.
Out of scope is a template that cuts a string in the middle and completes the half to a control token by itself.

The characters are rare CJK ideographs; those that a user writes are replaced by another one as well, so none can be
forged. One character cannot be cut in half by a template, has no upper or lower case, is no white space, and, unlike
one for private use, is written as it is by repr(), which is what writes a list or mapping in a template.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any, NamedTuple, cast

from headrace.values.errors import InvalidRequestError

__all__ = ["Guard", "Segment", "SpecialTexts"]

_FIRST, _LAST = 0x20000, 0x2A6DF
_STANDINS = f"[{chr(_FIRST)}-{chr(_LAST)}]"
_NOTHING = "(?!)"


class Segment(NamedTuple):
    """A part of a prompt.

    Attributes:
        text: its characters.
        special: whether control tokens are to be recognized in it; False for words of a user that look like one.
    """

    text: str
    special: bool


class SpecialTexts:
    """The texts of a model's control tokens, ready to be looked for."""

    def __init__(self, texts: Iterable[str], source: str) -> None:
        specials = sorted({text for text in texts if text})
        pattern = _any_of(specials) if specials else _NOTHING
        self.written = frozenset(source)  # what the template may write itself cannot stand for something else
        self.longest = max(map(len, specials), default=0)
        self.starting_at = re.compile(f"(?=({pattern}))")
        self.inside = re.compile(f"{_STANDINS}|{pattern}")
        self._beginnings = {text[:end] for text in specials for end in range(1, len(text))}
        self._endings = {text[start:] for text in specials for start in range(1, len(text))}
        self._all = "\0".join(specials)  # NUL is in no string of a user

    def ends(self, text: str) -> tuple[int, int]:
        """Where the end of a special text stops at the start of `text`, and where a beginning starts at its end.

        They cross, or meet, where all of it may be part of a special text.
        """
        longest = min(self.longest, len(text))
        if len(text) <= self.longest and text in self._all:
            return len(text), 0
        head = next((end for end in range(longest, 0, -1) if text[:end] in self._endings), 0)
        tail = next((size for size in range(longest, 0, -1) if text[-size:] in self._beginnings), 0)
        return head, len(text) - tail

    def touches(self, text: str, start: int, end: int) -> bool:
        """Whether a special text in `text` has characters of text[start:end]."""
        reach = self.longest - 1
        matches = self.starting_at.finditer(text, max(0, start - reach), min(len(text), end + reach))
        return any(match.start() < end and match.end(1) > start for match in matches)


class Guard:
    """Replaces a user's words in one rendering, and puts them back."""

    def __init__(self, specials: SpecialTexts) -> None:
        self._specials = specials
        self._standins: dict[str, str] = {}
        self._free = (chr(code) for code in range(_FIRST, _LAST + 1) if chr(code) not in specials.written)

    def escaped(self, text: str) -> str:
        """The string with special texts inside replaced."""
        return self._specials.inside.sub(lambda match: self._standin(match[0]), text)

    def guarded(self, text: str) -> str:
        """The string with special texts inside and parts of such at its ends replaced."""
        core = text.strip()
        if not core:
            return text
        left = text.index(core)
        head, tail = self._specials.ends(core)
        before, after = text[:left], text[left + len(core) :]
        if head >= tail:
            return before + self._standin(core) + after
        middle = self.escaped(core[head:tail])
        first = self._standin(core[:head]) if head else ""
        last = self._standin(core[tail:]) if tail < len(core) else ""
        return before + first + middle + last + after

    def mark(self) -> str:
        """A character that stands for nothing, to find a place again."""
        return self._standin("")

    def values(self, value: Any, replaced: Callable[[str], str]) -> Any:
        """A copy of what JSON can hold, with each string replaced by `escaped` or `guarded`."""
        if isinstance(value, str):
            return replaced(value)
        if isinstance(value, list):
            return [self.values(item, replaced) for item in cast("list[Any]", value)]
        if isinstance(value, dict):
            copy: dict[str, Any] = {}
            for key, item in cast("dict[str, Any]", value).items():
                # Templates look keys up and compare types, so only whole control tokens are replaced there.
                part = self.escaped if key == "type" and isinstance(item, str) else replaced
                copy[self.escaped(key)] = self.values(item, part)
            return copy
        return value

    def segments(self, rendered: str) -> list[Segment]:
        """The rendered text with the user's words put back, in segments by how they are to be tokenized."""
        originals = {standin: original for original, standin in self._standins.items()}
        if not originals:
            return [Segment(rendered, True)] if rendered else []
        # With a group in the pattern, every second part is a stand-in.
        parts = re.split(f"({_STANDINS})", rendered)
        parts[1::2] = [originals.get(standin, standin) for standin in parts[1::2]]
        text = "".join(parts)
        segments: list[Segment] = []
        start = 0
        for i, part in enumerate(parts):
            end = start + len(part)
            special = i % 2 == 0 or not self._specials.touches(text, start, end)
            segments.append(Segment(part, special))
            start = end
        joined = groupby((segment for segment in segments if segment.text), key=lambda segment: segment.special)
        return [Segment("".join(segment.text for segment in group), special) for special, group in joined]

    def _standin(self, original: str) -> str:
        standin = self._standins.get(original) or next(self._free, None)
        if standin is None:
            raise InvalidRequestError(
                "messages",
                f"more than {len(self._standins)}",
                "fewer different control tokens and rare ideographs in the texts of one conversation",
            )
        self._standins[original] = standin
        return standin


def _any_of(texts: Sequence[str]) -> str:
    """A pattern for the longest of these texts, sorted and different, as a tree: models have thousands of them."""
    if len(texts) == 1:
        return re.escape(texts[0])
    branches = [
        re.escape(first) + _any_of([text[1:] for text in group])
        for first, group in groupby(filter(None, texts), key=lambda text: text[0])
    ]
    tree = f"(?:{'|'.join(branches)})"
    return f"{tree}?" if texts[0] == "" else tree
