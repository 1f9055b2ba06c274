"""Loading a model with llama.cpp, and closing it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from headrace.llama.context import LlamaContext
from headrace.llama.model import LlamaModel
from headrace.values.errors import EngineClosedError, ModelLoadError, ModelNotFoundError


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


def test_a_file_that_cannot_be_read(tmp_path):
    path = tmp_path / "model.gguf"
    os.mkfifo(path)
    with pytest.raises(ModelLoadError, match="is not a file"):
        LlamaModel.load(path)
