"""`Batch`: the rows of one decode, as numpy arrays that llama.cpp reads in place."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.llama.library import library

__all__ = ["MAX_INT32", "Batch"]

MAX_INT32 = 2**31 - 1


class Batch:
    """Four arrays, and the `llama_batch` struct that points to them. A step writes their first rows.

    Args:
        n_batch: rows.
        n_seq_max: number of sequences; their ids are 0 to n_seq_max - 1.
        n_outputs_max: the most rows of logits in one decode.

    Attributes:
        tokens: int32, the token id of each row.
        positions: int32, the position of each row in its sequence.
        sequences: int32, the sequence id of each row.
        outputs: int8, 1 if the row's logits are wanted, otherwise 0.
        struct: the `llama_batch`; set its `n_tokens` before a decode.
    """

    def __init__(self, n_batch: int, n_seq_max: int, n_outputs_max: int) -> None:
        self._n_batch = n_batch
        self._n_seq_max = n_seq_max
        self._n_outputs_max = n_outputs_max
        self.tokens = np.zeros(n_batch, np.int32)
        self.positions = np.zeros(n_batch, np.int32)
        self.sequences = np.zeros(n_batch, np.int32)
        self.outputs = np.zeros(n_batch, np.int8)
        self._unsigned_positions = self.positions.view(np.uint32)
        self._unsigned_sequences = self.sequences.view(np.uint32)
        # llama.cpp takes a list of sequence ids for each row. Here each list has one id: a fixed place in `sequences`.
        self._n_sequences = np.ones(n_batch, np.int32)
        self._sequence_lists = (
            self.sequences.ctypes.data + np.arange(n_batch, dtype=np.uintp) * self.sequences.itemsize
        ).astype(np.uintp)
        bulk = library().bulk
        fields: dict[str, NDArray[Any]] = {
            "token": self.tokens,
            "pos": self.positions,
            "n_seq_id": self._n_sequences,
            "seq_id": self._sequence_lists,
            "logits": self.outputs,
        }
        types = dict(bulk.llama_batch._fields_)
        self.struct: Any = bulk.llama_batch()
        for name, array in fields.items():
            setattr(self.struct, name, ctypes.cast(array.ctypes.data, types[name]))

    def check(self, n_tokens: int, n_outputs: int) -> None:
        """Raise ValueError if the first rows are out of bounds: llama.cpp would end the process.

        Args:
            n_tokens: number of rows.
            n_outputs: number of these rows with `outputs` set.
        """
        if not 0 < n_tokens <= self._n_batch:
            raise ValueError(f"n_tokens is {n_tokens}; allowed: 1 to {self._n_batch}")
        # As unsigned numbers, negative ones are the largest. These are lists since after a decode numpy's code is in no
        # CPU cache, and its own functions take five times as long.
        if max(self._unsigned_sequences[:n_tokens].tolist()) >= self._n_seq_max:
            raise ValueError(f"a sequence id of {self.sequences[:n_tokens]} is not in 0 to {self._n_seq_max - 1}")
        if max(self._unsigned_positions[:n_tokens].tolist()) > MAX_INT32:
            raise ValueError(f"a position of {self.positions[:n_tokens]} is negative")
        marked = n_tokens - self.outputs[:n_tokens].tolist().count(0)
        if marked != n_outputs or n_outputs > self._n_outputs_max:
            raise ValueError(
                f"n_outputs is {n_outputs} and {marked} rows are marked; both must be equal, at most "
                f"{self._n_outputs_max}"
            )
