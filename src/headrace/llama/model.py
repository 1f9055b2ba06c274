"""`LlamaModel`: a GGUF file that was loaded: its sizes, its metadata and, inherited, its vocabulary."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

from headrace.llama.buffers import read_string
from headrace.llama.kv_types import KV_TYPES, checked_kv_type
from headrace.llama.library import library, log
from headrace.llama.vocabulary import LlamaVocabulary
from headrace.values.errors import ModelLoadError, ModelNotFoundError

__all__ = ["LlamaModel"]

_MAGIC = b"GGUF"
_NO_TOKENIZER = 0  # LLAMA_VOCAB_TYPE_NONE
# Besides keys and values llama.cpp keeps, for each cell, a position, a shift, an extension and a set of 256 sequences.
_CELL_BYTES = 64
_NUM_SAMPLES, _SAMPLE_BYTES = 64, 4096  # of the file, for its fingerprint


class LlamaModel(LlamaVocabulary):
    """A loaded model. Every method may be called from any thread.

    Close it when done: the weights are freed as soon as no context and no running call uses them. After `close` every
    call raises EngineClosedError.

    Attributes:
        path: the file.
        n_ctx_train: the longest sequence that the model was trained for, in tokens.
        n_layer: number of layers.
        n_gpu_layers: number of layers that were requested on a GPU.
        description: architecture, size and quantisation, in llama.cpp's words.
        size_bytes: size of all tensors.
        is_recurrent: whether the model keeps a recurrent state instead of a KV cache.
        is_hybrid: whether the model keeps both.
        has_encoder: whether the model needs an encoder pass; `load` refuses such a model.
        has_decoder: whether the model can generate; `load` refuses a model that cannot.
    """

    def __init__(self, path: Path, handle: int, n_gpu_layers: int) -> None:
        """Takes over a pointer from llama_model_load_from_file; use `load` instead."""
        super().__init__(path, handle)
        bulk = self._library.bulk
        self.n_gpu_layers = n_gpu_layers
        self.n_ctx_train: int = bulk.llama_model_n_ctx_train(handle)
        self.n_layer: int = bulk.llama_model_n_layer(handle)
        self.description: str = read_string(bulk.llama_model_desc, handle)
        self.size_bytes: int = bulk.llama_model_size(handle)
        self.is_recurrent: bool = bulk.llama_model_is_recurrent(handle)
        self.is_hybrid: bool = bulk.llama_model_is_hybrid(handle)
        self.has_encoder: bool = bulk.llama_model_has_encoder(handle)
        self.has_decoder: bool = bulk.llama_model_has_decoder(handle)

    @classmethod
    def load(cls, path: Path, *, n_gpu_layers: int = 0, progress: Callable[[float], None] | None = None) -> LlamaModel:
        """Load a model file.

        Args:
            path: a `.gguf` file; of a split model, its first file.
            n_gpu_layers: number of layers to put on a GPU, if llama.cpp was built for one; negative for all.
            progress: called with 0.0 to 1.0 while the weights load, on another thread. An exception from it ends the
                load and is raised here.

        Raises:
            ModelNotFoundError: no such file.
            ModelLoadError: the file is not a complete GGUF file, or its model cannot generate text.
        """
        _check_file(path)
        # Ctrl-C is raised in whatever Python code the main thread runs next. Inside a callback from C it would be lost,
        # so a worker loads and the main thread waits.
        is_stopped = False

        def report(fraction: float) -> None:
            if is_stopped:
                raise KeyboardInterrupt
            if progress is not None:
                progress(fraction)

        with ThreadPoolExecutor(1, thread_name_prefix="headrace-load") as worker:
            loading = worker.submit(cls._load, path, n_gpu_layers, report)
            try:
                return loading.result()
            except BaseException:
                is_stopped = True
                if loading.exception() is None:
                    loading.result().close()
                raise

    @classmethod
    def _load(cls, path: Path, n_gpu_layers: int, progress: Callable[[float], None]) -> LlamaModel:
        bulk = library().bulk
        params = bulk.llama_model_default_params()
        params.n_gpu_layers = n_gpu_layers

        def on_progress(fraction: float, _user_data: object) -> bool:
            try:
                progress(fraction)
            except BaseException as error:
                log.failure = error
            return log.failure is None

        params.progress_callback = bulk.llama_progress_callback(on_progress)
        log.begin()
        handle = bulk.llama_model_load_from_file(os.fsencode(path), params)
        if log.failure is not None:
            if handle:
                bulk.llama_model_free(handle)
            raise log.failure
        if not handle:
            raise ModelLoadError(f"{path} cannot be loaded: {log.reason()}")
        if bulk.llama_vocab_type(bulk.llama_model_get_vocab(handle)) == _NO_TOKENIZER:
            bulk.llama_model_free(handle)
            raise ModelLoadError(f"{path} contains no tokenizer, so headrace cannot turn text into tokens for it")
        model = cls(path, handle, n_gpu_layers)
        if reason := model._reason_it_cannot_generate():
            model.close()
            raise ModelLoadError(f"{path} ({model.description}) cannot generate text: {reason}")
        return model

    def kv_bytes_per_token(self, kv_type: str = "f16") -> int:
        """Returns an estimate of the KV cache's size, in bytes per token over all layers.

        Args:
            kv_type: the precision of keys and values.

        Raises:
            InvalidRequestError: unknown precision.
        """
        precision = KV_TYPES[checked_kv_type(kv_type)]
        return self._kv_values_per_token * precision.block_bytes // precision.block_size

    @cached_property
    def _kv_values_per_token(self) -> int:
        if self.is_recurrent:
            return 0
        bulk = self._library.bulk
        with self._in_use() as handle:
            n_head: int = bulk.llama_model_n_head(handle)
            n_head_kv: int = bulk.llama_model_n_head_kv(handle)
            default: int = bulk.llama_model_n_embd(handle) // max(n_head, 1)
        attention = f"{self.metadata.get('general.architecture', '')}.attention"
        key, value = (int(self.metadata.get(f"{attention}.{name}_length", default)) for name in ("key", "value"))
        return self.n_layer * n_head_kv * (key + value)

    def check_memory(self, n_ctx: int, kv_type: str) -> None:
        """Raise ModelLoadError if a KV cache of `n_ctx` tokens needs more memory than this machine has.

        Linux grants more memory than it has, and kills the process that uses it.
        """
        if self.n_gpu_layers != 0 or not hasattr(os, "sysconf"):
            return
        needed = n_ctx * (self.kv_bytes_per_token(kv_type) + _CELL_BYTES)
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if needed > available:
            raise ModelLoadError(
                f"a context of {n_ctx} tokens in {kv_type} for {self.path} needs {needed / 2**30:.1f} GiB, and this "
                f"machine has {available / 2**30:.1f} GiB; load the model with a smaller n_ctx"
            )

    @property
    def fingerprint(self) -> str:
        """A hash that identifies the model: of its metadata, its sizes, and 64 samples of its bytes.

        Raises:
            ModelLoadError: the file can no longer be read.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        try:
            with self.path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                samples: list[bytes] = []
                for number in range(_NUM_SAMPLES):
                    file.seek(size * number // _NUM_SAMPLES)
                    samples.append(file.read(_SAMPLE_BYTES))
        except OSError as error:
            raise ModelLoadError(f"{self.path} can no longer be read: {error.strerror or error}") from error
        described = repr((size, self.size_bytes, self.n_vocab, sorted(self.metadata.items())))
        return hashlib.sha256(b"".join((described.encode(), *samples))).hexdigest()

    @property
    def chat_template(self) -> str | None:
        """The model's default chat template, in Jinja; None if it has none."""
        return self.chat_template_named(None)

    def chat_template_named(self, name: str | None) -> str | None:
        """Returns a chat template by name, such as "tool_use"; None names the default one. Returns None if absent."""
        encoded = None if name is None else name.encode()
        with self._in_use() as handle:
            template: bytes | None = self._library.tiny.llama_model_chat_template(handle, encoded)
        return None if template is None else template.decode("utf-8", "replace")

    def _reason_it_cannot_generate(self) -> str | None:
        if not self.has_decoder:
            return "it is only an encoder"
        if self.has_encoder:
            return "it needs an encoder pass, which headrace does not do"
        if self._library.bulk.llama_model_is_diffusion(self._handle):
            return "it is a diffusion model, which does not generate token by token"
        architecture = self.metadata.get("general.architecture", "")
        if self.metadata.get(f"{architecture}.attention.causal") == "false":
            return "it is an embedding model"
        return None


def _check_file(path: Path) -> None:
    # llama.cpp reports these cases as missing tensors or wrong magic numbers.
    try:
        if path.is_dir():
            raise ModelLoadError(f"{path} is a directory; give the .gguf file in it")
        if not path.exists():
            raise ModelNotFoundError(f"there is no file {path}")
        if not path.is_file():
            raise ModelLoadError(f"{path} is not a file, but a pipe, a socket or a device")
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
    except OSError as error:
        raise ModelLoadError(f"{path} cannot be read: {error.strerror or error}") from error
    if not magic:
        raise ModelLoadError(f"{path} is empty; it may be a download that failed")
    if magic != _MAGIC:
        raise ModelLoadError(f"{path} is not a GGUF file: it starts with {magic!r}, not with {_MAGIC!r}")
