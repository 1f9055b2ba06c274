"""`library`: loads llama.cpp once, as two sets of bindings. `log`: the messages that llama.cpp logs."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib.metadata
import os
import threading
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

__all__ = ["Library", "library", "library_version", "log"]

_WARN, _ERROR, _CONTINUE = 3, 4, 5  # ggml_log_level

# Functions that take microseconds. They keep the GIL: getting it back from a busy thread would take up to the switch
# interval, 5 ms.
_TINY = (
    "llama_get_logits",
    "llama_memory_clear",
    "llama_memory_seq_cp",
    "llama_memory_seq_pos_max",
    "llama_memory_seq_pos_min",
    "llama_memory_seq_rm",
    "llama_model_chat_template",
    "llama_set_n_threads",
    "llama_token_to_piece",
    "llama_vocab_get_attr",
    "llama_vocab_get_text",
    "llama_vocab_is_eog",
)


@dataclass(frozen=True, slots=True)
class Library:
    """The functions of llama.h, by their C names.

    Attributes:
        bulk: all functions, structs and constants; each call releases the GIL.
        tiny: functions that take microseconds; they keep the GIL. Here `llama_get_logits` returns an address.
    """

    bulk: Any
    tiny: Any


class _Log(threading.local):
    """The warnings and errors that llama.cpp logged on this thread: its functions log on the calling thread.

    Attributes:
        failure: an exception that was raised inside a callback from C, for the caller to raise again.
    """

    def __init__(self) -> None:
        self.failure: BaseException | None = None
        self._lines: deque[str] = deque(maxlen=20)
        self._keep = False

    def begin(self) -> None:
        """Forget earlier messages."""
        self.failure = None
        self._lines.clear()

    def reason(self) -> str:
        """Returns the warnings and errors since `begin` in one line, oldest first, and forgets them."""
        # Drop the name of the C function at the start of each line, and lines that only say that loading failed.
        texts = dict.fromkeys(line.strip().partition(": ")[2] or line.strip() for line in self._lines)
        self._lines.clear()
        telling = [text for text in texts if text and "failed to load model" not in text]
        return "; ".join(telling or texts) or "llama.cpp gave no reason"

    def write(self, level: int, text: str) -> None:
        """Take in llama.cpp's output. A text of level 5 continues the line before it."""
        if level == _CONTINUE:
            if self._keep and self._lines:
                self._lines[-1] += text
            return
        self._keep = level in (_WARN, _ERROR)
        if self._keep:
            self._lines.append(text)


_SPINNING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
_SPIN_COUNT = 50_000

log = _Log()
_lock = threading.Lock()
_loaded: Library | None = None
_kept_callbacks: list[object] = []


def library() -> Library:
    """Returns the bindings. The first call, from any thread, loads and initialises llama.cpp."""
    global _loaded
    with _lock:
        if _loaded is None:
            _loaded = _load()
        return _loaded


def library_version() -> str:
    """Returns the version of llama-cpp-python, which contains llama.cpp."""
    return importlib.metadata.version("llama-cpp-python")


def _load() -> Library:
    # The import is here so that importing headrace does not load the shared library.
    with _brief_spinning():
        import llama_cpp.llama_cpp as bindings

    bulk: Any = bindings
    twins: Any = ctypes.PyDLL(bulk._lib._name)
    tiny = SimpleNamespace()
    for name in _TINY:
        function = getattr(twins, name)
        function.argtypes = getattr(bulk, name).argtypes
        function.restype = getattr(bulk, name).restype
        setattr(tiny, name, function)
    tiny.llama_get_logits.restype = ctypes.c_void_p

    callback = bulk.llama_log_callback(_on_log)
    _kept_callbacks.append(callback)
    bulk.llama_log_set(callback, None)
    # When the last objects are freed, Python code can no longer run, and a callback of NULL would log to standard
    # error. So the last callback is a C function that ignores its arguments and does nothing.
    silent = ctypes.cast(twins.llama_supports_mmap, bulk.llama_log_callback)
    _kept_callbacks.append(silent)
    atexit.register(bulk.llama_log_set, silent, None)
    bulk.llama_backend_init()
    return Library(bulk, tiny)


@contextlib.contextmanager
def _brief_spinning() -> Generator[None]:
    """Make OpenMP's compute threads spin less at barriers, if it is loaded in this block and the user has not chosen.

    By default GNU OpenMP spins 300,000 times, some milliseconds, before it gives up the core. If a thread has lost its
    core to another process, the other threads spin for it, and so keep it from running. On an idle machine, a sixth of
    the spinning is as fast. Much less is slower, since sleeping threads have to be woken.
    """
    if any(name in os.environ for name in _SPINNING):
        yield
        return
    os.environ["GOMP_SPINCOUNT"] = str(_SPIN_COUNT)  # OpenMP reads it once, when it is loaded
    try:
        yield
    finally:
        del os.environ["GOMP_SPINCOUNT"]


def _on_log(level: int, text: bytes, _user_data: object) -> None:
    # No exception can pass through C, not even Ctrl-C, which may arrive here. So the caller raises it again.
    try:
        log.write(level, text.decode("utf-8", "replace"))
    except BaseException as error:
        log.failure = error
