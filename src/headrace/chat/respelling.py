"""`respelled`: rewrites a prompt with tokens that were computed before, so that their cached KV can be shared."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["respelled"]


def respelled(tokens: Sequence[int], known: Sequence[int], piece: Callable[[int], bytes]) -> tuple[int, ...]:
    """Returns the prompt, with known tokens at its beginning, as far as they have the same text as the prompt.

    A model may write a text in other tokens than the tokenizer makes of the text. So if a prompt contains an earlier
    reply, its tokens may differ from those in the KV cache. A control token has no text and is only replaced by itself.

    Args:
        tokens: the prompt, as the tokenizer makes it.
        known: tokens that were computed before.
        piece: returns the bytes of a token; none for a control token.
    """
    ours = theirs = 0  # how many tokens were read, of `tokens` and of `known`
    same = 0, 0  # the same numbers at the last position in the text where a token of both ends
    our_text = their_text = b""  # the texts of the tokens read since that position
    while True:
        if our_text == their_text:
            our_text = their_text = b""
            same = ours, theirs
            if ours == len(tokens) or theirs == len(known):
                break
            if tokens[ours] == known[theirs]:
                ours, theirs = ours + 1, theirs + 1
                continue
        more = b""
        if len(our_text) <= len(their_text):
            if ours < len(tokens):
                more = piece(tokens[ours])
            our_text, ours = our_text + more, ours + 1
        else:
            if theirs < len(known):
                more = piece(known[theirs])
            their_text, theirs = their_text + more, theirs + 1
        if not more or not (our_text.startswith(their_text) or their_text.startswith(our_text)):
            break
    return (*known[: same[1]], *tokens[same[0] :])
