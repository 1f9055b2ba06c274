"""`Detokenizer`: turns the bytes of tokens into characters; a token may end inside a character."""

from __future__ import annotations

from codecs import utf_8_decode

__all__ = ["Detokenizer"]

_SURROGATES_FROM, _SURROGATES_TO = b"\xed\xa0", b"\xed\xbf"


class Detokenizer:
    """An incremental decoder of UTF-8.

    However the bytes are split into pieces, the joined texts of all `feed()`s equal the whole decoded with
    errors="replace" (Unicode's "maximal subpart" practice). The one difference: a character that is incomplete at the
    end is left out, since it is cut off and not invalid.
    """

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = b""

    @property
    def num_held(self) -> int:
        """The number of bytes, 0 to 3, that wait for the rest of their character."""
        return len(self._held)

    def feed(self, piece: bytes) -> str:
        """Returns the characters that are complete now, with U+FFFD for bytes that cannot become a character."""
        if self._held:
            piece = self._held + piece
        elif piece.isascii():
            return piece.decode("ascii")
        text, consumed = utf_8_decode(piece, "replace", False)
        held = piece[consumed:]
        if _SURROGATES_FROM <= held <= _SURROGATES_TO:
            # Python's decoder waits for a third byte here, although no third byte can complete a character.
            text, held = text + held.decode("utf-8", "replace"), b""
        self._held = held
        return text

    def peek(self, piece: bytes) -> str:
        """Returns what `feed` would return, without feeding the bytes."""
        return utf_8_decode(self._held + piece, "replace", False)[0]

    def flush(self) -> str:
        """End the text: drop an incomplete last character. Returns "", since `feed` has returned all the rest."""
        self._held = b""
        return ""
