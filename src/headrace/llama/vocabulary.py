"""`LlamaVocabulary`: a model's tokens, and the way from text to tokens and back."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from headrace.llama.buffers import read_bytes
from headrace.llama.handle import ModelHandle
from headrace.values.errors import InvalidRequestError

__all__ = ["LlamaVocabulary"]

_CONTROL = (1 << 0) | (1 << 3)  # LLAMA_TOKEN_ATTR_UNKNOWN | LLAMA_TOKEN_ATTR_CONTROL
_TOO_MANY = -(2**31)  # llama_tokenize: the number of tokens does not fit into its result


class LlamaVocabulary(ModelHandle):
    """The tokens of a loaded model.

    Args:
        path: the model file.
        handle: what llama_model_load_from_file returned.

    Attributes:
        n_vocab: size of the vocabulary, in tokens.
        bos_token: id of the token that begins a text, or None.
        eos_token: id of the token that ends a text, or None.
        add_bos: whether the model expects `bos_token` before a text.
        add_eos: whether the model expects `eos_token` after a text.
    """

    def __init__(self, path: Path, handle: int) -> None:
        super().__init__(path, handle)
        bulk = self._library.bulk
        self._vocab: int = bulk.llama_model_get_vocab(handle)
        self._pieces: dict[int, bytes] = {}
        self._longest_piece: int | None = None
        self.n_vocab: int = bulk.llama_vocab_n_tokens(self._vocab)
        self.bos_token: int | None = self._token_or_none(bulk.llama_vocab_bos(self._vocab))
        self.eos_token: int | None = self._token_or_none(bulk.llama_vocab_eos(self._vocab))
        self.add_bos: bool = bulk.llama_vocab_get_add_bos(self._vocab)
        self.add_eos: bool = bulk.llama_vocab_get_add_eos(self._vocab)

    @property
    def eog_tokens(self) -> frozenset[int]:
        """Ids of the tokens that end a generation."""
        return self._eog_tokens

    @cached_property
    def _eog_tokens(self) -> frozenset[int]:
        # Asking for every token of a large vocabulary takes a tenth of a second. So ask only for the tokens that the
        # file names, and for control tokens: llama.cpp makes those that it recognises by their text control tokens.
        bulk, is_eog, vocab = self._library.bulk, self._library.tiny.llama_vocab_is_eog, self._vocab
        finders = ("eos", "eot", "fim_pad", "fim_rep", "fim_sep")
        with self._in_use():
            named = {int(getattr(bulk, f"llama_vocab_{name}")(vocab)) for name in finders}
            named.add(int(self.metadata.get("tokenizer.ggml.eom_token_id", -1)))
            candidates = {token for token in named if 0 <= token < self.n_vocab} | self._special_tokens.keys()
            return frozenset(token for token in candidates if is_eog(vocab, token))

    @property
    def special_texts(self) -> tuple[str, ...]:
        """Texts of the special tokens, in order of their ids. Text becomes such a token only with `parse_special`."""
        return tuple(self._special_tokens.values())

    @property
    def special_tokens(self) -> Mapping[int, str]:
        """Texts of the special tokens by id, in order of the ids."""
        return self._special_tokens

    @cached_property
    def _special_tokens(self) -> dict[int, str]:
        tiny, vocab = self._library.tiny, self._vocab
        attributes, text = tiny.llama_vocab_get_attr, tiny.llama_vocab_get_text
        with self._in_use():
            return {
                token: text(vocab, token).decode("utf-8", "replace")
                for token in range(self.n_vocab)
                if attributes(vocab, token) & _CONTROL
            }

    @property
    def bos_text(self) -> str:
        """Text of `bos_token`, as chat templates write it; empty if the model has none."""
        return self._text(self.bos_token)

    @property
    def eos_text(self) -> str:
        """Text of `eos_token`, as chat templates write it; empty if the model has none."""
        return self._text(self.eos_token)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Returns the tokens of a text.

        Args:
            text: any text that UTF-8 can encode, without a NUL.
            add_special: add BOS and EOS if the model expects them.
            parse_special: turn the texts of special tokens into these tokens; never for a user's words.

        Raises:
            InvalidRequestError: a lone surrogate or a NUL in the text.
            EngineClosedError: the model was closed.
        """
        encoded = _encoded(text)
        # Each token stands for at least one byte, except BOS, EOS and a leading space that some models add.
        size = len(encoded) + 8
        with self._in_use():
            while True:
                tokens = (ctypes.c_int32 * size)()
                count: int = self._library.bulk.llama_tokenize(
                    self._vocab, encoded, len(encoded), tokens, size, add_special, parse_special
                )
                if count >= 0:
                    return tokens[:count]
                if count == _TOO_MANY:
                    raise InvalidRequestError("text", text, "text of fewer than 2**31 tokens")
                size = -count

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> bytes:
        """Returns the text of some tokens as bytes, which may begin or end inside a character.

        Args:
            tokens: ids.
            special: include the text of special tokens.

        Raises:
            InvalidRequestError: an id that the model does not have.
            EngineClosedError: the model was closed.
        """
        self.check_tokens(tokens)
        ids = (ctypes.c_int32 * len(tokens))(*tokens)
        size = 8 * len(tokens) + 64
        with self._in_use():
            while True:
                buffer = ctypes.create_string_buffer(size)
                count: int = self._library.bulk.llama_detokenize(
                    self._vocab, ids, len(tokens), buffer, size, False, special
                )
                if count >= 0:
                    return buffer.raw[:count]
                size = -count

    def piece(self, token: int) -> bytes:
        """Returns the bytes of one token; empty for a special token.

        Raises:
            InvalidRequestError: an id that the model does not have.
            EngineClosedError: the model was closed.
        """
        piece = self._pieces.get(token)
        if piece is None:
            self.check_tokens((token,))
            with self._in_use():
                piece = self._pieces[token] = read_bytes(
                    lambda buffer, size: self._library.tiny.llama_token_to_piece(
                        self._vocab, token, buffer, size, 0, False
                    )
                )
        return piece

    @property
    def longest_piece(self) -> int:
        """Bytes of the longest token. The first access looks at every token."""
        if self._longest_piece is None:
            self._longest_piece = max(len(self.piece(token)) for token in range(self.n_vocab))
        return self._longest_piece

    def check_tokens(self, tokens: Sequence[int]) -> None:
        """Raise InvalidRequestError if a token is no id of this vocabulary: llama.cpp may end the process at one."""
        for index, token in enumerate(tokens):
            # numpy's integers are no ints but have __index__; a bool is an int, but a mistake.
            if isinstance(token, bool) or not hasattr(token, "__index__") or not 0 <= token < self.n_vocab:
                raise InvalidRequestError(f"prompt[{index}]", token, f"a token id, 0 to {self.n_vocab - 1}")

    def _token_or_none(self, token: int) -> int | None:
        return token if 0 <= token < self.n_vocab else None

    def _text(self, token: int | None) -> str:
        if token is None:
            return ""
        with self._in_use():
            return self._library.tiny.llama_vocab_get_text(self._vocab, token).decode("utf-8", "replace")


def _encoded(text: str) -> bytes:
    if "\0" in text:
        raise InvalidRequestError("text", text, "text without NUL characters")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        allowed = f"text without lone surrogates; there is one at character {error.start}"
        raise InvalidRequestError("text", text, allowed) from None
