"""`PartialJson`: the value of JSON that is still being written. `parse_json`: the value of whole JSON."""

from __future__ import annotations

import math
import re
from typing import Any, cast

import jiter

__all__ = ["PartialJson", "mended", "parse_json"]

_HEX = "[0-9a-fA-F]"
_HIGH, _LOW = f"[dD][89abAB]{_HEX}{{2}}", f"[dD][c-fC-F]{_HEX}{{2}}"  # the surrogates of a character above U+FFFF
# The inside of a string, up to its end, an escape that is cut off, or a lone surrogate.
_INSIDE = re.compile(rf'(?:[^"\\]++|\\[^u]|\\u(?:(?![dD][89a-fA-F]){_HEX}{{4}}|{_HIGH}\\u{_LOW}))*+', re.DOTALL)
_LONE_SURROGATE = re.compile(rf"\\u(?:{_HIGH}|{_LOW})")
_CUT_ESCAPE = re.compile(rf"\\(?:u(?:{_HEX}{{0,3}}|{_HIGH}(?:\\(?:u(?:[dD](?:[c-fC-F]{_HEX}?)?)?)?)?))?")
_REPLACEMENT = r"\ufffd"
_IN_NUMBER = "0123456789+-.eE"
_FIRST_OF_NUMBER = tuple("0123456789-")
_WHITE = " \t\r\n"
_ADDS_NOTHING = _WHITE + ",:]}"
_LITERALS = ("true", "false", "null")
_BEFORE_LITERALS = {literal[:end].encode() for literal in _LITERALS for end in range(len(literal))}
_PERHAPS_INFINITE = re.compile(r"[0-9][eE]\+?[0-9]*[1-9][0-9]{2}|[0-9]{300}")
# Text is parsed again when it has grown by its length divided by this.
_GROWTH_DIVISOR = 1000


class PartialJson:
    """The value of JSON text that is still growing.

    Each value extends the last: strings grow at their end, lists get longer and objects gain keys. A number, true,
    false or null appears as soon as no following text can change it, and a character when its escape is complete. The
    one exception is a key that is written twice: the later value counts.

    Parsing the whole text at every token would take quadratic time: 9 s for 100 kB in pieces of 4 bytes. So text is
    parsed only if it can have changed the value and has grown by a thousandth. Below some 4 kB that is every token, at
    100 kB every 100 bytes; 100 kB take under a second in all. `flush()` parses the rest. Each value is parsed anew and
    shares nothing with those before it, so a reader may keep and change them.

    A lone surrogate (`\\ud83d`), which JSON allows, is no character and becomes U+FFFD.
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
        self._settled = 0  # bytes at the beginning whose meaning no following text can change
        self._num_parsed = 0
        self._held = ""  # an escape that is cut off
        self._in_string = False
        self._has_open_number = False
        self._is_stale = False
        self._has_value = False
        self._value: Any = None

    @property
    def has_value(self) -> bool:
        """Whether there is a value, which may be None."""
        return self._has_value

    @property
    def value(self) -> Any:
        """The last value; None before there is one."""
        return self._value

    def feed(self, text: str) -> bool:
        """Add text. Returns whether `value` has changed.

        Raises:
            ValueError: the text is not JSON, or has more than 200 levels.
        """
        self._scan(self._held + text)
        if not self._is_stale or (self._settled - self._num_parsed) * _GROWTH_DIVISOR < self._settled:
            return False
        return self._parse()

    def flush(self, *, is_complete: bool = True) -> bool:
        """End the text. Returns whether that has changed `value`.

        Args:
            is_complete: whether the text is whole; False if it was cut off.

        Raises:
            ValueError: the text is not JSON, or is not whole although it should be; see `parse_json`.
        """
        if not is_complete:
            return self._is_stale and self._parse()
        return self._set_value(parse_json(self._data.decode() + self._held))

    def _scan(self, text: str) -> None:
        """Append text, noting how much of it is settled and whether it can have changed the value."""
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
        if surrogate := _LONE_SURROGATE.match(text, end):
            self._append(_REPLACEMENT)
            return surrogate.end()
        self._append(text[end : end + 2])  # an invalid escape, which the parser will report
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
        if not number.startswith(_FIRST_OF_NUMBER):  # as the e of true
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
        return self._set_value(_from_json(data, partial_mode="trailing-strings"))

    def _set_value(self, value: Any) -> bool:
        if self._has_value and value == self._value:
            return False
        self._value, self._has_value = value, True
        return True


def parse_json(text: str, *, has_unique_keys: bool = False) -> Any:
    """Returns the value of whole JSON text; a lone surrogate becomes U+FFFD, as in `PartialJson`.

    Args:
        text: the JSON.
        has_unique_keys: refuse an object that has a key twice; otherwise the later value counts.

    Raises:
        ValueError: the text is not JSON (NaN is not); it has more than 200 levels, a number with more than 4,300
            digits or larger than a float can be, or a repeated key that is refused.
    """
    value = _from_json(mended(text).encode(), catch_duplicate_keys=has_unique_keys)
    if _PERHAPS_INFINITE.search(text) and _has_infinity(value):
        raise ValueError("a number is larger than a float can be")
    return value


def mended(text: str) -> str:
    """Returns JSON text with U+FFFD for each lone surrogate, which some parsers refuse."""
    if r"\ud" not in text and r"\uD" not in text:
        return text
    pieces: list[str] = []
    position = 0
    while position < len(text):
        # The ends of strings need no attention, since there are no escapes outside of strings.
        end = cast("re.Match[str]", _INSIDE.match(text, position)).end()
        pieces.append(text[position:end])
        surrogate = _LONE_SURROGATE.match(text, end)
        pieces.append(_REPLACEMENT if surrogate else text[end : end + 1])
        position = surrogate.end() if surrogate else end + 1
    return "".join(pieces)


def _from_json(data: bytes, **settings: Any) -> Any:
    return jiter.from_json(data, allow_inf_nan=False, cache_mode="keys", **settings)


def _has_infinity(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(_has_infinity, cast("dict[str, object]", value).values()))
    if isinstance(value, list):
        return any(map(_has_infinity, cast("list[object]", value)))
    return isinstance(value, float) and math.isinf(value)
