"""`KV_TYPES`: the precisions in which the KV cache can store keys and values."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

from headrace.values.errors import InvalidRequestError

__all__ = ["KV_TYPES", "KVType", "Precision", "checked_kv_type"]

KVType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]


class Precision(NamedTuple):
    """How ggml stores values of a type.

    Attributes:
        id: the ggml_type.
        block_size: values in a quantisation block, which share a scale.
        block_bytes: bytes of such a block.
    """

    id: int
    block_size: int
    block_bytes: int


KV_TYPES: Mapping[str, Precision] = MappingProxyType(
    {
        "f32": Precision(0, 1, 4),
        "f16": Precision(1, 1, 2),
        "bf16": Precision(30, 1, 2),
        "q8_0": Precision(8, 32, 34),
        "q5_1": Precision(7, 32, 24),
        "q5_0": Precision(6, 32, 22),
        "q4_1": Precision(3, 32, 20),
        "q4_0": Precision(2, 32, 18),
    }
)


def checked_kv_type(value: object) -> str:
    """Returns the name of a type; raises InvalidRequestError if there is no such type."""
    if not isinstance(value, str) or value not in KV_TYPES:
        raise InvalidRequestError("kv_type", value, f"one of {', '.join(KV_TYPES)}")
    return value
