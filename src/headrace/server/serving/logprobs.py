"""Log probabilities of tokens as JSON. `HeldLogprobs` holds them back until the tokens' text is sent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from headrace.text.detokenizer import Detokenizer
from headrace.values.results import Token

__all__ = ["HeldLogprobs", "answer_text_of", "logprob", "logprob_entry", "token_text"]

# JSON has no infinity. OpenAI sends this number for a token that could not have been sampled.
_IMPOSSIBLE = -9999.0


class HeldLogprobs:
    """Holds the log probabilities of tokens back until their text is sent, so that they reveal no stop sequence.

    Only tokens of the answer have log probabilities. Tokens of thoughts and of tool calls have none, tags included.
    """

    def __init__(self) -> None:
        self._held: list[tuple[int, Token]] = []  # each with the index of its end in the sampled text, in characters
        self._reset()

    def _reset(self) -> None:
        """Forget all tokens. The next token begins a piece of the answer, or closes a thought or a call."""
        self._held.clear()
        self._detokenizer = Detokenizer()
        self._unsent = ""  # the sampled text, until some of it is sent
        self._num_sampled = 0  # characters sampled
        self._num_sent: int | None = None  # of these, characters sent or dropped; None before the first text

    def feed(self, tokens: Iterable[Token]) -> list[Token]:
        """Add tokens. Returns the tokens whose text has been sent entirely."""
        ready: list[Token] = []
        for token in tokens:
            text = answer_text_of(token)
            if token.kind != "text":
                self._reset()
            if token.kind == "text" or text:
                self._hold(token, text)
                ready += self._release()
        return ready

    def _hold(self, token: Token, sent_text: str) -> None:
        sampled_text = self._detokenizer.feed(token.bytes)
        self._num_sampled += len(sampled_text)
        if token.bytes:  # an end-of-text token has none, and is no part of the text
            is_cut = self._detokenizer.num_held > 0  # the token's last character is completed by a later token
            self._held.append((self._num_sampled + is_cut, token))
        if self._num_sent is None:
            self._unsent += sampled_text
            if not sent_text:
                return
            self._num_sent = self._start_of(sent_text)
            self._held = [(end, token) for end, token in self._held if end > self._num_sent]
        self._num_sent += len(sent_text)

    def _start_of(self, sent_text: str) -> int:
        """Returns where the first sent text begins in the sampled text: behind white space, or a thought's end tag."""
        sampled = self._unsent
        for place in (0, len(sampled) - len(sampled.lstrip())):
            if sampled.startswith(sent_text, place):
                return place
        place = sampled.rfind(sent_text)
        # Not found: some of the text came with the last token of the thought.
        return place if place >= 0 else len(sampled) - len(sent_text)

    def _release(self) -> list[Token]:
        if self._num_sent is None:
            return []
        count = sum(end <= self._num_sent for end, _ in self._held)
        ready = [token for _, token in self._held[:count]]
        del self._held[:count]
        return ready


def answer_text_of(token: Token) -> str:
    """Returns the text that a token adds to the answer, without thoughts and tool calls."""
    if token.kind == "text" and not token.rest:
        return token.text
    return "".join(part.text for part in token.parts if part.kind == "text")


def token_text(token_bytes: bytes) -> str:
    """Returns a token's bytes as text; an incomplete character becomes a replacement character."""
    return token_bytes.decode(errors="replace")


def logprob(value: float | None) -> float:
    """Returns a log probability as JSON can hold it."""
    return _IMPOSSIBLE if value is None or value < _IMPOSSIBLE else value


def logprob_entry(token: Token) -> dict[str, Any]:
    """Returns a token's log probabilities, as chats and responses show them."""
    return {
        **_one_logprob(token.bytes, token.logprob),
        "top_logprobs": [_one_logprob(top.bytes, top.logprob) for top in token.top_logprobs or ()],
    }


def _one_logprob(token_bytes: bytes, value: float | None) -> dict[str, Any]:
    return {"token": token_text(token_bytes), "logprob": logprob(value), "bytes": list(token_bytes)}
