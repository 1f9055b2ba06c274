"""The format of session files: tokens, a JSON header, and KV in blocks, each part with a hash.

A file has:

- a magic number, the version of the format, the length of the header, the number of tokens;
- the header (JSON), the token ids (int32, little-endian), and a SHA-256 of everything up to here;
- blocks of KV: the range of tokens, the length, the KV, and a SHA-256; an empty block is the end.

Nothing is used before its hash was checked, and nothing is ever executed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from headrace.values.errors import InvalidRequestError

__all__ = ["UNKNOWN_HEADER", "DamagedFileError", "blocks", "read_start", "replacing", "write_block", "write_start"]

UNKNOWN_HEADER = "its header is not what headrace writes"

_MAGIC = b"HEADRACE"
_VERSION = 1
_START = struct.Struct("<8sIII")  # magic, version, bytes of the header, number of tokens
_BLOCK = struct.Struct("<IIQ")  # first token, behind the last, bytes
_HASH_BYTES = 32


class DamagedFileError(Exception):
    """A file cannot be used; the message says why."""


def write_start(file: BinaryIO, header: Mapping[str, Any], tokens: Sequence[int]) -> bytes:
    """Write everything before the blocks; returns its hash, which `write_block` needs."""
    text = json.dumps(header).encode()
    ids = np.array(tokens, "<i4").tobytes()
    start = _START.pack(_MAGIC, _VERSION, len(text), len(tokens)) + text + ids
    file.write(start)
    digest = hashlib.sha256(start).digest()
    file.write(digest)
    return digest


def write_block(file: BinaryIO, digest: bytes, start: int, end: int, data: bytes | bytearray) -> None:
    """Write the KV of tokens[start:end]; no data for the end of the file."""
    head = _BLOCK.pack(start, end, len(data))
    file.write(head)
    file.write(data)
    file.write(_hash(digest, head, data))


def read_start(file: BinaryIO, size: int) -> tuple[list[int], dict[str, Any], bytes]:
    """Read the tokens, the header, and the hash of both from a file of `size` bytes.

    Raises:
        DamagedFileError: it is no session file, of another version, or damaged.
    """
    start = file.read(_START.size)
    if start[: len(_MAGIC)] != _MAGIC[: len(start)] or not start:
        raise DamagedFileError("it is no session file")
    if len(start) < _START.size:
        raise DamagedFileError("it is cut off")
    _, version, header_bytes, num_tokens = _START.unpack(start)
    if version != _VERSION:
        raise DamagedFileError(f"it is of version {version}, and this headrace reads version {_VERSION}")
    text, ids = _read(file, header_bytes, size), _read(file, 4 * num_tokens, size)
    digest = hashlib.sha256(start + text + ids).digest()
    if bytes(_read(file, _HASH_BYTES, size)) != digest:
        raise DamagedFileError("it is damaged")
    try:
        header: object = json.loads(text)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise DamagedFileError(UNKNOWN_HEADER)
    return cast("list[int]", np.frombuffer(ids, "<i4").tolist()), cast("dict[str, Any]", header), digest


def blocks(file: BinaryIO, size: int, digest: bytes) -> Iterator[tuple[int, int, bytearray]]:
    """Read the blocks: the first token, the one behind the last, and the KV of each.

    Raises:
        DamagedFileError: the file is cut off, or a hash is wrong.
    """
    while True:
        head = _read(file, _BLOCK.size, size)
        start, end, num_bytes = _BLOCK.unpack(head)
        data = _read(file, num_bytes, size)
        if bytes(_read(file, _HASH_BYTES, size)) != _hash(digest, head, data):
            raise DamagedFileError("it is damaged")
        if not num_bytes:
            return
        yield start, end, data


@contextmanager
def replacing(target: Path) -> Generator[BinaryIO]:
    """Open a temporary file, and put it in the target's place when it is complete. Only its owner can read it.

    Raises:
        InvalidRequestError: it cannot be written; the target is unchanged.
    """
    temporary: str | None = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:100]}.", suffix=".part")
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        raise InvalidRequestError(
            "path", str(target), "a file that can be written", f"{target} cannot be written: {error.strerror or error}"
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _read(file: BinaryIO, count: int, size: int) -> bytearray:
    """Read `count` bytes; allocates nothing for a length that the file cannot hold."""
    data = bytearray(count if count <= size - file.tell() else 0)
    if len(data) != count or file.readinto(data) != count:  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
        raise DamagedFileError("it is cut off")
    return data


def _hash(digest: bytes, head: bytes | bytearray, data: bytes | bytearray) -> bytes:
    """The hash of a block; it covers the hash of the file's start, so that no block fits into another file."""
    whole = hashlib.sha256(digest)
    whole.update(head)
    whole.update(data)
    return whole.digest()
