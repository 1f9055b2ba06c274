"""`Guard`: keeps a user's words in a rendered chat template from becoming control tokens.

A special text is the text of a control token, such as "<|im_end|>". Rendered text does not show which words are the
user's. So before rendering, parts of a user's string are replaced by one stand-in character each:

- each special text inside the string,
- at each end of the string, text that could form a special text together with its neighbour: the template's own text
  or another string. White space at the ends is passed over, because templates strip it.

After rendering, each stand-in becomes its original text again, in a segment of its own. Segments are tokenized one by
one, so a control token is recognized only where the template wrote all of it. If an original text overlaps no special
text after all, its segment is joined with its neighbours. So an ordinary prompt is one segment, tokenized as in
training.

Stand-ins are rare CJK ideographs. If a user writes such an ideograph, it is replaced, too, so that no stand-in can be
forged. A template cannot cut a single character in half, change its case or strip it. Templates write lists and
mappings with repr(), which escapes characters for private use, but no ideographs.

Out of scope: a template that cuts a string in the middle and completes one half to a special text by itself.
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
        special: whether the tokenizer recognizes control tokens in it; False for a user's words that look like such.
    """

    text: str
    special: bool


class SpecialTexts:
    """The special texts of a model, with the tables to search for them."""

    def __init__(self, texts: Iterable[str], source: str) -> None:
        specials = sorted({text for text in texts if text})
        pattern = _any_of(specials) if specials else _NOTHING
        self.written = frozenset(source)  # characters that the template may write; these cannot be stand-ins
        self.longest = max(map(len, specials), default=0)
        self.starting_at = re.compile(f"(?=({pattern}))")
        self.inside = re.compile(f"{_STANDINS}|{pattern}")
        self._beginnings = {text[:end] for text in specials for end in range(1, len(text))}
        self._endings = {text[start:] for text in specials for start in range(1, len(text))}
        self._all = "\0".join(specials)  # NUL is in no string of a user

    def ends(self, text: str) -> tuple[int, int]:
        """Returns how far `text` may begin with the tail of a special text, and where the head of another may start.

        Returns:
            The index at which the longest such tail ends, and the index at which the longest head at the end of `text`
            starts. If the whole text may be part of one special text, the first index is not less than the second.
        """
        longest = min(self.longest, len(text))
        if len(text) <= self.longest and text in self._all:
            return len(text), 0
        head = next((end for end in range(longest, 0, -1) if text[:end] in self._endings), 0)
        tail = next((size for size in range(longest, 0, -1) if text[-size:] in self._beginnings), 0)
        return head, len(text) - tail

    def touches(self, text: str, start: int, end: int) -> bool:
        """Whether a special text in `text` overlaps text[start:end]."""
        reach = self.longest - 1
        matches = self.starting_at.finditer(text, max(0, start - reach), min(len(text), end + reach))
        return any(match.start() < end and match.end(1) > start for match in matches)


class Guard:
    """Replaces parts of a user's words by stand-ins for one rendering, and restores them afterwards."""

    def __init__(self, specials: SpecialTexts) -> None:
        self._specials = specials
        self._standins: dict[str, str] = {}
        self._free = (chr(code) for code in range(_FIRST, _LAST + 1) if chr(code) not in specials.written)

    def escaped(self, text: str) -> str:
        """Returns the string with stand-ins for the special texts inside."""
        return self._specials.inside.sub(lambda match: self._standin(match[0]), text)

    def guarded(self, text: str) -> str:
        """Returns the string with stand-ins for the special texts inside and for parts of special texts at its ends."""
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
        """Returns a stand-in for "", which marks a place in the rendered text."""
        return self._standin("")

    def values(self, value: Any, replaced: Callable[[str], str]) -> Any:
        """Returns a copy of a JSON value, with `replaced`, which is `escaped` or `guarded`, applied to its strings."""
        if isinstance(value, str):
            return replaced(value)
        if isinstance(value, list):
            return [self.values(item, replaced) for item in cast("list[Any]", value)]
        if isinstance(value, dict):
            copy: dict[str, Any] = {}
            for key, item in cast("dict[str, Any]", value).items():
                # Templates look up keys and compare types. So in keys and types, only whole special texts are replaced.
                part = self.escaped if key == "type" and isinstance(item, str) else replaced
                copy[self.escaped(key)] = self.values(item, part)
            return copy
        return value

    def segments(self, rendered: str) -> list[Segment]:
        """Returns the rendered text in segments, with the user's words restored."""
        originals = {standin: original for original, standin in self._standins.items()}
        if not originals:
            return [Segment(rendered, True)] if rendered else []
        # The pattern is a group, so every second part is a stand-in.
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
                "fewer different control tokens and rare CJK ideographs in the texts of one conversation",
            )
        self._standins[original] = standin
        return standin


def _any_of(texts: Sequence[str]) -> str:
    """Returns a pattern that matches the longest of these sorted, distinct texts: a tree, for thousands of them."""
    if len(texts) == 1:
        return re.escape(texts[0])
    branches = [
        re.escape(first) + _any_of([text[1:] for text in group])
        for first, group in groupby(filter(None, texts), key=lambda text: text[0])
    ]
    tree = f"(?:{'|'.join(branches)})"
    return f"{tree}?" if texts[0] == "" else tree
