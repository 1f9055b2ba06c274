"""Writes what a grammar allows, and tells whether it allows a text; a token is a byte."""

from __future__ import annotations

import random

import numpy as np

from headrace.engine.scripted import ScriptedVocabulary
from headrace.text.grammar import Grammar, Grammars
from tests.harness import BYTES

END = 0
# What brings a text of JSON to an end, first what does so sooner. A byte's token is one more than the byte.
CLOSERS = [END, *(byte + 1 for byte in b'"]}')]
ASCII = np.array([0x20 <= byte < 0x7F for byte in range(-1, 256)])


def grammars() -> Grammars:
    """Those of a model whose tokens are bytes."""
    return Grammars.of(ScriptedVocabulary(BYTES))


def accepts(grammar: Grammar, text: str) -> bool:
    """Whether an output may be this text as a whole."""
    matcher = grammar.start()
    for byte in text.encode():
        if not matcher.allowed()[byte + 1]:
            return False
        matcher.accept(byte + 1)
    return bool(matcher.allowed()[END])


def sample(grammar: Grammar, rng: random.Random, longest: int = 3000) -> str:
    """An output by chance, which is brought to an end where that is possible, the sooner the longer it gets."""
    matcher, written = grammar.start(), bytearray()
    while len(written) < longest:
        allowed = matcher.allowed()
        closers = [token for token in CLOSERS if allowed[token]]
        if closers and rng.random() < 0.3 + len(written) / 200:
            token = closers[0]
        else:
            usual = allowed & ASCII if rng.random() < 0.95 else allowed
            token = rng.choice(np.flatnonzero(usual if usual.any() else allowed).tolist())
        if token == END:
            return written.decode()
        written.append(token - 1)
        matcher.accept(token)
    raise AssertionError(f"it does not end: {written[:100]!r}")
