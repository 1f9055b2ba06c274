"""`resolve` finds a model's .gguf file by name or path; `available` lists the models that have a name."""

from __future__ import annotations

import difflib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from headrace.store.folders import gguf_files, models_folder
from headrace.store.packaged import PACKAGED, PackagedModel
from headrace.values.errors import InvalidRequestError, ModelLoadError, ModelNotFoundError

__all__ = ["ModelEntry", "ResolvedModel", "available", "resolve"]

_ALLOWED = "a path to a .gguf file, or the name of a model (`headrace models` lists them)"


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A model that was found.

    Attributes:
        name: the name that was given; for a path, the file's name without .gguf.
        path: the .gguf file.
    """

    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model that can be run by name.

    Attributes:
        name: the name that `resolve` accepts.
        description: one line about the model.
        source: the path of the file, or the package that has it.
        installed: whether the model can be run now.
        size: size of the .gguf file, in bytes.
        install: the command that installs it; None if it is installed.
    """

    name: str
    description: str
    source: str
    installed: bool
    size: int
    install: str | None


def resolve(ref: str | os.PathLike[str]) -> ResolvedModel:
    """Find the .gguf file of a model; nothing is downloaded.

    A reference is a path if it is an `os.PathLike`, has a path separator, starts with `.` or `~`, or ends in `.gguf`.
    Any other reference is a name: first of a file in the user's models folder, without its .gguf, then of a packaged
    model. A model that is packaged in chunks is assembled in the cache folder when it is first resolved.

    Raises:
        InvalidRequestError: the reference is empty, neither a string nor a path, or has characters that no path has.
        ModelNotFoundError: no such file or name, and the message says what was tried; or HEADRACE_MODELS_DIR or
            HEADRACE_CACHE_DIR cannot be a folder.
        ModelLoadError: the path is not a file, the package is damaged, or the file could not be assembled.
    """
    text = _checked_reference(ref)
    if not isinstance(ref, str) or _looks_like_path(text):
        return _resolve_path(text)
    for path in gguf_files(models_folder()):
        if path.stem == text:
            return ResolvedModel(text, path)
    for model in PACKAGED:
        if model.name == text:
            return _resolve_packaged(model)
    raise _unknown_name(text)


def available() -> list[ModelEntry]:
    """Return every model that has a name, installed or not, sorted by name.

    A file in the models folder hides a packaged model of the same name.

    Raises:
        ModelNotFoundError: HEADRACE_MODELS_DIR or HEADRACE_CACHE_DIR cannot be a folder.
    """
    entries = {model.name: _packaged_entry(model) for model in PACKAGED}
    entries |= {path.stem: _user_entry(path) for path in reversed(gguf_files(models_folder()))}
    return [entries[name] for name in sorted(entries)]


def _checked_reference(ref: object) -> str:
    if not isinstance(ref, (str, os.PathLike)):
        raise InvalidRequestError("model", ref, _ALLOWED)
    text = os.fspath(ref)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise InvalidRequestError("model", ref, _ALLOWED)  # pyright: ignore[reportUnknownArgumentType]
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise InvalidRequestError("model", text, _ALLOWED) from None
    return text


def _looks_like_path(text: str) -> bool:
    separators = ("/", os.sep, os.altsep or "/")
    return text.startswith((".", "~")) or text.lower().endswith(".gguf") or any(mark in text for mark in separators)


def _resolve_path(text: str) -> ResolvedModel:
    try:
        path = Path(text).expanduser().absolute()
    except RuntimeError:
        home = Path(text).parts[0]
        raise ModelNotFoundError(
            f"there is no model file {text}: there is no home folder {home}; allowed: {_ALLOWED}"
        ) from None
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        where = "" if str(path) == text else f" (that is {path})"
        raise ModelNotFoundError(f"there is no model file {text}{where}; {_gguf_files_in(path.parent)}") from None
    except OSError as error:
        raise ModelLoadError(f"the model file {text} cannot be opened: {error.strerror}") from error
    if stat.S_ISDIR(mode):
        raise ModelLoadError(f"{text} is a folder, not a .gguf file; {_gguf_files_in(path)}")
    if not stat.S_ISREG(mode):
        raise ModelLoadError(f"{text} is not a regular file, so it cannot be a model")
    return ResolvedModel(path.stem, path)


def _gguf_files_in(folder: Path) -> str:
    if not folder.is_dir():
        return f"there is no folder {folder} either"
    files = ", ".join(path.name for path in gguf_files(folder))
    return f".gguf files in {folder}: {files or 'none'}"


def _resolve_packaged(model: PackagedModel) -> ResolvedModel:
    path = model.file()
    if path is None:
        packages = ", ".join(package for package, _ in model.parts)
        raise ModelNotFoundError(
            f"the model {model.name} is known, but not installed (looked for: {packages}); install it: {model.install}"
        )
    return ResolvedModel(model.name, path)


def _unknown_name(name: str) -> ModelNotFoundError:
    known = [entry.name for entry in available()]
    by_folded = {entry.casefold(): entry for entry in known}
    close = difflib.get_close_matches(name.casefold(), by_folded, n=1)
    suggestion = f"; did you mean {by_folded[close[0]]}?" if close else ""
    here = f" For the file of that name in this folder, write .{os.sep}{name}." if os.path.isfile(name) else ""
    return ModelNotFoundError(
        f"there is no model named {name}{suggestion or '.'} Known names: {', '.join(known)}. "
        f"Looked in the models folder {models_folder()} and in the installed packages.{here} "
        "A path to a .gguf file works as well."
    )


def _packaged_entry(model: PackagedModel) -> ModelEntry:
    installed = model.is_installed()
    first, *others = [package for package, _ in model.parts]
    source = f"package {first}" + (f" and {len(others)} more" if others else "")
    return ModelEntry(
        model.name, model.description, source, installed, model.size, None if installed else model.install
    )


def _user_entry(path: Path) -> ModelEntry:
    return ModelEntry(path.stem, "in your models folder", str(path), True, path.stat().st_size, None)
