"""Loads libllama once, as two sets of bindings, and keeps what it logs."""

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

# Calls that take microseconds. Giving up the GIL for them would cost a wait of up to the switch interval, 5 ms, to
# get it back from a busy thread.
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
        bulk: all of them, and the structs and constants; each call releases the GIL.
        tiny: those that are over within microseconds; they keep the GIL. `llama_get_logits` returns an address here.
    """

    bulk: Any
    tiny: Any


class _Log(threading.local):
    """What llama.cpp reported on this thread: its functions log on the thread that called them."""

    def __init__(self) -> None:
        self.failure: BaseException | None = None
        self._lines: deque[str] = deque(maxlen=20)
        self._keep = False

    def begin(self) -> None:
        """Forgets what was logged before."""
        self.failure = None
        self._lines.clear()

    def reason(self) -> str:
        """The warnings and errors since `begin`, oldest first, in one line; forgets them."""
        # Without the name of the C function that each line starts with, and without those that only say that it failed.
        texts = dict.fromkeys(line.strip().partition(": ")[2] or line.strip() for line in self._lines)
        self._lines.clear()
        telling = [text for text in texts if text and "failed to load model" not in text]
        return "; ".join(telling or texts) or "llama.cpp gave no reason"

    def write(self, level: int, text: str) -> None:
        """Takes one piece of llama.cpp's output; a piece of level 5 continues the line before."""
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
    """The bindings, loaded and initialised by the first call, from any thread."""
    global _loaded
    with _lock:
        if _loaded is None:
            _loaded = _load()
        return _loaded


def library_version() -> str:
    """Version of the bindings, and so of the llama.cpp that they come with."""
    return importlib.metadata.version("llama-cpp-python")


def _load() -> Library:
    # Imported here, so that importing headrace neither costs the import nor loads the shared library.
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
    # Python code cannot run any more when the last objects are freed, and NULL means standard error. So the last
    # callback is a C function that ignores its arguments and does nothing.
    silent = ctypes.cast(twins.llama_supports_mmap, bulk.llama_log_callback)
    _kept_callbacks.append(silent)
    atexit.register(bulk.llama_log_set, silent, None)
    bulk.llama_backend_init()
    return Library(bulk, tiny)


@contextlib.contextmanager
def _brief_spinning() -> Generator[None]:
    """Let compute threads that are loaded in here spin less while they wait for each other, unless the user has a say.

    By default GNU's OpenMP spins 300,000 times, some milliseconds, before it lets the system have the core. Where
    another process took the core of the thread that is waited for, that is what keeps it from coming back. A sixth of
    that is as good as long as nobody disturbs; much less is not, since threads that sleep have to be woken.
    """
    if any(name in os.environ for name in _SPINNING):
        yield
        return
    os.environ["GOMP_SPINCOUNT"] = str(_SPIN_COUNT)  # read once, when the library is loaded
    try:
        yield
    finally:
        del os.environ["GOMP_SPINCOUNT"]


def _on_log(level: int, text: bytes, _user_data: object) -> None:
    # An exception (Ctrl-C arrives in whatever Python code runs next) cannot pass through C: the caller raises it.
    try:
        log.write(level, text.decode("utf-8", "replace"))
    except BaseException as error:
        log.failure = error
