"""What all endpoints share: the models, the generations that run, and the way from a request to its streams."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Mapping, Sequence

from headrace.api.caller import Caller
from headrace.api.core import Core
from headrace.api.job import Job
from headrace.api.model import AsyncModel, Model, core_of
from headrace.api.stream import AsyncTokenStream
from headrace.server.http.api_keys import Keys
from headrace.server.http.errors import ApiError
from headrace.server.serving.event_log import EventLogs
from headrace.server.serving.generation import Generation
from headrace.server.serving.logs import log_stream
from headrace.server.serving.metrics import ServerMetrics, ServerState
from headrace.server.serving.settings import Settings
from headrace.values.config import speculation_of
from headrace.values.errors import InvalidRequestError, QueueFullError

__all__ = ["Served", "Service"]


class Served:
    """A model under the name by which clients ask for it."""

    def __init__(self, name: str, core: Core, settings: Settings) -> None:
        self.name = name
        self.core = core
        self.created = int(time.time())
        self.pricing = settings.pricing or core.config.pricing
        self.defaults = core.config.replace(timeout_ms=settings.timeout_ms, pricing=self.pricing)
        if settings.speculation is not None:
            self.defaults = self.defaults.replace(speculation=speculation_of(settings.speculation))
        self._opening: set[str] = set()  # streams whose prompts are being made: they will want places

    @property
    def max_tokens(self) -> int:
        """What an answer may have where nobody says: all that the context holds."""
        return self.core.engine.max_length

    def caller(self, flow: Hashable) -> Caller:
        """A caller for one request; those of one client share a flow in the queue."""
        return Caller(self.core, self.defaults, flow=flow)

    def check_room(self, count: int = 1) -> None:
        """Raise QueueFullError where so many streams, and those whose prompts are being made, would be too many."""
        self.core.engine.check_room(len(self._opening) + count)

    async def open(self, caller: Caller, jobs: Sequence[Job], id: str) -> list[AsyncTokenStream]:
        """Start a stream for each job, or none.

        Raises:
            QueueFullError: not all of them find a place; said before any work is done for them.
            HeadraceError: whatever else keeps one of them from starting.
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


class Service:
    """The state behind the routes.

    Args:
        settings: how to behave.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.keys = Keys(settings.api_keys)
        self.metrics = ServerMetrics()
        self.event_logs = EventLogs(settings)
        self.is_draining = False
        self._is_cut_off = False
        self._served: dict[str, Served] = {}
        self._loading: set[str] = set()
        self._live: dict[str, Generation | None] = {}  # None while its prompt is being made
        self._unwanted: set[str] = set()  # of those, the ones that were cancelled by name
        self._all_ended = asyncio.Event()

    @property
    def max_body(self) -> int:
        """Bytes that the body of a request may have."""
        return int(self.settings.max_body_mb * 1_000_000)

    # Models.

    def expect(self, name: str) -> None:
        """Say that a model of this name is being loaded: until it is there, requests for it are told so."""
        self._loading.add(name)

    def add(self, name: str, model: Model | AsyncModel) -> None:
        """Serve a model; whoever loaded it closes it."""
        self._served[name] = Served(name, core_of(model), self.settings)
        self._loading.discard(name)

    @property
    def served(self) -> Mapping[str, Served]:
        """The models that are there, by name."""
        return self._served

    @property
    def is_ready(self) -> bool:
        """Whether a request can be served."""
        is_open = any(not served.core.engine.is_closed for served in self._served.values())
        return is_open and not self.is_draining

    @property
    def state(self) -> str:
        """What it is doing, in a word."""
        if self.is_draining:
            return "draining"
        if self.is_ready:
            return "ready"
        return "loading" if self._loading else "failed"

    def exposition(self) -> tuple[bytes, str]:
        """The metrics at this moment as text, and its media type."""
        engines = {name: served.core.engine.metrics() for name, served in self._served.items()}
        return self.metrics.exposition(ServerState(self.is_ready, len(self._live), engines))

    def find(self, name: str | None) -> Served:
        """The model of this name; None for the only one that there is.

        Raises:
            ApiError: 404, there is none; 503, it is being loaded; 400, there are several, and no name was given.
        """
        if name is None:
            names = sorted({*self._served, *self._loading})
            if len(names) != 1:
                message = f"model: it is missing; allowed: {', '.join(names) or 'none'}"
                raise ApiError(400, message, param="model", code="missing_required_parameter")
            name = names[0]
        served = self._served.get(name)
        if served is not None:
            return served
        if name in self._loading:
            raise ApiError(
                503,
                f"the model {name!r} is being loaded",
                type="server_error",
                code="model_loading",
                headers={"Retry-After": "1"},
            )
        known = ", ".join(sorted(self._served)) or "none"
        message = f"model is {name[:100]!r}; allowed: {known}"
        raise ApiError(404, message, param="model", code="model_not_found")

    # Generations.

    @property
    def live(self) -> Mapping[str, Generation | None]:
        """The generations that run, by the ids of their requests."""
        return self._live

    def check_accepting(self) -> None:
        """Raise ApiError where the server is about to stop."""
        if self.is_draining:
            headers = {"Retry-After": "5", "Connection": "close"}
            message = "the server is shutting down; ask its successor"
            raise ApiError(503, message, type="server_error", code="server_draining", headers=headers)

    def check_room(self, served: Served) -> None:
        """Raise QueueFullError, or ApiError, where a request for this model would be refused in any case."""
        self.check_accepting()
        try:
            served.check_room()
        except QueueFullError:
            self.metrics.refused += 1
            raise

    async def begin(
        self, served: Served, make_jobs: Callable[[Caller], Sequence[Job]], *, id: str, flow: Hashable
    ) -> Generation:
        """Start the streams of a request; from here on they are cancelled by its id, drained and reported.

        Args:
            served: the model.
            make_jobs: makes a job for each choice.
            id: the request's id.
            flow: the client, whose requests take turns with those of other clients.

        Raises:
            ApiError: it cannot be started.
            HeadraceError: the same, where only the endpoint knows what to call the parameter to blame.
        """
        self.check_accepting()
        if id in self._live or self.event_logs.has(id):
            message = f"X-Request-Id is {id!r}, which another stream has; allowed: an id of its own, or none"
            raise ApiError(409, message, param="X-Request-Id", code="id_in_use", headers={"x-should-retry": "false"})
        caller = served.caller(flow)
        jobs = make_jobs(caller)
        most = served.core.engine.max_streams + served.core.engine.max_queue
        if len(jobs) > most:
            raise InvalidRequestError(
                "n", len(jobs), f"at most {most} choices in all, which is what this server can hold"
            )
        self._live[id] = None
        try:
            streams = await served.open(caller, jobs, id)
        except BaseException as error:
            self._forget(id)
            if isinstance(error, QueueFullError):
                self.metrics.refused += 1
            raise
        before = [None, *(job.prepare for job in jobs)]
        prompts = [one for one, job, last in zip(streams, jobs, before, strict=False) if job.prepare is not last]
        generation = Generation(id, served.name, streams, prompts, self._ended)
        self._live[id] = generation
        if id in self._unwanted:
            generation.cancel("request")
        if self.is_draining and self._is_cut_off:
            generation.cancel("shutdown")
        return generation

    def cancel(self, id: str) -> bool:
        """Cancel a generation by name; whether there was one."""
        if id not in self._live:
            return False
        generation = self._live[id]
        if generation is None:
            self._unwanted.add(id)
        else:
            generation.cancel("request")
        return True

    async def drain(self, timeout: float) -> None:
        """Take no more requests, wait for those that run, and end what is left after `timeout` seconds."""
        self.is_draining = True
        try:
            async with asyncio.timeout(timeout):
                await self.settle()
        except TimeoutError:
            self.cut_off()
            await self.settle()

    def cut_off(self) -> None:
        """End everything that runs, now, each with a terminal event."""
        self.is_draining = self._is_cut_off = True
        for generation in list(self._live.values()):
            if generation is not None:
                generation.cancel("shutdown")

    async def settle(self) -> None:
        """Wait until no generation is left."""
        while self._live:
            self._all_ended.clear()
            await self._all_ended.wait()

    def _ended(self, generation: Generation) -> None:
        self._forget(generation.id)
        self.metrics.observe(generation)
        log_stream(generation)

    def _forget(self, id: str) -> None:
        del self._live[id]
        self._unwanted.discard(id)
        if not self._live:
            self._all_ended.set()
