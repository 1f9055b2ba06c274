"""`ModelHandle`: a `llama_model` pointer that is freed when nothing uses it any more, and the file's metadata."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Self

from headrace.llama.buffers import read_string
from headrace.llama.library import Library, library
from headrace.values.errors import EngineClosedError

__all__ = ["ModelHandle"]


class ModelHandle:
    """Owns a loaded model's weights. Every method may be called from any thread.

    The weights are freed after `close`, as soon as no context and no running call uses them. After `close` every call
    raises EngineClosedError.

    Args:
        path: the model file.
        handle: what llama_model_load_from_file returned.
    """

    def __init__(self, path: Path, handle: int) -> None:
        self.path = path
        self._library: Library = library()
        self._handle = handle
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._users = 0
        self._closed = False

    @cached_property
    def metadata(self) -> dict[str, str]:
        """The header's values as text; arrays as llama.cpp prints them."""
        bulk = self._library.bulk
        with self._in_use() as handle:
            return {
                read_string(bulk.llama_model_meta_key_by_index, handle, index): read_string(
                    bulk.llama_model_meta_val_str_by_index, handle, index
                )
                for index in range(bulk.llama_model_meta_count(handle))
            }

    def retain(self) -> int:
        """Returns the pointer. The weights stay loaded until `release`, even if the model is closed meanwhile.

        Raises:
            EngineClosedError: the model was closed.
        """
        with self._lock:
            if self._closed:
                raise EngineClosedError(f"the model {self.path.name} was closed")
            self._users += 1
            return self._handle

    def release(self) -> None:
        """End one `retain`."""
        with self._lock:
            self._users -= 1
            self._free_if_unused()

    def close(self) -> None:
        """Refuse calls from now on, and free the weights once nothing uses them. May be called again."""
        if os.getpid() != self._pid:
            # In a forked child the weights and the lock belong to the parent. Freeing could wait for threads that
            # the child lacks; taking the lock could wait for ever.
            self._closed = True
            return
        with self._lock:
            if not self._closed:
                self._closed = True
                self._free_if_unused()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # At interpreter exit modules are gone already, and the system frees the memory.
        if hasattr(self, "_closed") and not is_finalizing():
            self.close()

    @contextmanager
    def _in_use(self) -> Generator[int]:
        handle = self.retain()
        try:
            yield handle
        finally:
            self.release()

    def _free_if_unused(self) -> None:
        if self._closed and self._users == 0 and self._handle:
            self._library.bulk.llama_model_free(self._handle)
            self._handle = 0
