"""The folders of this user in which the store looks for models and keeps what it put together."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from headrace.values.errors import ModelNotFoundError

__all__ = ["cache_folder", "gguf_files", "models_folder"]


def cache_folder() -> Path:
    """Where models that come in chunks are put together: $HEADRACE_CACHE_DIR, or the system's cache folder.

    Raises:
        ModelNotFoundError: the variable begins with the home of a user whom the system does not know.
    """
    return _from_environment("HEADRACE_CACHE_DIR") or platformdirs.user_cache_path("headrace", appauthor=False)


def models_folder() -> Path:
    """Where users put .gguf files to call them by name: $HEADRACE_MODELS_DIR, or a folder of the system's user data.

    Raises:
        ModelNotFoundError: the variable begins with the home of a user whom the system does not know.
    """
    chosen = _from_environment("HEADRACE_MODELS_DIR")
    return chosen or platformdirs.user_data_path("headrace", appauthor=False) / "models"


def gguf_files(folder: Path) -> list[Path]:
    """The .gguf files in a folder, sorted by name; none where it does not exist or cannot be read."""
    try:
        return sorted(path for path in folder.iterdir() if path.suffix.lower() == ".gguf" and path.is_file())
    except OSError:
        return []


def _from_environment(variable: str) -> Path | None:
    value = os.environ.get(variable)
    if not value:
        return None
    try:
        return Path(value).expanduser()
    except RuntimeError:
        home = Path(value).parts[0]
        raise ModelNotFoundError(
            f"{variable} is {value}, but there is no home folder {home}; "
            "allowed: a path to a folder, with ~ only for the home of a user whom this system knows"
        ) from None
