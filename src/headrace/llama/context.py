"""A context on a model: the KV cache, and one batch that is filled and decoded each step."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.llama.kv_types import KV_TYPES, checked_kv_type
from headrace.llama.library import library, log
from headrace.llama.model import LlamaModel
from headrace.llama.state import StateError, check_state
from headrace.values.errors import EngineClosedError, InvalidRequestError, ModelLoadError

__all__ = ["DecodeError", "InterruptedDecodeError", "LlamaContext", "NoKVSlotError"]

_NO_KV_SLOT = 1
_ABORTED = 2
_MAX_INT32 = 2**31 - 1
# Per cell, llama.cpp keeps a position, a shift, an extension and a set of 256 sequences beside keys and values.
_CELL_BYTES = 64
_MOST_SAVED = 512


class NoKVSlotError(Exception):
    """The KV cache has no room for the batch; the context is as it was before."""


class DecodeError(Exception):
    """llama_decode failed; the KV of the batch's tokens is gone or must be removed.

    Attributes:
        code: what it returned.
    """

    def __init__(self, code: int, reason: str) -> None:
        self.code = code
        super().__init__(f"llama_decode returned {code}: {reason}")


class InterruptedDecodeError(Exception):
    """`interrupt` was called; the KV of the batch's tokens must be removed."""


class LlamaContext:
    """The KV cache and the batch. Not thread-safe: one thread uses it, and closes it.

    A step fills the first rows of the four arrays, each by slice assignment, and calls `decode`.

    Attributes:
        n_ctx: KV cells, shared by all sequences; what was asked for, rounded up to a multiple of 256.
        n_batch: tokens that one `decode` takes at most.
        n_seq_max: sequences; their ids are 0 to n_seq_max - 1.
        n_outputs_max: rows of logits that one `decode` gives at most.
        kv_type: the precision of keys and values.
        tokens: int32, one token id a row.
        positions: int32, its position in its sequence; they must follow one another.
        sequences: int32, the id of its sequence.
        outputs: int8, 1 where the row's logits are wanted, otherwise 0.
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
        """Allocates the KV cache and the buffers.

        Args:
            model: stays loaded as long as this lives.
            n_ctx: tokens that the KV cache holds, of all sequences together.
            n_batch: tokens in one batch.
            n_seq_max: sequences.
            n_threads: compute threads for a batch of one token.
            n_threads_batch: compute threads for a larger batch; as many as n_threads for None.
            kv_type: the precision of keys and values, one of KV_TYPES.
            kv_unified: whether all sequences share the cells; otherwise each has n_ctx / n_seq_max of its own, and
                `copy_sequence` copies.

        Raises:
            InvalidRequestError: a number out of its range.
            ModelLoadError: not enough memory, or a model that llama.cpp cannot run in this way.
            EngineClosedError: the model was closed.
        """
        self._handle = 0  # for __del__, should a check below fail
        self._library = library()
        bulk = self._library.bulk
        _check("n_ctx", n_ctx, _MAX_INT32)
        _check("n_batch", n_batch, _MAX_INT32)
        _check("n_seq_max", n_seq_max, bulk.llama_max_parallel_sequences())
        _check("n_threads", n_threads, 512)
        _check("n_threads_batch", n_threads if n_threads_batch is None else n_threads_batch, 512)
        precision = KV_TYPES[checked_kv_type(kv_type)]
        _check_memory(model, n_ctx, kv_type)

        params = bulk.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = params.n_ubatch = n_batch
        # One row a sequence is what a step asks for. The default, n_batch rows, is half a GiB for Gemma; and the
        # buffer has at least n_seq_max rows, which must not be more than this.
        params.n_seq_max = params.n_outputs_max = n_seq_max
        params.n_threads = n_threads
        params.n_threads_batch = n_threads if n_threads_batch is None else n_threads_batch
        params.type_k = params.type_v = precision.id
        params.kv_unified = kv_unified  # makes copy_sequence a matter of metadata
        params.swa_full = True  # keeps every prefix whole, for reuse
        params.no_perf = True

        self._model = model
        model_handle = model.retain()
        try:
            log.begin()
            # Flash attention skips the cells of other sequences cheaply; without it a full cache makes a step four
            # times slower. Not every backend has it for every model, so the second try leaves the choice open; where
            # values are quantised, llama.cpp refuses to do without.
            for params.flash_attn_type in (bulk.LLAMA_FLASH_ATTN_TYPE_ENABLED, bulk.LLAMA_FLASH_ATTN_TYPE_AUTO):
                self._handle: int = bulk.llama_init_from_model(model_handle, params) or 0
                if self._handle or log.failure is not None:
                    break
            if log.failure is not None:
                raise log.failure
            if not self._handle:
                raise ModelLoadError(f"no context of {n_ctx} tokens in {kv_type} for {model.path}: {log.reason()}")
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
        # On a GPU decode returns early and this waits, so the GIL must be free. On a CPU there is nothing to wait for.
        self._synchronize: Any = bulk.llama_synchronize if bulk.llama_supports_gpu_offload() else None
        self._decode: Any = bulk.llama_decode
        self._get_logits: Any = self._library.tiny.llama_get_logits
        # Asked before each of a graph's nodes, some thousand times a step, so it must not be Python: C's strlen of a
        # text that is empty until `interrupt` writes to it. Other backends than the CPU's do not ask.
        self._interruption = (ctypes.c_ubyte * 2)()
        self._is_interrupted = ctypes.cast(_c_library().strlen, bulk.ggml_abort_callback)
        bulk.llama_set_abort_callback(self._handle, self._is_interrupted, self._interruption)
        self._logits_address = 0
        self._logits: list[NDArray[np.float32]] = [np.empty((0, model.n_vocab), np.float32)]  # the first rows, by count
        self._make_batch()

    def decode(self, n_tokens: int, n_outputs: int) -> NDArray[np.float32]:
        """Computes the first rows of the batch.

        Args:
            n_tokens: how many rows.
            n_outputs: how many of them have `outputs` set.

        Returns:
            Their logits, shape (n_outputs, n_vocab), in the order of the rows. It is libllama's own memory: it may
            be written to, and is valid until the next `decode` or `close`.

        Raises:
            NoKVSlotError: the KV cache is full; nothing has changed.
            InterruptedDecodeError: `interrupt` was called meanwhile.
            DecodeError: llama.cpp failed.
            ValueError: a batch out of bounds, at which libllama would end the process.
            EngineClosedError: the context was closed.
        """
        handle = self._open()
        if not 0 < n_tokens <= self.n_batch:
            raise ValueError(f"n_tokens is {n_tokens}; allowed: 1 to {self.n_batch}")
        # As unsigned numbers the negative ones are the largest. Lists, because between two decodes nothing of numpy
        # stays in the processor's caches: its own functions for this take five times as long.
        if max(self._unsigned_sequences[:n_tokens].tolist()) >= self.n_seq_max:
            raise ValueError(f"a sequence id of {self.sequences[:n_tokens]} is not in 0 to {self.n_seq_max - 1}")
        if max(self._unsigned_positions[:n_tokens].tolist()) > _MAX_INT32:
            raise ValueError(f"a position of {self.positions[:n_tokens]} is negative")
        marked = n_tokens - self.outputs[:n_tokens].tolist().count(0)
        if marked != n_outputs or n_outputs > self.n_outputs_max:
            raise ValueError(
                f"n_outputs is {n_outputs} and {marked} rows are marked; both must be equal, at most "
                f"{self.n_outputs_max}"
            )
        self._batch.n_tokens = n_tokens
        self._interruption[0] = 0
        code: int = self._decode(handle, self._batch)
        if code == _NO_KV_SLOT:
            log.begin()  # its warning is no part of the reason of a later failure
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
        """Makes a `decode` that is running fail soon, on a CPU. Any thread may call this, at any time."""
        self._interruption[0] = 1

    def copy_sequence(self, source: int, target: int, start: int, end: int) -> None:
        """Lets another sequence share the KV of positions start to end - 1; -1 for the end means all that follow.

        The target must be empty there. A model without a KV cache per token copies its whole state.

        Raises:
            ValueError: a sequence id out of range.
            EngineClosedError: the context was closed.
        """
        self._open()
        self._check_sequence(source)
        self._check_sequence(target)
        self._library.tiny.llama_memory_seq_cp(self._memory, source, target, start, end)

    def remove_sequence(self, sequence: int, start: int, end: int = -1) -> bool:
        """Removes positions start to end - 1 of a sequence; False if only the whole sequence can be removed.

        Raises:
            ValueError: a sequence id out of range.
            EngineClosedError: the context was closed.
        """
        self._open()
        self._check_sequence(sequence)
        return self._library.tiny.llama_memory_seq_rm(self._memory, sequence, start, end)

    def clear(self) -> None:
        """Removes all sequences."""
        self._open()
        self._library.tiny.llama_memory_clear(self._memory, False)

    def position_max(self, sequence: int) -> int:
        """The last position that a sequence holds; -1 where it is empty."""
        self._open()
        self._check_sequence(sequence)
        return self._library.tiny.llama_memory_seq_pos_max(self._memory, sequence)

    def position_min(self, sequence: int) -> int:
        """The first position that a sequence holds; -1 where it is empty."""
        self._open()
        self._check_sequence(sequence)
        return self._library.tiny.llama_memory_seq_pos_min(self._memory, sequence)

    def can_reuse(self, sequence: int, length: int) -> bool:
        """Whether a sequence's first `length` positions are all there that the next one looks at.

        In layers with a sliding window llama.cpp gives cells that a sequence has left behind to others. So a sequence
        can go on, but may no longer be what another one, which parts from it earlier, can begin with.
        """
        return not self._window or 0 <= self.position_min(sequence) <= max(0, length - self._window + 1)

    @property
    def most_saved(self) -> int:
        """Positions that `save_state` takes at most: a few milliseconds' worth, and never more than a window."""
        return min(self._window or _MOST_SAVED, _MOST_SAVED)

    def save_state(self, sequence: int, spare: int, start: int, end: int) -> bytearray | None:
        """The KV of positions start to end - 1 of a sequence, as `load_state` takes it.

        Args:
            sequence: which.
            spare: a sequence that is empty, before and after.
            start: the first position.
            end: behind the last; at most `most_saved` behind the first.

        Returns:
            None for a model whose KV is laid out in a way that cannot be checked when it is read.
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
        """Append what `save_state` gave to a sequence that holds the positions before it.

        Args:
            sequence: which.
            spare: a sequence that is empty, before and after.
            start: the first position.
            end: behind the last.
            data: the KV.

        Returns:
            Whether it lies in the memory in the order of its positions, as far as it is in one piece.

        Raises:
            StateError: this is no KV of these positions, or not of this model and kv_type; nothing has changed.
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
        """Sets the compute threads of the steps that follow: for a batch of one token, and for a larger one."""
        _check("n_threads", n, 512)
        _check("n_threads_batch", n_batch, 512)
        self._library.tiny.llama_set_n_threads(self._open(), n, n_batch)

    def probe(self) -> bool:
        """Decodes two tokens and drops the second: sets and returns `can_drop_partial`, and clears the memory.

        It is also the warm-up that the first request would otherwise pay for.

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
        """Frees the KV cache and the buffers. May be called again."""
        if self._handle and os.getpid() != self._pid:
            self._handle = 0  # the parent's, in a forked child: freeing could wait for threads that the child lacks
        elif self._handle:
            self._free()

    def __enter__(self) -> LlamaContext:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # When the interpreter ends, modules are gone already, and the process gives everything back by itself.
        if getattr(self, "_handle", 0) and not is_finalizing():
            self.close()

    def _make_batch(self) -> None:
        size = self.n_batch
        self.tokens = np.zeros(size, np.int32)
        self.positions = np.zeros(size, np.int32)
        self.sequences = np.zeros(size, np.int32)
        self.outputs = np.zeros(size, np.int8)
        self._unsigned_positions = self.positions.view(np.uint32)
        self._unsigned_sequences = self.sequences.view(np.uint32)
        # libllama wants a list of sequences for each row: here always one, whose place in `sequences` never changes.
        self._n_sequences = np.ones(size, np.int32)
        self._sequence_lists = (
            self.sequences.ctypes.data + np.arange(size, dtype=np.uintp) * self.sequences.itemsize
        ).astype(np.uintp)
        bulk = self._library.bulk
        fields: dict[str, NDArray[Any]] = {
            "token": self.tokens,
            "pos": self.positions,
            "n_seq_id": self._n_sequences,
            "seq_id": self._sequence_lists,
            "logits": self.outputs,
        }
        types = dict(bulk.llama_batch._fields_)
        self._batch: Any = bulk.llama_batch()
        for name, array in fields.items():
            setattr(self._batch, name, ctypes.cast(array.ctypes.data, types[name]))

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


def _check_memory(model: LlamaModel, n_ctx: int, kv_type: str) -> None:
    # Linux grants memory that it does not have, and ends the process when it is used.
    if model.n_gpu_layers != 0 or not hasattr(os, "sysconf"):
        return
    needed = n_ctx * (model.kv_bytes_per_token(kv_type) + _CELL_BYTES)
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > available:
        raise ModelLoadError(
            f"a context of {n_ctx} tokens in {kv_type} for {model.path} needs {needed / 2**30:.1f} GiB, and this "
            f"machine has {available / 2**30:.1f} GiB; load the model with a smaller n_ctx"
        )
