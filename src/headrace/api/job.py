"""`Job`: a stream to be, with its settings and what makes its prompt."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from headrace.chat.prompts import Prepared
from headrace.values.config import StreamConfig

__all__ = ["Job"]


class Job(NamedTuple):
    """A stream to be: its settings, and how to make its prompt, which is better not done on an event loop.

    Attributes:
        config: the settings.
        prepare: makes the prompt.
        parse: makes an object of an output that is complete; None where it is only text.
    """

    config: StreamConfig
    prepare: Callable[[], Prepared]
    parse: Callable[[str], object] | None = None

    def times(self, count: int) -> list[Job]:
        """So many choices for one prompt, which is made once; each has a seed of its own, or all would be the same."""
        if count == 1:
            return [self]
        config, prepare = self.config, _Shared(self.prepare)
        seeds = [None if config.seed is None else (config.seed + choice) % 2**64 for choice in range(count)]
        configs = [config if seed is None else config.replace(seed=seed) for seed in seeds]
        return [Job(config, prepare, self.parse) for config in configs]


class _Shared:
    """A prompt of several streams, made when the first of them asks for it."""

    def __init__(self, prepare: Callable[[], Prepared]) -> None:
        self._prepare = prepare
        self._lock = threading.Lock()
        self._prepared: Prepared | None = None

    def __call__(self) -> Prepared:
        with self._lock:
            if self._prepared is None:
                self._prepared = self._prepare()
            return self._prepared
