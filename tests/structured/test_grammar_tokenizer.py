"""Text that a grammar forces is written in the tokens that the model itself would write."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
import pytest
from harness import BYTES, ids, within

from headrace.engine.scripted import ScriptedVocabulary
from headrace.llama.model import LlamaModel
from headrace.store import resolve
from headrace.structured.compiler import Grammars
from structured.suite.walk import accepts, grammars

GRAMMARS = grammars()


class Blanks(ScriptedVocabulary):
    """Puts a blank before any text, as some models do."""

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        return super().tokenize(f" {text}", add_special=add_special, parse_special=parse_special)


@pytest.mark.parametrize("kind", [ScriptedVocabulary, Blanks])
def test_where_there_is_no_choice_the_models_own_tokens_are_taken(kind: type[ScriptedVocabulary]) -> None:
    pieces = BYTES | {300: b"hello", 301: b" hello", 302: b"hell", 303: b"o w"}
    matcher = Grammars.of(kind(pieces)).regex("hello world").start()
    assert np.flatnonzero(matcher.allowed()).tolist() == [300]


def test_a_forced_nul_is_spelt() -> None:
    assert accepts(GRAMMARS.regex("a\\x00b"), "a\0b")


def test_a_vocabulary_without_an_end() -> None:
    class Endless(ScriptedVocabulary):
        eog_tokens = frozenset[int]()
        special_tokens = MappingProxyType[int, str]({})

    matcher = Grammars.of(Endless(BYTES)).regex("a").start()
    matcher.accept(ids("a")[0])
    assert matcher.is_stopped
    assert matcher.allowed().shape == (257,)
    assert not matcher.allowed().any()


def test_a_real_model_writes_by_its_own_tokens() -> None:
    with within(LlamaModel.load, resolve("smollm2").path) as model:
        made = Grammars.of(model)
        text = '{"name": "Zoë 😀", "n": [1, 2.5]}'
        matcher = made.json_schema({"type": "object"}).start()
        for token in model.tokenize(text, add_special=False, parse_special=False):
            allowed = matcher.allowed()
            assert allowed.shape == (model.n_vocab,)
            assert allowed[token]
            assert not allowed[sorted(model.eog_tokens)].any()
            matcher.accept(token)
        assert set(np.flatnonzero(matcher.allowed()).tolist()) == model.eog_tokens
        # Control tokens are no text, not even where any text may come.
        anything = made.regex("(?s).*").start().allowed()
        control = [token for token in model.special_tokens if token not in model.eog_tokens]
        assert control
        assert not anything[control].any()
        assert all(model.piece(int(token)) for token in np.flatnonzero(anything) if token not in model.eog_tokens)
