"""Turns the bytes of tokens into characters as they come, since a token may hold half a character."""

from __future__ import annotations

from codecs import utf_8_decode

__all__ = ["Detokenizer"]

_SURROGATES_FROM, _SURROGATES_TO = b"\xed\xa0", b"\xed\xbf"


class Detokenizer:
    """Incremental UTF-8.

    However the bytes are split into pieces, the texts of all `feed()`s joined are what decoding the whole with
    errors="replace" gives (Unicode's "maximal subpart" practice), but for a character that is still incomplete at
    the end: it is not invalid, only cut off, and is left out.
    """

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = b""

    @property
    def num_held(self) -> int:
        """How many bytes wait for the rest of their character: 0 to 3."""
        return len(self._held)

    def feed(self, piece: bytes) -> str:
        """The characters that are complete by now, U+FFFD for bytes that cannot become one."""
        if self._held:
            piece = self._held + piece
        elif piece.isascii():
            return piece.decode("ascii")
        text, consumed = utf_8_decode(piece, "replace", False)
        held = piece[consumed:]
        if _SURROGATES_FROM <= held <= _SURROGATES_TO:
            # Python's decoder waits for a third byte here, though no byte can make this a character.
            text, held = text + held.decode("utf-8", "replace"), b""
        self._held = held
        return text

    def peek(self, piece: bytes) -> str:
        """What `feed` would return, without feeding."""
        return utf_8_decode(self._held + piece, "replace", False)[0]

    def flush(self) -> str:
        """Ends the text: drops an incomplete last character and returns "", the rest having been returned already."""
        self._held = b""
        return ""
