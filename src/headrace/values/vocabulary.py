"""`TokenTable` and `Vocabulary`: the protocols of a model's tokenizer. Any thread may call any method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

__all__ = ["TokenTable", "Vocabulary"]


class TokenTable(Protocol):
    """The tokens of a model, as far as grammars need them."""

    @property
    def n_vocab(self) -> int: ...

    @property
    def eog_tokens(self) -> frozenset[int]: ...

    @property
    def special_tokens(self) -> Mapping[int, str]: ...

    def piece(self, token: int) -> bytes: ...

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]: ...


class Vocabulary(TokenTable, Protocol):
    """The whole tokenizer of a model: tokens, text, and the chat template."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def add_bos(self) -> bool: ...

    @property
    def add_eos(self) -> bool: ...

    @property
    def bos_token(self) -> int | None: ...

    @property
    def eos_token(self) -> int | None: ...

    @property
    def bos_text(self) -> str: ...

    @property
    def eos_text(self) -> str: ...

    @property
    def special_texts(self) -> tuple[str, ...]: ...

    @property
    def chat_template(self) -> str | None: ...

    @property
    def longest_piece(self) -> int: ...

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> bytes: ...

    def check_tokens(self, tokens: Sequence[int]) -> None: ...

    def close(self) -> None: ...
