"""Turns JSON that is still being written into the object so far, which only ever grows."""

from __future__ import annotations

import math
import re
from typing import Any, cast

import jiter

__all__ = ["PartialJson", "mended", "parse_json"]

_HEX = "[0-9a-fA-F]"
_HIGH, _LOW = f"[dD][89abAB]{_HEX}{{2}}", f"[dD][c-fC-F]{_HEX}{{2}}"  # the halves of a character above U+FFFF
# The inside of a string, up to its end or to an escape that is cut off, or is half of a character without the other.
_INSIDE = re.compile(rf'(?:[^"\\]++|\\[^u]|\\u(?:(?![dD][89a-fA-F]){_HEX}{{4}}|{_HIGH}\\u{_LOW}))*+', re.DOTALL)
_LONE_HALF = re.compile(rf"\\u(?:{_HIGH}|{_LOW})")
_CUT_ESCAPE = re.compile(rf"\\(?:u(?:{_HEX}{{0,3}}|{_HIGH}(?:\\(?:u(?:[dD](?:[c-fC-F]{_HEX}?)?)?)?)?))?")
_REPLACEMENT = r"\ufffd"
_IN_NUMBER = "0123456789+-.eE"
_FIRST_OF_NUMBER = tuple("0123456789-")
_WHITE = " \t\r\n"
_ADDS_NOTHING = _WHITE + ",:]}"
_LITERALS = ("true", "false", "null")
_BEFORE_LITERALS = {literal[:end].encode() for literal in _LITERALS for end in range(len(literal))}
_PERHAPS_INFINITE = re.compile(r"[0-9][eE]\+?[0-9]*[1-9][0-9]{2}|[0-9]{300}")
# A text is parsed again when it has grown by this share of its length.
_GROWTH = 1000


class PartialJson:
    """The object so far of growing JSON.

    Each value is a refinement of the last: strings only grow at their end, lists only get longer and objects only gain
    keys; a number, true, false or null is there as soon as nothing that may follow can change it. A character appears
    when its escape is complete, never half of it. (A key that is written twice is the exception: the later one counts.)

    Parsing everything again at every token would be quadratic: 9 s for 100 kB in pieces of 4 bytes. So text that
    cannot have changed the value is not parsed, and beyond that only what has grown by a thousandth: below some 4 kB
    that is every token, and at 100 kB, every 100 bytes; all in all under a second. `flush()` brings what is missing.
    Each value is parsed anew and shares nothing with the ones before it, so that they can be kept, and changed.

    Half of a surrogate pair without the other (`\\ud83d`), which JSON allows, is no character and becomes U+FFFD.
    """

    __slots__ = (
        "_data",
        "_has_open_number",
        "_has_value",
        "_held",
        "_in_string",
        "_is_stale",
        "_num_parsed",
        "_settled",
        "_value",
    )

    def __init__(self) -> None:
        self._data = bytearray()
        self._settled = 0  # so many bytes of it mean the same, whatever follows
        self._num_parsed = 0
        self._held = ""  # an escape that is cut off
        self._in_string = False
        self._has_open_number = False
        self._is_stale = False
        self._has_value = False
        self._value: Any = None

    @property
    def has_value(self) -> bool:
        """Whether there is a value: None may be one."""
        return self._has_value

    @property
    def value(self) -> Any:
        """The value when it last changed; None before there is one."""
        return self._value

    def feed(self, text: str) -> bool:
        """Take in more text: whether `value` has become another.

        Raises:
            ValueError: text that is no JSON, or has more than 200 levels.
        """
        self._scan(self._held + text)
        if not self._is_stale or (self._settled - self._num_parsed) * _GROWTH < self._settled:
            return False
        return self._parse()

    def flush(self, *, is_complete: bool = True) -> bool:
        """End the text: whether that makes `value` another.

        Args:
            is_complete: the text ends here because it is whole; False where it was cut off.

        Raises:
            ValueError: text that is no JSON or, where it should be, not whole; see `parse_json`.
        """
        if not is_complete:
            return self._is_stale and self._parse()
        return self._take(parse_json(self._data.decode() + self._held))

    def _scan(self, text: str) -> None:
        """Find out how much of the text is settled, and whether it can have changed the value."""
        self._held = ""
        position = 0
        while position < len(text):
            scan = self._scan_string if self._in_string else self._scan_structure
            position = scan(text, position)

    def _scan_string(self, text: str, position: int) -> int:
        end = cast("re.Match[str]", _INSIDE.match(text, position)).end()
        self._append(text[position:end])
        if end == len(text):
            return end
        if text[end] == '"':
            self._in_string = False
            self._append('"', may_change=False)
            return end + 1
        if _CUT_ESCAPE.fullmatch(text, end):
            self._held = text[end:]
            return len(text)
        if half := _LONE_HALF.match(text, end):
            self._append(_REPLACEMENT)
            return half.end()
        self._append(text[end : end + 2])  # no escape at all, as the parser will say
        return end + 2

    def _scan_structure(self, text: str, position: int) -> int:
        quote = text.find('"', position)
        end = len(text) if quote < 0 else quote
        part = text[position:end]
        if self._has_open_number:
            rest = part.lstrip(_IN_NUMBER)
            if not rest and quote < 0:
                self._data += part.encode()
                return end
            self._has_open_number, self._is_stale = False, True
        settled = part.rstrip(_IN_NUMBER) if quote < 0 else part
        number = part[len(settled) :]
        if not number.startswith(_FIRST_OF_NUMBER):  # the e of true
            settled, number = part, ""
        self._append(settled, may_change=bool(settled.strip(_ADDS_NOTHING)))
        if number:
            self._data += number.encode()
            self._has_open_number = True
        if quote < 0:
            return end
        self._in_string = True
        self._append('"')
        return quote + 1

    def _append(self, text: str, *, may_change: bool = True) -> None:
        self._data += text.encode()
        self._settled = len(self._data)
        self._is_stale |= may_change and bool(text)

    def _parse(self) -> bool:
        data = bytes(self._data[: self._settled])
        self._num_parsed, self._is_stale = self._settled, False
        if not self._has_value and data.strip(_WHITE.encode()) in _BEFORE_LITERALS:
            return False
        return self._take(_from_json(data, partial_mode="trailing-strings"))

    def _take(self, value: Any) -> bool:
        if self._has_value and value == self._value:
            return False
        self._value, self._has_value = value, True
        return True


def parse_json(text: str, *, has_unique_keys: bool = False) -> Any:
    """The value of a whole JSON text; half of a surrogate pair becomes U+FFFD, as in `PartialJson`.

    Args:
        text: the JSON.
        has_unique_keys: an object may not have a key twice; otherwise the later one counts.

    Raises:
        ValueError: no JSON, as NaN is none; more than 200 levels; a number with more than 4,300 digits, or larger than
            a float can be; a key that comes twice, where that may not be.
    """
    value = _from_json(mended(text).encode(), catch_duplicate_keys=has_unique_keys)
    if _PERHAPS_INFINITE.search(text) and _has_infinity(value):
        raise ValueError("a number is larger than a float can be")
    return value


def mended(text: str) -> str:
    """JSON in which halves of surrogate pairs without the other half are U+FFFD, which all parsers take."""
    if r"\ud" not in text and r"\uD" not in text:
        return text
    pieces: list[str] = []
    position = 0
    while position < len(text):
        # Where strings end does not matter here: there are no escapes outside of them.
        end = cast("re.Match[str]", _INSIDE.match(text, position)).end()
        pieces.append(text[position:end])
        half = _LONE_HALF.match(text, end)
        pieces.append(_REPLACEMENT if half else text[end : end + 1])
        position = half.end() if half else end + 1
    return "".join(pieces)


def _from_json(data: bytes, **settings: Any) -> Any:
    return jiter.from_json(data, allow_inf_nan=False, cache_mode="keys", **settings)


def _has_infinity(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(_has_infinity, cast("dict[str, object]", value).values()))
    if isinstance(value, list):
        return any(map(_has_infinity, cast("list[object]", value)))
    return isinstance(value, float) and math.isinf(value)
