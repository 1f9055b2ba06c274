"""A GGUF file as a model: its weights, its vocabulary and what it says about itself."""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from headrace.llama.kv_types import KV_TYPES, checked_kv_type
from headrace.llama.library import Library, library, log
from headrace.values.errors import EngineClosedError, InvalidRequestError, ModelLoadError, ModelNotFoundError

__all__ = ["LlamaModel"]

_MAGIC = b"GGUF"
_NO_TOKENIZER = 0  # LLAMA_VOCAB_TYPE_NONE
_HIDDEN = (1 << 0) | (1 << 3)  # LLAMA_TOKEN_ATTR_UNKNOWN | LLAMA_TOKEN_ATTR_CONTROL
_NUM_SAMPLES, _SAMPLE_BYTES = 64, 4096
_TOO_MANY = -(2**31)  # llama_tokenize: the number of tokens does not fit its result


class LlamaModel:
    """A loaded model. Every method may be called from any thread.

    Close it when done; weights that something still uses (a context, a call on another thread) are freed when that
    is done too. After `close` every call raises EngineClosedError.

    Attributes:
        path: the file.
        n_vocab: size of the vocabulary, in tokens.
        n_ctx_train: the longest sequence the model was trained for, in tokens.
        n_layer: layers.
        n_gpu_layers: layers asked to be put on a GPU.
        description: architecture, size and quantisation, as llama.cpp words it.
        size_bytes: size of all tensors.
        bos_token: id of the token that begins a text, or None.
        eos_token: id of the token that ends a text, or None.
        add_bos: whether the model expects the first before a text.
        add_eos: whether the model expects the second after a text.
        is_recurrent: whether it keeps a state instead of a KV cache.
        is_hybrid: whether it keeps both.
        has_encoder: whether it needs an encoder pass (such a model is refused by `load`).
        has_decoder: whether it can generate (a model that cannot is refused by `load`).
    """

    def __init__(self, path: Path, handle: int, n_gpu_layers: int) -> None:
        """Takes over a handle of llama_model_load_from_file; use `load`."""
        self._library: Library = library()
        bulk = self._library.bulk
        self._handle = handle
        self._vocab: int = bulk.llama_model_get_vocab(handle)
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._users = 0
        self._closed = False
        self._pieces: dict[int, bytes] = {}
        self._longest_piece: int | None = None

        self.path = path
        self.n_gpu_layers = n_gpu_layers
        self.n_vocab: int = bulk.llama_vocab_n_tokens(self._vocab)
        self.n_ctx_train: int = bulk.llama_model_n_ctx_train(handle)
        self.n_layer: int = bulk.llama_model_n_layer(handle)
        self.description: str = _string(bulk.llama_model_desc, handle)
        self.size_bytes: int = bulk.llama_model_size(handle)
        self.bos_token: int | None = self._token_or_none(bulk.llama_vocab_bos(self._vocab))
        self.eos_token: int | None = self._token_or_none(bulk.llama_vocab_eos(self._vocab))
        self.add_bos: bool = bulk.llama_vocab_get_add_bos(self._vocab)
        self.add_eos: bool = bulk.llama_vocab_get_add_eos(self._vocab)
        self.is_recurrent: bool = bulk.llama_model_is_recurrent(handle)
        self.is_hybrid: bool = bulk.llama_model_is_hybrid(handle)
        self.has_encoder: bool = bulk.llama_model_has_encoder(handle)
        self.has_decoder: bool = bulk.llama_model_has_decoder(handle)

    @classmethod
    def load(cls, path: Path, *, n_gpu_layers: int = 0, progress: Callable[[float], None] | None = None) -> LlamaModel:
        """Loads a file.

        Args:
            path: a `.gguf` file, or the first one of a split model.
            n_gpu_layers: how many layers to put on a GPU, where llama.cpp was built for one; negative for all.
            progress: called with 0.0 to 1.0 while the weights load, from another thread; what it raises ends the load
                and is raised here.

        Raises:
            ModelNotFoundError: no such file.
            ModelLoadError: the file is not a complete GGUF, or not of a model that can generate text.
        """
        _check_file(path)
        # Python delivers Ctrl-C in whatever the main thread runs next. In a callback from C it would be lost, so the
        # main thread waits outside.
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
            raise ModelLoadError(f"{path} holds no tokenizer, so it cannot turn text into tokens")
        model = cls(path, handle, n_gpu_layers)
        if obstacle := model._obstacle():
            model.close()
            raise ModelLoadError(f"{path} ({model.description}) cannot generate text: {obstacle}")
        return model

    @cached_property
    def metadata(self) -> dict[str, str]:
        """The scalar values of the file's header; those of arrays as llama.cpp prints them."""
        bulk = self._library.bulk
        with self._in_use() as handle:
            return {
                _string(bulk.llama_model_meta_key_by_index, handle, index): _string(
                    bulk.llama_model_meta_val_str_by_index, handle, index
                )
                for index in range(bulk.llama_model_meta_count(handle))
            }

    def kv_bytes_per_token(self, kv_type: str = "f16") -> int:
        """An estimate of the KV cache's size, in bytes per token over all layers.

        Args:
            kv_type: the precision of keys and values.

        Raises:
            InvalidRequestError: there is no such precision.
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

    @property
    def fingerprint(self) -> str:
        """What tells this model from others: a hash of its header's values, its sizes, and samples of its bytes.

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
    def eog_tokens(self) -> frozenset[int]:
        """Ids of the tokens that end a generation."""
        return self._eog_tokens

    @cached_property
    def _eog_tokens(self) -> frozenset[int]:
        # To ask of each token of a large vocabulary takes a tenth of a second. Those that llama.cpp knows by their text
        # it makes control tokens; the others are named by the file.
        bulk, is_eog, vocab = self._library.bulk, self._library.tiny.llama_vocab_is_eog, self._vocab
        finders = ("eos", "eot", "fim_pad", "fim_rep", "fim_sep")
        with self._in_use():
            named = {int(getattr(bulk, f"llama_vocab_{name}")(vocab)) for name in finders}
            named.add(int(self.metadata.get("tokenizer.ggml.eom_token_id", -1)))
            candidates = {token for token in named if 0 <= token < self.n_vocab} | self._special_tokens.keys()
            return frozenset(token for token in candidates if is_eog(vocab, token))

    @property
    def special_texts(self) -> tuple[str, ...]:
        """Texts of the tokens that llama.cpp makes of text only where `parse_special` is set, in order of their ids."""
        return tuple(self._special_tokens.values())

    @property
    def special_tokens(self) -> Mapping[int, str]:
        """Those texts by id, in order of the ids."""
        return self._special_tokens

    @cached_property
    def _special_tokens(self) -> dict[int, str]:
        tiny, vocab = self._library.tiny, self._vocab
        attributes, text = tiny.llama_vocab_get_attr, tiny.llama_vocab_get_text
        with self._in_use():
            return {
                token: text(vocab, token).decode("utf-8", "replace")
                for token in range(self.n_vocab)
                if attributes(vocab, token) & _HIDDEN
            }

    @property
    def bos_text(self) -> str:
        """Text of `bos_token`, as templates write it; empty where there is none."""
        return self._text(self.bos_token)

    @property
    def eos_text(self) -> str:
        """Text of `eos_token`, as templates write it; empty where there is none."""
        return self._text(self.eos_token)

    @property
    def chat_template(self) -> str | None:
        """The model's own chat template, in Jinja, or None."""
        return self.chat_template_named(None)

    def chat_template_named(self, name: str | None) -> str | None:
        """One of the model's chat templates ("tool_use", for example), the default one for None; None if absent."""
        encoded = None if name is None else name.encode()
        with self._in_use() as handle:
            template: bytes | None = self._library.tiny.llama_model_chat_template(handle, encoded)
        return None if template is None else template.decode("utf-8", "replace")

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """The tokens of a text.

        Args:
            text: any text that UTF-8 can encode, without a NUL.
            add_special: add BOS and EOS where the model expects them.
            parse_special: turn the texts of special tokens into these tokens; never for a user's words.

        Raises:
            InvalidRequestError: a lone surrogate or a NUL in the text.
            EngineClosedError: the model was closed.
        """
        encoded = _encoded(text)
        # No token is shorter than a byte, but for BOS, EOS and a leading space that some models add.
        size = len(encoded) + 8
        with self._in_use():
            while True:
                tokens = (ctypes.c_int32 * size)()
                count: int = self._library.bulk.llama_tokenize(
                    self._vocab, encoded, len(encoded), tokens, size, add_special, parse_special
                )
                if count >= 0:
                    return tokens[:count]
                if count == _TOO_MANY:
                    raise InvalidRequestError("text", text, "text of fewer than 2**31 tokens")
                size = -count

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> bytes:
        """The text of some tokens, in bytes, which may begin or end inside a character.

        Args:
            tokens: ids.
            special: whether special tokens show.

        Raises:
            InvalidRequestError: an id that the model does not have.
            EngineClosedError: the model was closed.
        """
        self.check_tokens(tokens)
        ids = (ctypes.c_int32 * len(tokens))(*tokens)
        size = 8 * len(tokens) + 64
        with self._in_use():
            while True:
                buffer = ctypes.create_string_buffer(size)
                count: int = self._library.bulk.llama_detokenize(
                    self._vocab, ids, len(tokens), buffer, size, False, special
                )
                if count >= 0:
                    return buffer.raw[:count]
                size = -count

    def piece(self, token: int) -> bytes:
        """The bytes of one token; none for a special one.

        Raises:
            InvalidRequestError: an id that the model does not have.
            EngineClosedError: the model was closed.
        """
        piece = self._pieces.get(token)
        if piece is None:
            self.check_tokens((token,))
            with self._in_use():
                piece = self._pieces[token] = _bytes(
                    lambda buffer, size: self._library.tiny.llama_token_to_piece(
                        self._vocab, token, buffer, size, 0, False
                    )
                )
        return piece

    @property
    def longest_piece(self) -> int:
        """Bytes of the longest token; the first time, this looks at all of them."""
        if self._longest_piece is None:
            self._longest_piece = max(len(self.piece(token)) for token in range(self.n_vocab))
        return self._longest_piece

    def check_tokens(self, tokens: Sequence[int]) -> None:
        """Raises InvalidRequestError, naming the first offender, if one of them is not an id of this vocabulary.

        llama.cpp ends the process at some of these.
        """
        for index, token in enumerate(tokens):
            # numpy's integers are not ints, but indices; a bool is an int, but a mistake.
            if isinstance(token, bool) or not hasattr(token, "__index__") or not 0 <= token < self.n_vocab:
                raise InvalidRequestError(f"prompt[{index}]", token, f"a token id, 0 to {self.n_vocab - 1}")

    def retain(self) -> int:
        """The handle, for a user that calls `release` when done: until then the weights stay, closed or not.

        Raises:
            EngineClosedError: the model was closed.
        """
        with self._lock:
            if self._closed:
                raise EngineClosedError(f"the model {self.path.name} was closed")
            self._users += 1
            return self._handle

    def release(self) -> None:
        """Ends one `retain`."""
        with self._lock:
            self._users -= 1
            self._free_if_unused()

    def close(self) -> None:
        """Refuses calls from now on, and frees the weights once nothing uses them. May be called again."""
        if os.getpid() != self._pid:
            # In a forked child the weights and the lock's state are the parent's: to free the one could wait for
            # threads that the child lacks, to take the other for ever.
            self._closed = True
            return
        with self._lock:
            if not self._closed:
                self._closed = True
                self._free_if_unused()

    def __enter__(self) -> LlamaModel:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # When the interpreter ends, modules are gone already, and the process gives everything back by itself.
        if hasattr(self, "_closed") and not is_finalizing():
            self.close()

    @contextmanager
    def _in_use(self) -> Generator[int]:
        handle = self.retain()
        try:
            yield handle
        finally:
            self.release()

    def _free_if_unused(self) -> None:
        if self._closed and self._users == 0 and self._handle:
            self._library.bulk.llama_model_free(self._handle)
            self._handle = 0

    def _token_or_none(self, token: int) -> int | None:
        return token if 0 <= token < self.n_vocab else None

    def _text(self, token: int | None) -> str:
        if token is None:
            return ""
        with self._in_use():
            return self._library.tiny.llama_vocab_get_text(self._vocab, token).decode("utf-8", "replace")

    def _obstacle(self) -> str | None:
        if not self.has_decoder:
            return "it is only an encoder"
        if self.has_encoder:
            return "it needs an encoder pass, which headrace does not do"
        if self._library.bulk.llama_model_is_diffusion(self._handle):
            return "it is a diffusion model, which does not write token after token"
        architecture = self.metadata.get("general.architecture", "")
        if self.metadata.get(f"{architecture}.attention.causal") == "false":
            return "it is an embedding model"
        return None


def _check_file(path: Path) -> None:
    # llama.cpp's own words for these are about missing tensors and magic numbers.
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


def _encoded(text: str) -> bytes:
    if "\0" in text:
        raise InvalidRequestError("text", text, "text without NUL characters")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        allowed = f"text without lone surrogates; there is one at character {error.start}"
        raise InvalidRequestError("text", text, allowed) from None


def _bytes(write: Callable[[Any, int], int]) -> bytes:
    # For C functions that write into a buffer and return minus the needed size where it is too small.
    size = 64
    while True:
        buffer = ctypes.create_string_buffer(size)
        count = write(buffer, size)
        if count >= 0:
            return buffer.raw[:count]
        size = -count


def _string(function: Callable[..., int], *arguments: object) -> str:
    # For C functions like snprintf: they return the length, also where the buffer was too small; -1 is a failure.
    size = 256
    while True:
        buffer = ctypes.create_string_buffer(size)
        count = function(*arguments, buffer, size)
        if count < size:
            return buffer.raw[: max(count, 0)].decode("utf-8", "replace")
        size = count + 1
