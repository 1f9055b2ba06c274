"""`read_bytes` and `read_string`: call C functions that write their result into a buffer."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

__all__ = ["read_bytes", "read_string"]


def read_bytes(write: Callable[[Any, int], int]) -> bytes:
    """Returns what `write(buffer, size)` writes. It returns the length, or minus the size that it needs."""
    size = 64
    while True:
        buffer = ctypes.create_string_buffer(size)
        count = write(buffer, size)
        if count >= 0:
            return buffer.raw[:count]
        size = -count


def read_string(function: Callable[..., int], *arguments: object) -> str:
    """Returns the text that a function like C's snprintf writes: it returns the full length, or -1 for a failure."""
    size = 256
    while True:
        buffer = ctypes.create_string_buffer(size)
        count = function(*arguments, buffer, size)
        if count < size:
            return buffer.raw[: max(count, 0)].decode("utf-8", "replace")
        size = count + 1
