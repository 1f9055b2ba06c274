"""From text to tokens and back, with the vocabulary of SmolLM2."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.values.errors import InvalidRequestError

PROMPT = "The capital of France is"


def test_special_texts_are_those_that_only_parse_special_makes(model):
    assert {"<|im_start|>", "<|im_end|>", "<|endoftext|>"} <= set(model.special_texts)
    for text in model.special_texts:
        assert len(model.tokenize(text, add_special=False, parse_special=True)) == 1
        assert len(model.tokenize(text, add_special=False, parse_special=False)) > 1


def test_bos_only_where_the_model_wants_one(model):
    plain = model.tokenize(PROMPT, add_special=False, parse_special=False)
    with_special = model.tokenize(PROMPT, add_special=True, parse_special=False)
    assert with_special == ([model.bos_token] if model.add_bos else []) + plain


# SmolLM2 has no tokens for some control characters, nor for the bytes that only unassigned characters begin with.
@given(st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn", "Co"], include_characters="\n\t"), max_size=60))
@settings(deadline=None)
def test_tokens_and_back(model, text):
    tokens = model.tokenize(text, add_special=False, parse_special=False)
    assert model.detokenize(tokens) == text.encode()
    assert b"".join(map(model.piece, tokens)) == text.encode()


def test_more_tokens_than_bytes_are_asked_for_again(model, monkeypatch):
    calls = []
    real = model._library.bulk.llama_tokenize

    def stingy(vocab, text, length, tokens, size, *flags):
        calls.append(size)
        return real(vocab, text, length, tokens, 3 if len(calls) == 1 else size, *flags)

    monkeypatch.setattr(model._library.bulk, "llama_tokenize", stingy)
    ten = "one two three four five six seven eight nine ten"
    assert model.detokenize(model.tokenize(ten, add_special=False, parse_special=False)) == ten.encode()
    assert calls == [len(ten) + 8, 10]


@pytest.mark.parametrize(("text", "words"), [("a\0b", "NUL"), ("a\ud800b", "surrogate at character 1|character 1")])
def test_text_that_cannot_be_tokenized(model, text, words):
    with pytest.raises(InvalidRequestError, match=words) as caught:
        model.tokenize(text, add_special=True, parse_special=False)
    assert caught.value.field == "text"


def test_special_tokens_have_no_text(model):
    tokens = [1, *model.tokenize("hi", add_special=False, parse_special=False), 2]
    assert [model.piece(1), model.piece(2)] == [b"", b""]
    assert model.detokenize(tokens) == b"hi"
    assert model.detokenize(tokens, special=True) == b"<|im_start|>hi<|im_end|>"
    assert model.detokenize([]) == b""


@pytest.mark.parametrize("bad", [-1, 49152, 2**40, True, 1.0, "1", None])
def test_ids_that_are_no_tokens(model, bad):
    for call in (lambda: model.check_tokens([5, bad]), lambda: model.detokenize([5, bad])):
        with pytest.raises(InvalidRequestError, match=r"prompt\[1\] is .*; allowed: a token id, 0 to 49151"):
            call()
    if bad != 1:  # a dictionary cannot tell True and 1.0 from 1, which has been looked up before
        with pytest.raises(InvalidRequestError):
            model.piece(bad)
    model.check_tokens([0, 49151, np.int32(3)])


def test_threads_tokenize_at_once(model):
    texts = [f"{number} bottles of beer on the wall, " * 50 for number in range(40)]

    def encode(text):
        return model.tokenize(text, add_special=True, parse_special=True)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(encode, texts)) == [encode(text) for text in texts]
