"""`portable`: translates a regular expression of JSON Schema, in ECMA-262's syntax, to that of Rust's regex crate."""

from __future__ import annotations

import re

__all__ = ["PatternError", "portable"]

_ESCAPE = re.compile(r"\\(?:[dDwWsSnrtfv]|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|[^A-Za-z0-9])", re.DOTALL)
_GROUP = re.compile(r"\((?:\?:|\?<[A-Za-z_][A-Za-z0-9_]*>|(?!\?))")
_QUANTIFIER = re.compile(r"(?:[*+?]|\{[0-9]+(?:,[0-9]*)?\})\??")
# The characters of \d, \w and \s as in ECMA-262, for use inside brackets. Engines differ in them.
_CLASSES = {
    "d": "0-9",
    "w": "0-9A-Za-z_",
    "s": r"\t\n\x0b\x0c\r \xa0\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}\x{feff}",
}
_ANY = r"[^\n\r\x{2028}\x{2029}]"  # the dot; in other engines it is all but a line feed
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v"}
_PLAIN = frozenset("^$|)")


class PatternError(ValueError):
    """A part of a pattern cannot be used; the message says which, and where."""


def portable(pattern: str) -> str:
    """Returns the pattern in the syntax of Rust's regex crate.

    Raises:
        PatternError: the pattern has a part that engines read differently, or that no regular language has.
    """
    read: list[str] = []
    at = 0
    can_repeat = False
    while at < len(pattern):
        char = pattern[at]
        if match := _QUANTIFIER.match(pattern, at):
            if not can_repeat:
                raise PatternError(f"there is nothing to repeat at character {at}")
            read.append(match[0])
            at, can_repeat = match.end(), False
            continue
        can_repeat = char not in "^$(|"
        if char == "\\":
            text, at = _escaped(pattern, at)
            read.append(f"[{text}]" if len(text) > 1 and not text.startswith(("[", "\\x")) else text)
        elif char == "[":
            text, at = _class(pattern, at)
            read.append(text)
        elif char == "(":
            if not (group := _GROUP.match(pattern, at)):
                raise PatternError(f"a group that looks around, or is of an unknown kind, at character {at}")
            read.append("(")  # a group's name has no effect
            at = group.end()
        elif char == "{" and pattern[at + 1 : at + 2] == ",":
            raise PatternError(f"a repetition without a lower bound, at character {at}")
        else:
            read.append(_ANY if char == "." else char if char in _PLAIN else _literal(char))
            at += 1
    return "".join(read)


def _literal(char: str) -> str:
    return char if char.isascii() and char.isalnum() else rf"\x{{{ord(char):x}}}"


def _escaped(pattern: str, at: int) -> tuple[str, int]:
    """Returns the characters of an escape, as written inside brackets, and where the escape ends."""
    match = _ESCAPE.match(pattern, at)
    if match is None:
        raise PatternError(f"an escape that is not supported, {pattern[at : at + 2]}, at character {at}")
    kind = match[0][1]
    if kind in _CLASSES:
        return _CLASSES[kind], match.end()
    if kind.lower() in _CLASSES:
        return f"[^{_CLASSES[kind.lower()]}]", match.end()
    char = chr(int(match[0][2:], 16)) if kind in "xu" else _CONTROLS.get(kind, kind)
    if "\ud800" <= char < "\ue000":
        raise PatternError(f"a lone surrogate at character {at}")
    return _literal(char), match.end()


def _class(pattern: str, start: int) -> tuple[str, int]:
    """Returns a class in brackets, and where it ends."""
    is_negated = pattern.startswith("^", start + 1)
    at = start + 1 + is_negated
    read: list[str] = []
    low: str | None = None  # the last item if it is one character, which can begin a range
    while at < len(pattern) and (pattern[at] != "]" or not read):
        if pattern[at] == "]":
            raise PatternError(f"an empty class at character {start}")
        if pattern[at] == "-" and read and pattern[at + 1 : at + 2] not in ("", "]"):
            high, end = _item(pattern, at + 1)
            if low is None or not _is_single(high):
                raise PatternError(f"a range without a beginning or an end at character {at}")
            read[-1] += f"-{high}"
            low, at = None, end
            continue
        item, at = _item(pattern, at)
        low = item if _is_single(item) else None
        read.append(item)
    if at >= len(pattern):
        raise PatternError(f"a class without an end at character {start}")
    return f"[{'^' * is_negated}{''.join(read)}]", at + 1


def _item(pattern: str, at: int) -> tuple[str, int]:
    return _escaped(pattern, at) if pattern[at] == "\\" else (_literal(pattern[at]), at + 1)


def _is_single(item: str) -> bool:
    return len(item) == 1 or (item.startswith(r"\x{") and item.count(r"\x") == 1)
