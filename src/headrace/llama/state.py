"""What llama.cpp writes of a sequence's KV, checked before it reads it again.

It checks types and sizes itself, but takes positions as they come, and what is at a wrong one could never be removed
again. So a piece is walked through first: a magic number and a sequence id, then for each of the model's caches (one,
or two where some layers have a sliding window) its cells, its keys and its values, layer by layer.
"""

from __future__ import annotations

import struct

import numpy as np

__all__ = ["StateError", "check_state"]

_HEAD = struct.Struct("<Ii")  # magic, sequence id
_CELLS = struct.Struct("<II")  # streams, cells
_LAYERS = struct.Struct("<II")  # whether values are transposed, layers
_ROWS = struct.Struct("<iQ")  # type, bytes of a cell
_COLUMNS = struct.Struct("<iII")  # type, bytes of a value, values of a cell
_CELL = 3  # position, how many sequences follow, the sequence: an int32 each


class StateError(ValueError):
    """This is no KV that can be read here; the message says why."""


def check_state(data: bytes | bytearray, start: int, end: int) -> bool:
    """Make sure that this is the KV of positions start to end - 1, each once.

    Returns:
        Whether they are in order.

    Raises:
        StateError: it is not, or of a model whose KV is laid out in a way that is not known here.
    """
    try:
        at, in_order = _HEAD.size, True
        while at < len(data):
            at, is_sorted = _walk(data, at, start, end)
            in_order = in_order and is_sorted
    except (struct.error, ValueError) as error:
        raise StateError(f"this is not the KV of positions {start} to {end - 1}: {error}") from None
    if at != len(data) or at == _HEAD.size:
        raise StateError(f"this is not the KV of positions {start} to {end - 1}: it has {len(data)} bytes")
    return in_order


def _walk(data: bytes | bytearray, at: int, start: int, end: int) -> tuple[int, bool]:
    """Walk through one cache, and return where it ends and whether its positions are in order."""
    count = end - start
    n_stream, n_cells = _CELLS.unpack_from(data, at)
    at += _CELLS.size
    if (n_stream, n_cells) != (1, count):
        raise ValueError(f"it has {n_cells} cells in {n_stream} streams")
    cells = np.frombuffer(data, "<i4", _CELL * count, at).reshape(count, _CELL)
    positions, expected = cells[:, 0], np.arange(start, end)
    in_order = bool((positions == expected).all())
    if not (in_order or (np.sort(positions) == expected).all()) or (cells[:, 1] != 1).any():
        raise ValueError("its positions are others")
    at += cells.nbytes
    is_transposed, n_layer = _LAYERS.unpack_from(data, at)
    at += _LAYERS.size
    for _ in range(n_layer):
        _, row = _ROWS.unpack_from(data, at)
        at += _ROWS.size + row * count
    for _ in range(n_layer):
        if is_transposed:
            _, value, width = _COLUMNS.unpack_from(data, at)
            at += _COLUMNS.size + value * width * count
        else:
            _, row = _ROWS.unpack_from(data, at)
            at += _ROWS.size + row * count
    return at, in_order
