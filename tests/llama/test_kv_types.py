"""The precisions of the KV cache, with llama.cpp and SmolLM2."""

from __future__ import annotations

import pytest

from headrace.llama.context import LlamaContext
from headrace.llama.kv_types import KV_TYPES
from headrace.values.errors import InvalidRequestError, ModelLoadError
from llama.decoding import prefill

PROMPT = "The capital of France is"


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_every_kv_type_writes_sense(model, kv_type):
    expected = model.tokenize(" Paris", add_special=False, parse_special=False)[0]
    prompt = model.tokenize(PROMPT, add_special=True, parse_special=False)
    with LlamaContext(model, n_ctx=256, n_batch=64, n_seq_max=2, n_threads=1, kv_type=kv_type) as context:
        context.probe()
        assert context.can_drop_partial
        assert context.kv_type == kv_type
        assert int(prefill(context, prompt).argmax()) == expected


@pytest.mark.parametrize(("kv_type", "bits"), [("f32", 32), ("f16", 16), ("bf16", 16), ("q8_0", 8.5), ("q4_0", 4.5)])
def test_the_size_of_the_kv_cache_follows_its_type(model, kv_type, bits):
    assert model.kv_bytes_per_token(kv_type) == model.kv_bytes_per_token() * bits / 16


def test_a_smaller_kv_type_fits_where_a_larger_one_does_not(model, monkeypatch):
    sizes = {"SC_PHYS_PAGES": model.kv_bytes_per_token("q8_0") * 2048 // 4096, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr("os.sysconf", sizes.__getitem__)
    with pytest.raises(ModelLoadError, match="2048 tokens in f16"):
        LlamaContext(model, n_ctx=2048, n_batch=64, n_seq_max=2, n_threads=1)
    LlamaContext(model, n_ctx=1024, n_batch=64, n_seq_max=2, n_threads=1, kv_type="q8_0").close()


@pytest.mark.parametrize("value", ["f8", "F16", "", None, 1, ["f16"]])
def test_a_kv_type_that_is_none(model, value):
    with pytest.raises(InvalidRequestError, match=r"kv_type is .*; allowed: one of f32, f16") as caught:
        LlamaContext(model, n_ctx=256, n_batch=64, n_seq_max=2, n_threads=1, kv_type=value)
    assert caught.value.field == "kv_type"
