"""`ServedModel`: a loaded model under the name that clients use for it."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence

from headrace.api.caller import Caller
from headrace.api.core import Core
from headrace.api.job import Job
from headrace.api.stream import AsyncTokenStream
from headrace.server.serving.settings import Settings
from headrace.values.config import speculation_of

__all__ = ["ServedModel"]


class ServedModel:
    """A loaded model with its name, its prices and the default settings of its streams."""

    def __init__(self, name: str, core: Core, settings: Settings) -> None:
        self.name = name
        self.core = core
        self.created = int(time.time())
        self.pricing = settings.pricing or core.config.pricing
        self.defaults = core.config.replace(timeout_ms=settings.timeout_ms, pricing=self.pricing)
        if settings.speculation is not None:
            self.defaults = self.defaults.replace(speculation=speculation_of(settings.speculation))
        # Streams whose prompts are being made. The engine does not count them yet, but they will need slots.
        self._opening: set[str] = set()

    @property
    def max_tokens(self) -> int:
        """The default of `max_tokens`: the length of the context."""
        return self.core.engine.max_length

    def caller(self, flow: Hashable) -> Caller:
        """Returns a caller for one request. Requests with the same `flow` share one flow in the fair queue."""
        return Caller(self.core, self.defaults, flow=flow)

    def check_room(self, count: int = 1) -> None:
        """Check that more streams can be queued, in addition to those whose prompts are being made.

        Raises:
            QueueFullError: there is no room for them.
        """
        self.core.engine.check_room(len(self._opening) + count)

    async def open(self, caller: Caller, jobs: Sequence[Job], id: str) -> list[AsyncTokenStream]:
        """Start a stream for each job, or none at all.

        Raises:
            QueueFullError: there is no room for all of them; raised before any work is done.
            HeadraceError: one of them cannot be started for another reason.
        """
        self.check_room(len(jobs))
        names = [id] if len(jobs) == 1 else [f"{id}/{number}" for number in range(len(jobs))]
        self._opening.update(names)
        streams: list[AsyncTokenStream] = []
        try:
            for job, name in zip(jobs, names, strict=True):
                streams.append(await caller.open(job, id=name))
                self._opening.discard(name)  # from here on the engine counts it
        except BaseException:
            for stream in streams:
                stream.cancel()
            raise
        finally:
            self._opening.difference_update(names)
        return streams
