"""`assemble`: joins the chunks of a model into one file, checks its checksum, and never leaves half a file."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from headrace.values.errors import ModelLoadError

__all__ = ["assemble", "is_whole"]

_BLOCK = 1 << 20
_STALE_SECONDS = 3600


def is_whole(target: Path, size: int) -> bool:
    """Return whether the assembled file exists. It gets its name after all checks, so its size is enough to tell."""
    try:
        return target.is_file() and target.stat().st_size == size
    except OSError:
        return False


def assemble(chunks: Iterable[Path], target: Path, sha256: str) -> None:
    """Join the chunks into the target file, as a whole or not at all.

    Several processes may do so at the same time: each writes a temporary file of its own, and the last one to finish
    replaces the others' target with the same bytes.

    Args:
        chunks: the files to join, in order.
        target: the file to write; its folder is created if needed.
        sha256: the checksum of the target, in hexadecimal.

    Raises:
        ModelLoadError: the checksum is wrong, a chunk cannot be read, or the folder cannot be written to.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(target)
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    except OSError as error:
        raise _failed(target, error) from error
    partial = Path(name)
    try:
        digest = _copy(chunks, descriptor)
        if digest != sha256:
            raise ModelLoadError(
                f"the chunks of {target.name} do not make the file they should: their SHA-256 is {digest}, "
                f"but {sha256} is expected; install the model's packages again, with --force-reinstall"
            )
        partial.replace(target)
    except OSError as error:
        raise _failed(target, error) from error
    finally:
        partial.unlink(missing_ok=True)


def _copy(chunks: Iterable[Path], descriptor: int) -> str:
    digest = hashlib.sha256()
    with open(descriptor, "wb") as out:
        for chunk in chunks:
            with chunk.open("rb") as source:
                while block := source.read(_BLOCK):
                    digest.update(block)
                    out.write(block)
        out.flush()
        # The bytes must reach the disk before the name does, or a power cut could leave half a file under that name.
        os.fsync(out.fileno())
    return digest.hexdigest()


def _remove_stale(target: Path) -> None:
    """Delete temporary files of killed processes: those that nothing has written to for an hour."""
    for partial in target.parent.glob(f".{target.name}.*.part"):
        with contextlib.suppress(OSError):
            if time.time() - partial.stat().st_mtime > _STALE_SECONDS:
                partial.unlink()


def _failed(target: Path, error: OSError) -> ModelLoadError:
    return ModelLoadError(
        f"{target.name} could not be put together in {target.parent}: {error}; "
        "set HEADRACE_CACHE_DIR to a folder with room for it"
    )
