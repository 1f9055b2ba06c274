"""Writes what a grammar allows, and tells whether it allows a text; a token is a byte."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from harness import BYTES

from headrace.engine.scripted import ScriptedVocabulary
from headrace.structured.compiler import Grammar, Grammars

END = 0
# What brings a text of JSON to its end, the sooner the further in front. A byte's token is one more than the byte.
CLOSERS = [END, *(byte + 1 for byte in b'"]}')]
USUAL = np.array([0x20 <= byte < 0x7F for byte in range(-1, 256)])
LONGEST = 3000  # bytes of a sample


def grammars() -> Grammars:
    """Those of a model whose tokens are bytes."""
    return Grammars.of(ScriptedVocabulary(BYTES))


def accepts(grammar: Grammar, text: str | bytes) -> bool:
    """Whether an output may be this text, as a whole."""
    matcher = grammar.start()
    for byte in text.encode() if isinstance(text, str) else text:
        if not matcher.allowed()[byte + 1]:
            return False
        matcher.accept(byte + 1)
    return bool(matcher.allowed()[END])


def sample(grammar: Grammar, rng: random.Random, words: Sequence[bytes] = ()) -> str:
    """An output by chance, the more inclined to end the longer it gets.

    Some texts are hardly ever met by chance: a word is begun now and then, and then is written as far as it may be.
    """
    matcher, written, word = grammar.start(), bytearray(), b""
    while len(written) < LONGEST:
        allowed = matcher.allowed()
        closers = [token for token in CLOSERS if allowed[token]]
        if words and not word and rng.random() < 0.1:
            word = rng.choice(words)
        if word and allowed[word[0] + 1]:
            token, word = word[0] + 1, word[1:]
        elif closers and rng.random() < min(0.8, 0.3 + len(written) / 200):
            token, word = closers[0], b""
        else:
            usual = allowed & USUAL if rng.random() < 0.95 else allowed
            token, word = rng.choice(np.flatnonzero(usual if usual.any() else allowed).tolist()), b""
        if token == END:
            return written.decode()
        written.append(token - 1)
        matcher.accept(token)
    raise AssertionError(f"it does not end: {written[:100]!r}")
