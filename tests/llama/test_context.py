"""The KV cache and the decoding of batches, with llama.cpp and SmolLM2."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from headrace.llama.context import DecodeError, InterruptedDecodeError, LlamaContext, NoKVSlotError
from headrace.values.errors import EngineClosedError, InvalidRequestError, ModelLoadError
from llama.decoding import decode, greedy, prefill

PROMPT = "The capital of France is"


@pytest.mark.parametrize("name", ["n_ctx", "n_batch", "n_seq_max", "n_threads", "n_threads_batch"])
@pytest.mark.parametrize("value", [0, -1, 2**31, True, 1.5, "8"])
def test_sizes_out_of_range(model, name, value):
    sizes = {"n_ctx": 256, "n_batch": 8, "n_seq_max": 1, "n_threads": 1, name: value}
    with pytest.raises(InvalidRequestError, match=f"{name} is {value!r}; allowed: a whole number, 1 to"):
        LlamaContext(model, **sizes)


def test_a_context_larger_than_the_machine(model):
    with pytest.raises(ModelLoadError, match=r"a context of 2147483647 tokens .* needs \d+\.\d GiB"):
        LlamaContext(model, n_ctx=2**31 - 1, n_batch=8, n_seq_max=1, n_threads=1)


def test_a_context_that_llama_cpp_refuses(model, monkeypatch):
    bulk = model._library.bulk
    real = bulk.llama_init_from_model
    tried = []

    def with_too_many_sequences(handle, params):
        tried.append(params.flash_attn_type)
        params.n_seq_max = 257
        return real(handle, params)

    users = model._users
    monkeypatch.setattr(bulk, "llama_init_from_model", with_too_many_sequences)
    message = r"cannot create a context of 256 tokens in f16 for .*: .*n_seq_max must be <= 256"
    with pytest.raises(ModelLoadError, match=message):
        LlamaContext(model, n_ctx=256, n_batch=8, n_seq_max=1, n_threads=1)
    assert tried == [bulk.LLAMA_FLASH_ATTN_TYPE_ENABLED, bulk.LLAMA_FLASH_ATTN_TYPE_AUTO]
    assert model._users == users  # the failed one does not keep the weights


def test_sizes(model):
    with LlamaContext(model, n_ctx=300, n_batch=1000, n_seq_max=256, n_threads=1) as context:
        assert (context.n_ctx, context.n_batch, context.n_seq_max) == (512, 300, 256)
        assert context.tokens.shape == (300,)
        assert context.probe()


def test_greedy_is_deterministic_and_right(model, context):
    tokens = model.tokenize(PROMPT, add_special=True, parse_special=False)
    first = greedy(context, tokens, 8)
    context.clear()
    assert greedy(context, tokens, 8) == first
    assert model.detokenize(first).startswith(b" Paris.")


def test_copied_sequences_share_a_prefix(model, context):
    tokens = model.tokenize(PROMPT, add_special=True, parse_special=False)
    prefill(context, tokens)
    context.copy_sequence(0, 2, 0, len(tokens) - 2)
    assert (context.position_min(2), context.position_max(2)) == (0, len(tokens) - 3)
    whole = prefill(context, tokens, sequence=1)
    resumed = prefill(context, tokens[-2:], sequence=2, start=len(tokens) - 2)
    np.testing.assert_allclose(resumed, whole, atol=0.2)
    assert resumed.argmax() == whole.argmax()
    # and what follows in one is not seen by the other
    assert context.remove_sequence(0, 0)
    assert context.position_max(0) == -1
    assert context.position_max(2) == len(tokens) - 1


def test_rows_come_in_the_order_of_the_batch(model, context):
    texts = ["The capital of France is", "Two plus two is", "My name is"]
    prompts = [model.tokenize(text, add_special=True, parse_special=False) for text in texts]
    alone = [prefill(context, tokens, sequence) for sequence, tokens in enumerate(prompts)]
    context.clear()
    rows = [
        (token, position, sequence, position == len(prompts[sequence]) - 1)
        for sequence in (2, 0, 1)
        for position, token in enumerate(prompts[sequence])
    ]
    together = decode(context, rows)
    assert together.shape == (3, model.n_vocab)
    for row, sequence in zip(together, (2, 0, 1), strict=True):
        differences = [float(np.abs(row - other).mean()) for other in alone]
        assert int(np.argmin(differences)) == sequence
        assert min(differences) < 0.1


def test_prefill_without_logits(model, context):
    tokens = model.tokenize(PROMPT, add_special=True, parse_special=False)
    whole = prefill(context, tokens, sequence=1)
    empty = decode(context, [(token, position, 0, 0) for position, token in enumerate(tokens[:-1])])
    assert empty.shape == (0, model.n_vocab)
    last = prefill(context, tokens[-1:], start=len(tokens) - 1)
    np.testing.assert_allclose(last, whole, atol=0.2)


def test_logits_can_be_written_to(context):
    logits = decode(context, [(5, 0, 0, 1)])
    logits[0, 7] = np.inf
    assert logits[0].argmax() == 7
    again = decode(context, [(5, 1, 0, 1)])
    assert again.ctypes.data == logits.ctypes.data
    assert np.isfinite(again).all()


def test_removing_the_end_of_a_sequence(model, context):
    tokens = model.tokenize(PROMPT, add_special=True, parse_special=False)
    before = prefill(context, tokens)
    assert context.remove_sequence(0, len(tokens) - 2)
    assert context.position_max(0) == len(tokens) - 3
    again = prefill(context, tokens[-2:], start=len(tokens) - 2)
    np.testing.assert_allclose(again, before, atol=0.2)


def test_a_full_cache_changes_nothing(model, context):
    for start in range(0, context.n_ctx, context.n_batch):
        decode(context, [(5, start + i, 0, 0) for i in range(context.n_batch)])
    assert context.position_max(0) == context.n_ctx - 1
    with pytest.raises(NoKVSlotError, match="no room for 1 tokens in a KV cache of 512"):
        decode(context, [(5, 0, 1, 1)])
    assert (context.position_max(0), context.position_max(1)) == (context.n_ctx - 1, -1)
    context.remove_sequence(0, context.n_ctx - 1)
    assert decode(context, [(5, 0, 1, 1)]).shape == (1, model.n_vocab)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([(5, 7, 0, 1), (5, 9, 0, 0)], "positions"),  # a gap
        ([(49152, 0, 0, 1)], r"invalid token\[0\] = 49152"),
        ([(-1, 0, 0, 1)], "token"),
    ],
)
def test_a_batch_that_llama_cpp_refuses(context, rows, words):
    with pytest.raises(DecodeError, match=f"llama_decode returned -1: .*{words}") as caught:
        decode(context, rows)
    assert caught.value.code == -1
    assert decode(context, [(5, 0, 1, 1)]).shape[0] == 1


@pytest.mark.parametrize(
    ("row", "n_tokens", "n_outputs", "words"),
    [
        ((5, 0, 0, 1), 0, 0, "n_tokens is 0; allowed: 1 to 64"),
        ((5, 0, 0, 1), 65, 1, "n_tokens is 65; allowed: 1 to 64"),
        ((5, 0, 4, 1), 1, 1, "sequence id"),
        ((5, 0, -1, 1), 1, 1, "sequence id"),
        ((5, -1, 0, 1), 1, 1, "negative"),
        ((5, 0, 0, 1), 1, 0, "n_outputs is 0 and 1 rows are marked"),
        ((5, 0, 0, 0), 1, 1, "n_outputs is 1 and 0 rows are marked"),
    ],
)
def test_batches_that_would_end_the_process(context, row, n_tokens, n_outputs, words):
    columns = (context.tokens, context.positions, context.sequences, context.outputs)
    for column, value in zip(columns, row, strict=True):
        column[:] = 0
        column[0] = value
    with pytest.raises(ValueError, match=words):
        context.decode(n_tokens, n_outputs)


def test_more_outputs_than_rows_of_logits(context):
    with pytest.raises(ValueError, match="n_outputs is 5 and 5 rows are marked; both must be equal, at most 4"):
        decode(context, [(5, i, 0, 1) for i in range(5)])


@pytest.mark.parametrize("sequence", [-1, 4])
def test_sequences_out_of_range(context, sequence):
    calls = [
        lambda: context.copy_sequence(sequence, 0, 0, -1),
        lambda: context.copy_sequence(0, sequence, 0, -1),
        lambda: context.remove_sequence(sequence, 0),
        lambda: context.position_max(sequence),
        lambda: context.position_min(sequence),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=f"the sequence id is {sequence}; allowed: 0 to 3"):
            call()


def test_probe_finds_that_an_end_can_be_dropped(context):
    assert context.probe()
    assert context.can_drop_partial
    assert [context.position_max(sequence) for sequence in range(4)] == [-1] * 4


def test_threads_can_be_changed(model, context):
    tokens = model.tokenize(PROMPT, add_special=True, parse_special=False)
    one = prefill(context, tokens)
    context.set_threads(2, 2)
    two = prefill(context, tokens, sequence=1)
    context.set_threads(1, 1)
    np.testing.assert_allclose(one, two, atol=0.2)
    with pytest.raises(InvalidRequestError, match="n_threads is 0"):
        context.set_threads(0, 1)


def test_a_decode_is_interrupted(model):
    """From another thread, and nothing of it stays that counts afterwards."""
    beginning, tokens = list(range(100, 120)), list(range(200, 456))
    with LlamaContext(model, n_ctx=512, n_batch=256, n_seq_max=1, n_threads=1) as context:
        expected = prefill(context, beginning + tokens[:4])
        context.clear()
        context.interrupt()  # before it: none of it
        prefill(context, beginning)
        is_over = threading.Event()

        def interrupt():
            while not is_over.wait(0.001):
                context.interrupt()

        with ThreadPoolExecutor() as pool:
            pool.submit(interrupt)
            with pytest.raises(InterruptedDecodeError):
                prefill(context, tokens, start=len(beginning))
            is_over.set()
        context.remove_sequence(0, len(beginning))
        assert context.position_max(0) == len(beginning) - 1
        np.testing.assert_allclose(prefill(context, tokens[:4], start=len(beginning)), expected, atol=0.2)


def test_a_closed_context(model):
    context = LlamaContext(model, n_ctx=256, n_batch=8, n_seq_max=1, n_threads=1)
    context.close()
    context.close()
    calls = [
        lambda: context.decode(1, 0),
        lambda: context.clear(),
        lambda: context.copy_sequence(0, 0, 0, -1),
        lambda: context.remove_sequence(0, 0),
        lambda: context.position_max(0),
        lambda: context.position_min(0),
        lambda: context.set_threads(1, 1),
        lambda: context.probe(),
    ]
    for call in calls:
        with pytest.raises(EngineClosedError, match="the context was closed"):
            call()


def test_contexts_left_open_are_freed(model):
    users = model._users
    context = LlamaContext(model, n_ctx=256, n_batch=8, n_seq_max=1, n_threads=1)
    assert model._users == users + 1
    del context
    assert model._users == users
