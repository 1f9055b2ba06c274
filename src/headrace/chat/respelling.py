"""The same text in other tokens: those that a model has read or written already, whose KV is there to be shared."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["respelled"]


def respelled(tokens: Sequence[int], known: Sequence[int], piece: Callable[[int], bytes]) -> tuple[int, ...]:
    """A prompt with its beginning in known tokens, as far as these say the same.

    A model does not always write a text in the tokens that the tokenizer makes of it, so a reply that is read back may
    differ from what is in the KV cache. Control tokens have no text, and are only ever replaced by themselves.

    Args:
        tokens: the prompt, as the tokenizer has it.
        known: what was computed before.
        piece: the bytes of a token; none for a control token.
    """
    ours = theirs = 0  # how many tokens of each were looked at
    our_text = their_text = b""  # what they say since both had a border at the same place
    same = 0, 0  # that place
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
