"""`make_tokenizer`: describes a model's vocabulary to llguidance."""

from __future__ import annotations

from collections.abc import Sequence

from llguidance import LLTokenizer, TokenizerWrapper

from headrace.values.errors import GenerationError, InvalidRequestError, shortened
from headrace.values.vocabulary import TokenTable

__all__ = ["make_tokenizer"]

# llguidance computes the mask of a slice once for all of its tokens, where they share a state of the lexer. A slice
# holds text tokens without quotes. Slices differ by length, because a string with a maximum length tells them apart.
_SLICES = (
    r"[\x20\x0A\x0D\x09]+",
    *(rf'[^"\\\x00-\x1F\x7F]{{1,{length}}}' for length in (1, 2, 3, 4, 5, 6, 7, 8, 10, 15, 30)),
    r'[^"\\\x00-\x1F\x7F]+',
)


def make_tokenizer(vocabulary: TokenTable) -> LLTokenizer:
    """Returns llguidance's tokenizer: the bytes that each token adds to the output, and how text becomes tokens."""
    return LLTokenizer(TokenizerWrapper(_Tokens(vocabulary)), eos_token=_end_tokens(vocabulary), slices=list(_SLICES))


class _Tokens:
    """The attributes and the call that `TokenizerWrapper` expects of a tokenizer."""

    bos_token_id = None

    def __init__(self, vocabulary: TokenTable) -> None:
        self._vocabulary = vocabulary
        self._ids: dict[bytes, int] | None = None  # text tokens by their bytes, made when first needed
        self._longest = 0  # bytes of the longest of them
        special = dict.fromkeys(_end_tokens(vocabulary), b"<end>")
        special |= {token: text.encode() for token, text in vocabulary.special_tokens.items()}
        self.eos_token_id = _end_tokens(vocabulary)[0]
        self.special_token_ids = sorted(special)
        # llguidance never uses a special token to spell text, whatever its bytes are.
        self.tokens = [special.get(token) or vocabulary.piece(token) for token in range(vocabulary.n_vocab)]
        if not vocabulary.eog_tokens:
            self.tokens.append(b"<end>")

    def __call__(self, text: bytes | str) -> list[int]:
        """Returns the tokens for text that the grammar forces, preferably those that the model itself would write."""
        data = text.encode() if isinstance(text, str) else text
        # Some tokenizers put a blank before any text. Behind a line break they do not.
        for lead in (b"", b"\n"):
            tokens = self._tokenized(lead + data)
            num_lead = 1 if lead else 0
            if tokens[:num_lead] == self._tokenized(lead)[:num_lead] and self._bytes(tokens) == lead + data:
                return tokens[num_lead:]
        return self._spelled(data)

    def _tokenized(self, data: bytes) -> list[int]:
        try:
            return self._vocabulary.tokenize(data.decode(), add_special=False, parse_special=False)
        except InvalidRequestError:  # a NUL
            return []

    def _bytes(self, tokens: Sequence[int]) -> bytes:
        return b"".join(map(self._vocabulary.piece, tokens))

    def _spelled(self, data: bytes) -> list[int]:
        """Returns the longest token that fits, then the next, for text that the model's tokenizer would change."""
        if self._ids is None:
            special = frozenset(self.special_token_ids)
            self._ids = {piece: token for token, piece in enumerate(self.tokens) if piece and token not in special}
            self._longest = max(map(len, self._ids), default=0)
        tokens: list[int] = []
        while data:
            length = next((n for n in range(self._longest, 0, -1) if data[:n] in self._ids), 0)
            if not length:
                raise GenerationError(f"no token of the vocabulary spells {shortened(data)}")
            tokens.append(self._ids[data[:length]])
            data = data[length:]
        return tokens


def _end_tokens(vocabulary: TokenTable) -> list[int]:
    # llguidance needs an end token. A model without one gets an id behind its vocabulary, which is never sampled.
    return sorted(vocabulary.eog_tokens) or [vocabulary.n_vocab]
