"""`check_state`: checks saved KV of a sequence before llama.cpp reads it.

llama.cpp checks types and sizes itself, but not positions, and KV at wrong positions could never be removed again. So
the data is parsed first: a magic number and a sequence id, then each of the model's caches (one, or two if some layers
have a sliding window) with its cells, its keys and its values, layer by layer.
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
_CELL = 3  # int32s of a cell: its position, the number of sequence ids, and one sequence id


class StateError(ValueError):
    """The data is not KV that can be loaded; the message says why."""


def check_state(data: bytes | bytearray, start: int, end: int) -> bool:
    """Check that the data is the KV of positions start to end - 1, each once.

    Returns:
        Whether the positions are in order.

    Raises:
        StateError: the data is something else, or the layout of the model's KV is unknown.
    """
    try:
        at, in_order = _HEAD.size, True
        while at < len(data):
            at, is_sorted = _parse_cache(data, at, start, end)
            in_order = in_order and is_sorted
    except (struct.error, ValueError, OverflowError) as error:
        raise StateError(f"this is not the KV of positions {start} to {end - 1}: {error}") from None
    if at != len(data) or at == _HEAD.size:
        raise StateError(f"this is not the KV of positions {start} to {end - 1}: it has {len(data)} bytes")
    return in_order


def _parse_cache(data: bytes | bytearray, at: int, start: int, end: int) -> tuple[int, bool]:
    """Parse one cache; returns the offset of its end, and whether its positions are in order."""
    count = end - start
    n_stream, n_cells = _CELLS.unpack_from(data, at)
    at += _CELLS.size
    if (n_stream, n_cells) != (1, count):
        raise ValueError(f"it has {n_cells} cells in {n_stream} streams")
    cells = np.frombuffer(data, "<i4", _CELL * count, at).reshape(count, _CELL)
    positions, expected = cells[:, 0], np.arange(start, end)
    in_order = bool((positions == expected).all())
    if not (in_order or (np.sort(positions) == expected).all()) or (cells[:, 1] != 1).any():
        raise ValueError("it has other positions")
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
