"""`Job`: the settings of a stream that is to be started, and the function that makes its prompt."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from headrace.chat.prompts import Prepared
from headrace.values.config import StreamConfig

__all__ = ["Job"]


class Job(NamedTuple):
    """A stream that is to be started.

    Attributes:
        config: the settings.
        prepare: makes the prompt; too slow to run on an event loop.
        parse: makes an object of a complete output; None if the output is just text.
    """

    config: StreamConfig
    prepare: Callable[[], Prepared]
    parse: Callable[[str], object] | None = None

    def times(self, count: int) -> list[Job]:
        """Return jobs for several choices with one prompt, which is made once.

        If the settings have a seed, each choice gets one of its own, or all would be the same.
        """
        if count == 1:
            return [self]
        config, prepare = self.config, _PreparedOnce(self.prepare)
        seeds = [None if config.seed is None else (config.seed + choice) % 2**64 for choice in range(count)]
        configs = [config if seed is None else config.replace(seed=seed) for seed in seeds]
        return [Job(config, prepare, self.parse) for config in configs]


class _PreparedOnce:
    """The prompt of several streams, made when the first of them needs it."""

    def __init__(self, prepare: Callable[[], Prepared]) -> None:
        self._prepare = prepare
        self._lock = threading.Lock()
        self._prepared: Prepared | None = None

    def __call__(self) -> Prepared:
        with self._lock:
            if self._prepared is None:
                self._prepared = self._prepare()
            return self._prepared
