"""Session files: the tokens of a conversation, their KV, and what else belongs to it.

A file has a magic number, the version of this format, the lengths of the next two, the header (JSON), the token ids
(int32, little-endian) and a hash of all of that; then the KV in pieces, each with its range of tokens, its length and a
hash; and an empty piece as the end. Nothing is believed before its hash is right, and nothing is ever executed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np

from headrace.api.caller import Caller
from headrace.api.core import Core
from headrace.engine.kv.cache import KVCache
from headrace.llama.state import StateError
from headrace.values.config import StreamConfig
from headrace.values.errors import InvalidRequestError, shortened

__all__ = ["Session", "load_session", "save_session", "saved_config"]

_MAGIC = b"HEADRACE"
_VERSION = 1
_START = struct.Struct("<8sIII")  # magic, version, bytes of the header, tokens
_PIECE = struct.Struct("<IIQ")  # first token, behind the last, bytes
_HASH_BYTES = 32
_ALLOWED = "a session file that was saved with this model and kv_type"
# What needs Python objects, or belongs to the process rather than to the conversation.
_NOT_SAVED = ("pricing",)


class Session(NamedTuple):
    """What is in a session file.

    Attributes:
        path: the file.
        tokens: the prompt and the output of the last stream, as token ids.
        num_cached: how many of the tokens, from the first on, have their KV: in the file after `save`; in the model's
            memory after `load`, from where they are evicted like any other cached prefix. The others are computed when
            they are needed.
        num_bytes: size of the file.
    """

    path: Path
    tokens: tuple[int, ...]
    num_cached: int
    num_bytes: int


class _Damage(Exception):
    """What is wrong with a file."""


def save_session(
    caller: Caller, path: str | os.PathLike[str], tokens: Sequence[int], conversation: str | None
) -> Session:
    """Write a session file, as a whole or not at all.

    Args:
        caller: whose settings are saved.
        path: the file; one that is there is replaced.
        tokens: the conversation's tokens. Their KV is saved as far as it is in the model's memory.
        conversation: its messages, as JSON.

    Raises:
        InvalidRequestError: the file cannot be written; one that was there is as it was.
        EngineClosedError: the model was closed.
    """
    core, target = caller.core, _checked_path(path)
    core.engine.check_open()
    header = {
        "model": core.name,
        "fingerprint": core.vocabulary.fingerprint,
        "kv_format": core.engine.kv_format,
        "system_prompt": caller.system_prompt,
        "settings": _settings_of(caller.defaults),
        "conversation": conversation,
        "num_in_order": core.engine.with_cache(lambda kv: kv.num_in_order(tokens, len(tokens))),
    }
    with _replacing(target) as file:
        saved, is_in_order = _write(core, file, header, tokens)
        if not is_in_order:  # those cells have left meanwhile, and what came back was computed otherwise
            file.seek(0)
            file.truncate()
            saved, _ = _write(core, file, header | {"num_in_order": 0}, tokens)
        num_bytes = file.tell()
    return Session(target, tuple(tokens), saved, num_bytes)


def load_session(core: Core, path: str | os.PathLike[str]) -> tuple[Session, dict[str, Any]]:
    """Read a session file, and put its KV into the model's memory as a cached prefix.

    Where running streams leave no room for all of it, the rest is left out.

    Returns:
        The session, and what `save_session` was given besides: `system_prompt`, `settings`, `conversation`.

    Raises:
        InvalidRequestError: the file cannot be read, is damaged, or is of another model or kv_type.
        EngineClosedError: the model was closed.
    """
    source = _checked_path(path)
    core.engine.check_open()
    try:
        if not source.is_file():
            raise _Damage("it is not a file" if source.exists() else "there is no such file")
        with source.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            tokens, header, digest = _read_start(file, size)
            _check_header(core, header, tokens)
            num_read = num_cached = 0
            for start, end, data in _pieces(file, size, digest):
                if not start == num_read < end <= len(tokens):
                    raise _Damage(f"it has KV of the tokens {start} to {end - 1} where there can be none")
                adopt = partial(
                    _adopt, tokens=tokens, start=start, end=end, data=data, num_in_order=header["num_in_order"]
                )
                if num_cached == num_read and core.engine.with_cache(adopt):
                    num_cached = end
                num_read = end
            if file.tell() != size:
                raise _Damage("something follows its end")
    except OSError as error:
        raise _refusal(source, f"it cannot be read: {error.strerror or error}") from error
    except (_Damage, StateError) as error:
        raise _refusal(source, str(error)) from error
    return Session(source, tuple(tokens), num_cached, size), header


def _settings_of(config: StreamConfig) -> dict[str, Any]:
    """Those settings that are not the defaults and that JSON can hold."""
    settings: dict[str, Any] = {}
    for field in dataclasses.fields(StreamConfig):
        value = getattr(config, field.name)
        if field.name in _NOT_SAVED or value == getattr(StreamConfig(), field.name):
            continue
        with contextlib.suppress(TypeError, ValueError):  # a type, given as json_schema
            settings[field.name] = json.loads(json.dumps(value, allow_nan=False))
    return settings


def saved_config(core: Core, session: Session, header: dict[str, Any]) -> StreamConfig:
    """The settings that were saved; what cannot be saved is the model's.

    Raises:
        InvalidRequestError: they are none of this version.
    """
    settings = header["settings"]
    kept = {name: getattr(core.config, name) for name in _NOT_SAVED}
    try:
        return StreamConfig(**{**kept, **settings})
    except (TypeError, InvalidRequestError) as error:
        raise _refusal(session.path, f"its settings cannot be used: {error}") from error


def _write(core: Core, file: BinaryIO, header: dict[str, Any], tokens: Sequence[int]) -> tuple[int, bool]:
    """Write a session file; returns how many tokens' KV is in it, and whether `num_in_order` is true of that."""
    text = json.dumps(header).encode()
    ids = np.array(tokens, "<i4").tobytes()
    start = _START.pack(_MAGIC, _VERSION, len(text), len(tokens)) + text + ids
    file.write(start)
    digest = hashlib.sha256(start).digest()
    file.write(digest)
    saved, step, is_in_order = 0, core.engine.most_saved, True
    while saved < len(tokens):
        # The last token's KV is only computed where something follows it.
        data, end, num_in_order = _read_kv(core, tokens, saved, min(saved + step, len(tokens)))
        if data is None:
            break
        is_in_order = is_in_order and num_in_order >= min(end, header["num_in_order"])
        _write_piece(file, digest, saved, end, data)
        saved = end
    _write_piece(file, digest, saved, saved, b"")
    return saved, is_in_order


def _read_kv(core: Core, tokens: Sequence[int], start: int, end: int) -> tuple[bytearray | None, int, int]:
    """The KV of tokens[start:end], as far as it is there, how far that is, and how much up to there is in order."""

    def read(kv: KVCache) -> tuple[bytearray | None, int, int]:
        kv.bring_back(tokens, end)
        held = min(kv.match(tokens, end).length, end)
        data = kv.save(tokens, start, held) if held > start else None
        return data, held, kv.num_in_order(tokens, held)

    return core.engine.with_cache(read)


def _adopt(kv: KVCache, tokens: Sequence[int], start: int, end: int, data: bytearray, num_in_order: int) -> bool:
    kv.bring_back(tokens, start)  # the pieces before it may have left to a stream that has begun meanwhile
    return kv.adopt(tokens, start, end, data, num_in_order=num_in_order)


def _write_piece(file: BinaryIO, digest: bytes, start: int, end: int, data: bytes | bytearray) -> None:
    head = _PIECE.pack(start, end, len(data))
    file.write(head)
    file.write(data)
    file.write(_hash(digest, head, data))


def _pieces(file: BinaryIO, size: int, digest: bytes) -> Iterator[tuple[int, int, bytearray]]:
    """The pieces before the empty one."""
    while True:
        head = _read(file, _PIECE.size, size)
        start, end, num_bytes = _PIECE.unpack(head)
        data = _read(file, num_bytes, size)
        if bytes(_read(file, _HASH_BYTES, size)) != _hash(digest, head, data):
            raise _Damage("it is damaged")
        if not num_bytes:
            return
        yield start, end, data


def _read_start(file: BinaryIO, size: int) -> tuple[list[int], dict[str, Any], bytes]:
    """The tokens, the header, and the hash of both."""
    start = file.read(_START.size)
    if start[: len(_MAGIC)] != _MAGIC[: len(start)] or not start:
        raise _Damage("it is no session file")
    if len(start) < _START.size:
        raise _Damage("it is cut off")
    _, version, header_bytes, num_tokens = _START.unpack(start)
    if version != _VERSION:
        raise _Damage(f"it is of version {version}, and this headrace reads version {_VERSION}")
    text, ids = _read(file, header_bytes, size), _read(file, 4 * num_tokens, size)
    digest = hashlib.sha256(start + text + ids).digest()
    if bytes(_read(file, _HASH_BYTES, size)) != digest:
        raise _Damage("it is damaged")
    try:
        header: object = json.loads(text)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise _Damage("its header is not what headrace writes")
    return cast("list[int]", np.frombuffer(ids, "<i4").tolist()), cast("dict[str, Any]", header), digest


def _check_header(core: Core, header: dict[str, Any], tokens: Sequence[int]) -> None:
    names = ("model", "fingerprint", "kv_format", "system_prompt", "settings", "conversation", "num_in_order")
    texts = (header.get("system_prompt"), header.get("conversation"))
    is_known = sorted(header) == sorted(names) and type(header["num_in_order"]) is int and header["num_in_order"] >= 0
    if not is_known or not all(isinstance(text, (str, NoneType)) for text in texts):
        raise _Damage("its header is not what headrace writes")
    if header["fingerprint"] != core.vocabulary.fingerprint:
        raise _Damage(f"it was saved with another model, {shortened(header['model'])}, and this is {core.name!r}")
    if header["kv_format"] != core.engine.kv_format:
        raise _Damage(f"its KV is {shortened(header['kv_format'])}, and that of this model {core.engine.kv_format!r}")
    if len(tokens) > core.engine.max_length + 1:  # the last one's KV was not computed
        raise _Damage(
            f"it has {len(tokens)} tokens, but the context holds {core.engine.max_length}; load the model with a "
            "larger n_ctx"
        )
    try:
        core.vocabulary.check_tokens(tokens)
    except InvalidRequestError as error:
        raise _Damage(f"it has a token that the model does not have: {error}") from error


def _read(file: BinaryIO, count: int, size: int) -> bytearray:
    """So many bytes; none are allocated for a length that the file cannot hold."""
    data = bytearray(count if count <= size - file.tell() else 0)
    if len(data) != count or file.readinto(data) != count:  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
        raise _Damage("it is cut off")
    return data


def _hash(digest: bytes, head: bytes | bytearray, data: bytes | bytearray) -> bytes:
    """Of a piece, and of the file that it belongs to."""
    whole = hashlib.sha256(digest)
    whole.update(head)
    whole.update(data)
    return whole.digest()


@contextmanager
def _replacing(target: Path) -> Generator[BinaryIO]:
    """A file that takes the place of another when it is complete, for its owner's eyes only."""
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


def _checked_path(path: object) -> Path:
    try:
        checked = Path(os.fspath(cast("str", path)))
    except TypeError:
        raise InvalidRequestError("path", path, "the path of a file") from None
    if "\0" in str(checked):
        raise InvalidRequestError("path", path, "the path of a file, without NUL characters")
    return checked


def _refusal(path: Path, reason: str) -> InvalidRequestError:
    return InvalidRequestError("path", str(path), _ALLOWED, f"{path} cannot be loaded: {reason}; allowed: {_ALLOWED}")
