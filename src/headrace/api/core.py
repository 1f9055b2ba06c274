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
    """A loaded model and its engine, shared by both faces and all contexts. Closed once, by any of them.

    Args:
        vocabulary: turns text into tokens; closed with the core.
        engine: what generates; closed with the core.
        name: what to call the model.
        config: the defaults of every stream.

    Attributes:
        prompts: makes prompts for the model.
    """

    def __init__(self, vocabulary: Vocabulary, engine: Engine, *, name: str, config: StreamConfig) -> None:
        self.vocabulary = vocabulary
        self.engine = engine
        self.name = name
        self.config = config
        self.prompts = Prompts(vocabulary, engine.max_length, name)
        self._ids = itertools.count(1)
        self._prefix = secrets.token_hex(4)
        # Prompts of async streams are made here, so that neither the event loop nor the engine does it.
        self.workers = ThreadPoolExecutor(2, thread_name_prefix="headrace-prompt")

    def new_id(self) -> str:
        """An id that no other stream has."""
        return f"{self._prefix}-{next(self._ids)}"

    def close(self) -> None:
        """End every stream as "cancelled" and free the model. Any number of times, from any thread."""
        try:
            self.engine.close()
        finally:  # also where Ctrl-C cuts the waiting short
            self.workers.shutdown(wait=False)
            self.vocabulary.close()

    def __del__(self) -> None:
        if hasattr(self, "workers") and not self.engine.is_closed:
            warnings.warn(f"the model {self.name!r} was not closed", ResourceWarning, stacklevel=1)
            self.engine.close_soon()  # whoever drops the last reference must not wait for a step
