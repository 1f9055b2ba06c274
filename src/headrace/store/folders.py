"""The user's folders: where the store looks for models, and where it caches the ones that it assembled."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from headrace.values.errors import ModelNotFoundError

__all__ = ["cache_folder", "gguf_files", "models_folder"]


def cache_folder() -> Path:
    """Return the folder for assembled models: $HEADRACE_CACHE_DIR, or headrace's folder in the user's cache.

    Raises:
        ModelNotFoundError: the variable begins with the home folder of an unknown user, as `~nobody`.
    """
    return _from_environment("HEADRACE_CACHE_DIR") or platformdirs.user_cache_path("headrace", appauthor=False)


def models_folder() -> Path:
    """Return the folder for the user's .gguf files: $HEADRACE_MODELS_DIR, or headrace's folder in the user's data.

    Raises:
        ModelNotFoundError: the variable begins with the home folder of an unknown user, as `~nobody`.
    """
    chosen = _from_environment("HEADRACE_MODELS_DIR")
    return chosen or platformdirs.user_data_path("headrace", appauthor=False) / "models"


def gguf_files(folder: Path) -> list[Path]:
    """Return the .gguf files in a folder, sorted by name; none if it does not exist or cannot be read."""
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
