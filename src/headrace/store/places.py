"""The folders of this user in which the store looks for models and keeps what it put together."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

__all__ = ["cache_folder", "gguf_files", "models_folder"]


def cache_folder() -> Path:
    """Where models that come in chunks are put together: $HEADRACE_CACHE_DIR, or the system's cache folder."""
    return _from_environment("HEADRACE_CACHE_DIR") or platformdirs.user_cache_path("headrace", appauthor=False)


def models_folder() -> Path:
    """Where users put .gguf files to call them by name: $HEADRACE_MODELS_DIR, or a folder of the system's user data."""
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
    return Path(value).expanduser() if value else None
