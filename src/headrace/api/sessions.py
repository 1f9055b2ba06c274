"""`save_session` and `load_session`: the tokens of a context or conversation, and their KV, in a file."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any, BinaryIO, NamedTuple, cast

from headrace.api.caller import Caller
from headrace.api.core import Core
from headrace.api.session_file import (
    UNKNOWN_HEADER,
    DamagedFileError,
    blocks,
    read_start,
    replacing,
    write_block,
    write_start,
)
from headrace.engine.kv.cache import KVCache
from headrace.llama.state import StateError
from headrace.values.config import StreamConfig
from headrace.values.errors import InvalidRequestError, shortened

__all__ = ["Session", "load_session", "save_session", "saved_config"]

_ALLOWED = "a session file that was saved with this model and kv_type"
# Settings that need Python objects, or that belong to the process rather than to the conversation.
_NOT_SAVED = ("pricing",)


class Session(NamedTuple):
    """A session file that was written or read.

    Attributes:
        path: the file.
        tokens: the ids of the prompt and the output of the last stream.
        num_cached: tokens, from the first on, whose KV is there: after `save`, in the file; after `load`, in the KV
            cache as a prefix, from where it can be evicted. The KV of the others is computed when it is needed.
        num_bytes: size of the file.
    """

    path: Path
    tokens: tuple[int, ...]
    num_cached: int
    num_bytes: int


def save_session(
    caller: Caller, path: str | os.PathLike[str], tokens: Sequence[int], conversation: str | None
) -> Session:
    """Write a session file, as a whole or not at all.

    Args:
        caller: the caller whose settings are saved.
        path: the file; an existing one is replaced.
        tokens: the conversation's tokens. Their KV is saved as far as it is cached.
        conversation: the messages, as JSON.

    Raises:
        InvalidRequestError: the file cannot be written; an existing one is unchanged.
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
    # KV "in order" was computed as by a seeded stream that runs alone, so such a stream may reuse it.
    with replacing(target) as file:
        num_saved, is_in_order = _write(core, file, header, tokens)
        if not is_in_order:  # KV in order was evicted meanwhile, and the KV that was saved instead is not
            file.seek(0)
            file.truncate()
            num_saved, _ = _write(core, file, header | {"num_in_order": 0}, tokens)
        num_bytes = file.tell()
    return Session(target, tuple(tokens), num_saved, num_bytes)


def load_session(core: Core, path: str | os.PathLike[str]) -> tuple[Session, dict[str, Any]]:
    """Read a session file, and put its KV into the KV cache as a cached prefix.

    KV for which running streams leave no room is left out.

    Returns:
        The session, and the header: `system_prompt`, `settings` and `conversation` as `save_session` got them.

    Raises:
        InvalidRequestError: the file cannot be read, is damaged, or is from another model or kv_type.
        EngineClosedError: the model was closed.
    """
    source = _checked_path(path)
    core.engine.check_open()
    try:
        if not source.is_file():
            raise DamagedFileError("it is not a file" if source.exists() else "there is no such file")
        with source.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            tokens, header, digest = read_start(file, size)
            _check_header(core, header, tokens)
            num_read = num_cached = 0
            for start, end, data in blocks(file, size, digest):
                if not start == num_read < end <= len(tokens):
                    raise DamagedFileError(f"its KV of the tokens {start} to {end - 1} is out of place")
                load = partial(
                    _load, tokens=tokens, start=start, end=end, data=data, num_in_order=header["num_in_order"]
                )
                if num_cached == num_read and core.engine.with_cache(load):
                    num_cached = end
                num_read = end
            if file.tell() != size:
                raise DamagedFileError("it has bytes behind its end")
    except OSError as error:
        raise _refusal(source, f"it cannot be read: {error.strerror or error}") from error
    except (DamagedFileError, StateError) as error:
        raise _refusal(source, str(error)) from error
    return Session(source, tuple(tokens), num_cached, size), header


def saved_config(core: Core, session: Session, header: dict[str, Any]) -> StreamConfig:
    """Return the saved settings; settings that cannot be saved are the model's.

    Raises:
        InvalidRequestError: they are no settings of this version of headrace.
    """
    settings = header["settings"]
    kept = {name: getattr(core.config, name) for name in _NOT_SAVED}
    try:
        return StreamConfig(**{**kept, **settings})
    except (TypeError, InvalidRequestError) as error:
        raise _refusal(session.path, f"its settings cannot be used: {error}") from error


def _settings_of(config: StreamConfig) -> dict[str, Any]:
    """The settings that differ from the defaults and that JSON can hold."""
    settings: dict[str, Any] = {}
    for field in dataclasses.fields(StreamConfig):
        value = getattr(config, field.name)
        if field.name in _NOT_SAVED or value == getattr(StreamConfig(), field.name):
            continue
        with contextlib.suppress(TypeError, ValueError):  # a json_schema that is a Python type
            settings[field.name] = json.loads(json.dumps(value, allow_nan=False))
    return settings


def _write(core: Core, file: BinaryIO, header: dict[str, Any], tokens: Sequence[int]) -> tuple[int, bool]:
    """Write a session file; returns how many tokens' KV is in it, and whether the header's `num_in_order` holds."""
    digest = write_start(file, header, tokens)
    num_saved, step, is_in_order = 0, core.engine.max_saved, True
    while num_saved < len(tokens):
        # The KV of the last token is computed only if another token follows it.
        data, end, num_in_order = _read_kv(core, tokens, num_saved, min(num_saved + step, len(tokens)))
        if data is None:
            break
        is_in_order = is_in_order and num_in_order >= min(end, header["num_in_order"])
        write_block(file, digest, num_saved, end, data)
        num_saved = end
    write_block(file, digest, num_saved, num_saved, b"")
    return num_saved, is_in_order


def _read_kv(core: Core, tokens: Sequence[int], start: int, end: int) -> tuple[bytearray | None, int, int]:
    """Read the KV of tokens[start:end] as far as it is cached.

    Returns:
        The KV, or None; how many tokens from the first on are cached; how many of those are in order.
    """

    def read(kv: KVCache) -> tuple[bytearray | None, int, int]:
        kv.restore(tokens, end)
        held = min(kv.match(tokens, end).length, end)
        data = kv.save(tokens, start, held) if held > start else None
        return data, held, kv.num_in_order(tokens, held)

    return core.engine.with_cache(read)


def _load(kv: KVCache, tokens: Sequence[int], start: int, end: int, data: bytearray, num_in_order: int) -> bool:
    kv.restore(tokens, start)  # a new stream may have had the blocks before this one offloaded meanwhile
    return kv.load(tokens, start, end, data, num_in_order=num_in_order)


def _check_header(core: Core, header: dict[str, Any], tokens: Sequence[int]) -> None:
    names = ("model", "fingerprint", "kv_format", "system_prompt", "settings", "conversation", "num_in_order")
    texts = (header.get("system_prompt"), header.get("conversation"))
    is_known = sorted(header) == sorted(names) and type(header["num_in_order"]) is int and header["num_in_order"] >= 0
    if not is_known or not all(isinstance(text, (str, NoneType)) for text in texts):
        raise DamagedFileError(UNKNOWN_HEADER)
    if header["fingerprint"] != core.vocabulary.fingerprint:
        raise DamagedFileError(
            f"it was saved with another model, {shortened(header['model'])}, and this is {core.name!r}"
        )
    if header["kv_format"] != core.engine.kv_format:
        raise DamagedFileError(
            f"its KV is {shortened(header['kv_format'])}, and that of this model {core.engine.kv_format!r}"
        )
    if len(tokens) > core.engine.max_length + 1:  # the KV of the last token was not computed
        raise DamagedFileError(
            f"it has {len(tokens)} tokens, but the context holds {core.engine.max_length}; load the model with a "
            "larger n_ctx"
        )
    try:
        core.vocabulary.check_tokens(tokens)
    except InvalidRequestError as error:
        raise DamagedFileError(f"it has a token that the model does not have: {error}") from error


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
