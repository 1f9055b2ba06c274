"""`Core`: a loaded model and its engine, which a `Model`, an `AsyncModel` and all contexts on them share."""

from __future__ import annotations

import itertools
import secrets
import warnings
from concurrent.futures import ThreadPoolExecutor

from headrace.chat.prompts import Prompts
from headrace.engine.loop import Engine
from headrace.values.config import StreamConfig
from headrace.values.vocabulary import Vocabulary

__all__ = ["Core"]


class Core:
    """A loaded model and its engine, shared by its Model, AsyncModel and contexts. Closing a model closes the core.

    Args:
        vocabulary: the model's vocabulary; closed with the core.
        engine: the engine; closed with the core.
        name: the model's name.
        config: the defaults of every stream.

    Attributes:
        prompts: makes the prompts.
        workers: the threads that make the prompts of async streams, so that neither the event loop nor the engine does.
    """

    def __init__(self, vocabulary: Vocabulary, engine: Engine, *, name: str, config: StreamConfig) -> None:
        self.vocabulary = vocabulary
        self.engine = engine
        self.name = name
        self.config = config
        self.prompts = Prompts(vocabulary, engine.max_length, name)
        self._ids = itertools.count(1)
        self._id_prefix = secrets.token_hex(4)
        self.workers = ThreadPoolExecutor(2, thread_name_prefix="headrace-prompt")

    def new_id(self) -> str:
        """Return a stream id that is unique."""
        return f"{self._id_prefix}-{next(self._ids)}"

    def close(self) -> None:
        """End every stream as "cancelled", and free the model. Any thread may call it, and again."""
        try:
            self.engine.close()
        finally:  # also if Ctrl-C interrupts the wait
            self.workers.shutdown(wait=False)
            self.vocabulary.close()

    def __del__(self) -> None:
        if hasattr(self, "workers") and not self.engine.is_closed:
            warnings.warn(f"the model {self.name!r} was not closed", ResourceWarning, stacklevel=1)
            self.engine.close_soon()  # without waiting for the engine, because any thread may drop the last reference
