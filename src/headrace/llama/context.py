"""`LlamaContext`: the KV cache of a model and the decoding of batches, on llama.cpp's `llama_context`."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.llama.batch import MAX_INT32, Batch
from headrace.llama.kv_types import KV_TYPES, checked_kv_type
from headrace.llama.library import library, log
from headrace.llama.model import LlamaModel
from headrace.llama.state import StateError, check_state
from headrace.values.errors import EngineClosedError, InvalidRequestError, ModelLoadError

__all__ = ["DecodeError", "InterruptedDecodeError", "LlamaContext", "NoKVSlotError"]

_NO_KV_SLOT = 1
_ABORTED = 2
_MAX_SAVED = 512  # positions in one call of `save_state`


class NoKVSlotError(Exception):
    """The KV cache has no room for the batch. The context is unchanged."""


class DecodeError(Exception):
    """llama_decode failed. The caller removes the KV of the batch's tokens.

    Attributes:
        code: the return code.
    """

    def __init__(self, code: int, reason: str) -> None:
        self.code = code
        super().__init__(f"llama_decode returned {code}: {reason}")


class InterruptedDecodeError(Exception):
    """`interrupt` stopped the decode. The caller removes the KV of the batch's tokens."""


class LlamaContext:
    """A KV cache and a batch. Not thread-safe: the thread that uses it also closes it, except for `interrupt`.

    A step writes the first rows of the four arrays and calls `decode`.

    Attributes:
        n_ctx: KV cells, shared by all sequences; the requested number, rounded up to a multiple of 256.
        n_batch: the most tokens in one `decode`.
        n_seq_max: number of sequences; their ids are 0 to n_seq_max - 1.
        n_outputs_max: the most rows of logits from one `decode`.
        kv_type: the precision of keys and values.
        tokens: int32, the token id of each row.
        positions: int32, the position of each row in its sequence; positions must follow one another.
        sequences: int32, the sequence id of each row.
        outputs: int8, 1 if the row's logits are wanted, otherwise 0.
        can_drop_partial: whether the end of a sequence can be removed; False until `probe` has found out.
    """

    def __init__(
        self,
        model: LlamaModel,
        *,
        n_ctx: int,
        n_batch: int,
        n_seq_max: int,
        n_threads: int,
        n_threads_batch: int | None = None,
        kv_type: str = "f16",
        kv_unified: bool = True,
    ) -> None:
        """Allocate the KV cache and the buffers.

        Args:
            model: stays loaded as long as this context is open.
            n_ctx: tokens that the KV cache holds, of all sequences together.
            n_batch: the most tokens in one batch.
            n_seq_max: number of sequences.
            n_threads: compute threads for a batch of one token.
            n_threads_batch: compute threads for a larger batch; None for `n_threads`.
            kv_type: the precision of keys and values, one of KV_TYPES.
            kv_unified: whether all sequences share the cells. Otherwise each sequence has n_ctx / n_seq_max cells, and
                `copy_sequence` copies data.

        Raises:
            InvalidRequestError: a number out of its range.
            ModelLoadError: not enough memory, or llama.cpp cannot run the model with these settings.
            EngineClosedError: the model was closed.
        """
        self._handle = 0  # for __del__, in case a check below fails
        self._library = library()
        bulk = self._library.bulk
        _check("n_ctx", n_ctx, MAX_INT32)
        _check("n_batch", n_batch, MAX_INT32)
        _check("n_seq_max", n_seq_max, bulk.llama_max_parallel_sequences())
        _check("n_threads", n_threads, 512)
        _check("n_threads_batch", n_threads if n_threads_batch is None else n_threads_batch, 512)
        precision = KV_TYPES[checked_kv_type(kv_type)]
        model.check_memory(n_ctx, kv_type)

        params = bulk.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = params.n_ubatch = n_batch
        # A step needs one row of logits per sequence, and llama.cpp's buffer has at least n_seq_max rows. Its default,
        # n_batch rows, takes half a GiB for Gemma.
        params.n_seq_max = params.n_outputs_max = n_seq_max
        params.n_threads = n_threads
        params.n_threads_batch = n_threads if n_threads_batch is None else n_threads_batch
        params.type_k = params.type_v = precision.id
        params.kv_unified = kv_unified  # copy_sequence then changes metadata only
        params.swa_full = True  # keeps cells outside the sliding window, so that prefixes can be reused
        params.no_perf = True

        self._model = model
        model_handle = model.retain()
        try:
            log.begin()
            # Flash attention skips cells of other sequences cheaply; without it, a full cache makes a step four times
            # slower. Some backends lack it for some models, so the second try lets llama.cpp choose. Quantised values
            # need it.
            for params.flash_attn_type in (bulk.LLAMA_FLASH_ATTN_TYPE_ENABLED, bulk.LLAMA_FLASH_ATTN_TYPE_AUTO):
                self._handle: int = bulk.llama_init_from_model(model_handle, params) or 0
                if self._handle or log.failure is not None:
                    break
            if log.failure is not None:
                raise log.failure
            if not self._handle:
                raise ModelLoadError(
                    f"cannot create a context of {n_ctx} tokens in {kv_type} for {model.path}: {log.reason()}"
                )
            self._memory: int | None = bulk.llama_get_memory(self._handle)
            if not self._memory:
                raise ModelLoadError(f"{model.path} ({model.description}) cannot generate text: it keeps no KV cache")
        except BaseException:
            self._free()
            raise
        self._pid = os.getpid()
        self._window: int = bulk.llama_model_n_swa(model_handle)
        self.n_ctx: int = bulk.llama_n_ctx(self._handle)
        self.n_batch: int = bulk.llama_n_batch(self._handle)
        self.n_seq_max = n_seq_max
        self.n_outputs_max = n_seq_max
        self.kv_type = kv_type
        self.can_drop_partial = False
        # With a GPU, decode returns early and llama_synchronize waits, without the GIL. A CPU needs no waiting.
        self._synchronize: Any = bulk.llama_synchronize if bulk.llama_supports_gpu_offload() else None
        self._decode: Any = bulk.llama_decode
        self._get_logits: Any = self._library.tiny.llama_get_logits
        # The CPU backend calls the abort callback some thousand times per step, so it must not be Python. It is C's
        # strlen, of a string that is empty until `interrupt` writes to it. Other backends call none.
        self._interruption = (ctypes.c_ubyte * 2)()
        self._is_interrupted = ctypes.cast(_c_library().strlen, bulk.ggml_abort_callback)
        bulk.llama_set_abort_callback(self._handle, self._is_interrupted, self._interruption)
        self._logits_address = 0
        self._logits: list[NDArray[np.float32]] = [
            np.empty((0, model.n_vocab), np.float32)
        ]  # views of the first n rows, by n
        self._batch = Batch(self.n_batch, n_seq_max, n_seq_max)
        self.tokens = self._batch.tokens
        self.positions = self._batch.positions
        self.sequences = self._batch.sequences
        self.outputs = self._batch.outputs

    def decode(self, n_tokens: int, n_outputs: int) -> NDArray[np.float32]:
        """Compute the first rows of the batch.

        Args:
            n_tokens: number of rows.
            n_outputs: number of these rows with `outputs` set.

        Returns:
            Logits, shape (n_outputs, n_vocab), in the order of the rows. The memory is llama.cpp's: it may be written
            to, and is valid until the next `decode` or `close`.

        Raises:
            NoKVSlotError: the KV cache is full; nothing has changed.
            InterruptedDecodeError: `interrupt` was called meanwhile.
            DecodeError: llama.cpp failed.
            ValueError: a row is out of bounds; llama.cpp would end the process.
            EngineClosedError: the context was closed.
        """
        handle = self._open()
        self._batch.check(n_tokens, n_outputs)
        self._batch.struct.n_tokens = n_tokens
        self._interruption[0] = 0
        code: int = self._decode(handle, self._batch.struct)
        if code == _NO_KV_SLOT:
            log.begin()  # drops its warning, which would be quoted with a later failure
            raise NoKVSlotError(f"no room for {n_tokens} tokens in a KV cache of {self.n_ctx}")
        if code == _ABORTED:
            log.begin()
            raise InterruptedDecodeError
        if code != 0:
            raise DecodeError(code, log.reason())
        if self._synchronize is not None:
            self._synchronize(handle)
        if n_outputs:
            address: int = self._get_logits(handle)
            if address != self._logits_address:
                self._map_logits(address)
        return self._logits[n_outputs]

    def interrupt(self) -> None:
        """Make the running `decode` fail soon; works on a CPU only. Any thread may call this, at any time."""
        self._interruption[0] = 1

    def copy_sequence(self, source: int, target: int, start: int, end: int) -> None:
        """Let `target` share the KV of positions start to end - 1 of `source`; an end of -1 means all that follow.

        The target must be empty at these positions. A recurrent model copies its whole state.

        Raises:
            ValueError: a sequence id out of range.
            EngineClosedError: the context was closed.
        """
        self._open()
        self._check_sequence(source)
        self._check_sequence(target)
        self._library.tiny.llama_memory_seq_cp(self._memory, source, target, start, end)

    def remove_sequence(self, sequence: int, start: int, end: int = -1) -> bool:
        """Remove positions start to end - 1 of a sequence; False if only the whole sequence can be removed.

        Raises:
            ValueError: a sequence id out of range.
            EngineClosedError: the context was closed.
        """
        self._open()
        self._check_sequence(sequence)
        return self._library.tiny.llama_memory_seq_rm(self._memory, sequence, start, end)

    def clear(self) -> None:
        """Remove all sequences."""
        self._open()
        self._library.tiny.llama_memory_clear(self._memory, False)

    def position_max(self, sequence: int) -> int:
        """Returns the last position that a sequence holds; -1 if it is empty."""
        self._open()
        self._check_sequence(sequence)
        return self._library.tiny.llama_memory_seq_pos_max(self._memory, sequence)

    def position_min(self, sequence: int) -> int:
        """Returns the first position that a sequence holds; -1 if it is empty."""
        self._open()
        self._check_sequence(sequence)
        return self._library.tiny.llama_memory_seq_pos_min(self._memory, sequence)

    def can_reuse(self, sequence: int, length: int) -> bool:
        """Returns whether another sequence can start with the first `length` positions of this one.

        Layers with a sliding window attend to the last positions only, and llama.cpp reuses older cells. A sequence can
        then go on, but an earlier prefix of it may be incomplete.
        """
        return not self._window or 0 <= self.position_min(sequence) <= max(0, length - self._window + 1)

    @property
    def max_saved(self) -> int:
        """The most positions in one `save_state`: a few milliseconds of copying, and no more than a sliding window."""
        return min(self._window or _MAX_SAVED, _MAX_SAVED)

    def save_state(self, sequence: int, spare: int, start: int, end: int) -> bytearray | None:
        """Returns the KV of positions start to end - 1 of a sequence, in the format that `load_state` reads.

        Args:
            sequence: a sequence id.
            spare: an empty sequence to copy through; it is empty again afterwards.
            start: the first position.
            end: the position after the last; at most start + `max_saved`.

        Returns:
            The KV. None if `check_state` does not know the model's KV layout.
        """
        handle, bulk = self._open(), self._library.bulk
        self.copy_sequence(sequence, spare, start, end)
        try:
            size: int = bulk.llama_state_seq_get_size(handle, spare)
            data = bytearray(size)
            written: int = bulk.llama_state_seq_get_data(handle, _address(data), size, spare)
            check_state(data, start, end)
        except StateError:
            return None
        finally:
            self.remove_sequence(spare, 0)
        return data if written == size else None

    def load_state(self, sequence: int, spare: int, start: int, end: int, data: bytearray) -> bool:
        """Append KV from `save_state` to a sequence that holds the positions before it.

        Args:
            sequence: a sequence id.
            spare: an empty sequence to copy through; it is empty again afterwards.
            start: the first position.
            end: the position after the last.
            data: the KV.

        Returns:
            Whether the saved cells are in the order of their positions.

        Raises:
            StateError: the data is not the KV of these positions, or of another model or kv_type; nothing has changed.
        """
        handle = self._open()
        in_order = check_state(data, start, end)
        log.begin()
        try:
            if self._library.bulk.llama_state_seq_set_data(handle, _address(data), len(data), spare) != len(data):
                raise StateError(f"llama.cpp cannot read this KV: {log.reason()}")
            self.copy_sequence(spare, sequence, start, end)
        finally:
            self.remove_sequence(spare, 0)
        return in_order

    def set_threads(self, n: int, n_batch: int) -> None:
        """Set the compute threads of later decodes: `n` for a batch of one token, `n_batch` for a larger one."""
        _check("n_threads", n, 512)
        _check("n_threads_batch", n_batch, 512)
        self._library.tiny.llama_set_n_threads(self._open(), n, n_batch)

    def probe(self) -> bool:
        """Decode two tokens and try to drop the second: sets and returns `can_drop_partial`, and clears the KV cache.

        This also is the warm-up, so that the first request does not pay for it.

        Raises:
            DecodeError: llama.cpp failed.
            EngineClosedError: the context was closed.
        """
        self.clear()
        for position in range(2):
            self.tokens[0] = self._model.bos_token or 0
            self.positions[0] = position
            self.sequences[0] = 0
            self.outputs[0] = 1
            self.decode(1, 1)
        self.can_drop_partial = self.remove_sequence(0, 1) and self.position_max(0) == 0
        self.clear()
        return self.can_drop_partial

    def close(self) -> None:
        """Free the KV cache and the buffers. May be called again."""
        if self._handle and os.getpid() != self._pid:
            self._handle = 0  # a forked child: freeing could wait for threads that it lacks
        elif self._handle:
            self._free()

    def __enter__(self) -> LlamaContext:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # At interpreter exit modules are gone already, and the system frees the memory.
        if getattr(self, "_handle", 0) and not is_finalizing():
            self.close()

    def _map_logits(self, address: int) -> None:
        n_vocab = self._model.n_vocab
        rows = (ctypes.c_float * (self.n_outputs_max * n_vocab)).from_address(address)
        logits = np.ctypeslib.as_array(rows).reshape(self.n_outputs_max, n_vocab)
        self._logits = [logits[:count] for count in range(self.n_outputs_max + 1)]
        self._logits_address = address

    def _open(self) -> int:
        if not self._handle:
            raise EngineClosedError("the context was closed")
        return self._handle

    def _check_sequence(self, sequence: int) -> None:
        if not 0 <= sequence < self.n_seq_max:
            raise ValueError(f"the sequence id is {sequence}; allowed: 0 to {self.n_seq_max - 1}")

    def _free(self) -> None:
        handle, self._handle = self._handle, 0
        if handle:
            self._library.bulk.llama_free(handle)
        self._model.release()


def _address(data: bytearray) -> Any:
    return (ctypes.c_uint8 * len(data)).from_buffer(data)


def _c_library() -> ctypes.CDLL:
    return ctypes.CDLL("msvcrt" if os.name == "nt" else None)


def _check(field: str, value: int, high: int) -> None:
    if isinstance(value, bool) or not hasattr(value, "__index__") or not 1 <= value <= high:
        raise InvalidRequestError(field, value, f"a whole number, 1 to {high}")
