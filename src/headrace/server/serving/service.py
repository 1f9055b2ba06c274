"""`Service`: the served models and the running generations. It starts, cancels and drains generations."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Mapping, Sequence

from headrace.api.caller import Caller
from headrace.api.job import Job
from headrace.api.model import AsyncModel, Model, core_of
from headrace.server.http.api_keys import Keys
from headrace.server.http.errors import ApiError
from headrace.server.serving.event_log import EventLogs
from headrace.server.serving.generation import Generation
from headrace.server.serving.logs import log_stream
from headrace.server.serving.metrics import ServerMetrics, ServerState
from headrace.server.serving.served_model import ServedModel
from headrace.server.serving.settings import Settings
from headrace.values.errors import InvalidRequestError, QueueFullError

__all__ = ["Service"]


class Service:
    """The served models and the running generations: the state behind all routes.

    Args:
        settings: the server's settings.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.keys = Keys(settings.api_keys)
        self.metrics = ServerMetrics()
        self.event_logs = EventLogs(settings)
        self.is_draining = False
        self._is_cut_off = False
        self._served: dict[str, ServedModel] = {}
        self._loading: set[str] = set()
        self._live: dict[str, Generation | None] = {}  # by request id; None while its prompts are being made
        self._cancelled_early: set[str] = set()  # ids cancelled while their prompts are being made
        self._all_ended = asyncio.Event()

    @property
    def max_body(self) -> int:
        """The limit of a request's body, in bytes."""
        return int(self.settings.max_body_mb * 1_000_000)

    # Models.

    def expect(self, name: str) -> None:
        """Record that a model of this name is being loaded. Until `add`, requests for it are answered with 503."""
        self._loading.add(name)

    def add(self, name: str, model: Model | AsyncModel) -> None:
        """Serve a model. The service does not close it."""
        self._served[name] = ServedModel(name, core_of(model), self.settings)
        self._loading.discard(name)

    @property
    def served(self) -> Mapping[str, ServedModel]:
        """The served models, by name."""
        return self._served

    @property
    def is_ready(self) -> bool:
        """Whether a request can be served."""
        is_open = any(not served.core.engine.is_closed for served in self._served.values())
        return is_open and not self.is_draining

    @property
    def state(self) -> str:
        """The state in a word: "loading", "ready", "draining", or "failed" if no model could be loaded."""
        if self.is_draining:
            return "draining"
        if self.is_ready:
            return "ready"
        return "loading" if self._loading else "failed"

    def exposition(self) -> tuple[bytes, str]:
        """Returns the current metrics as text, and the text's media type."""
        engines = {name: served.core.engine.metrics() for name, served in self._served.items()}
        return self.metrics.exposition(ServerState(self.is_ready, len(self._live), engines))

    def find(self, name: str | None) -> ServedModel:
        """Returns a served model.

        Args:
            name: its name; None for the only model of this server.

        Raises:
            ApiError: 404, no such model; 503, it is being loaded; 400, no name is given and there are several models.
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
        """The running generations by request id; None while a request's prompts are being made."""
        return self._live

    def check_accepting(self) -> None:
        """Check that the server takes new requests.

        Raises:
            ApiError: 503, it is shutting down.
        """
        if self.is_draining:
            headers = {"Retry-After": "5", "Connection": "close"}
            message = "the server is shutting down; try again later"
            raise ApiError(503, message, type="server_error", code="server_draining", headers=headers)

    def check_room(self, served: ServedModel) -> None:
        """Check that a request for this model would be accepted now.

        Raises:
            ApiError: 503, the server is shutting down.
            QueueFullError: too many streams wait.
        """
        self.check_accepting()
        try:
            served.check_room()
        except QueueFullError:
            self.metrics.refused += 1
            raise

    async def begin(
        self, served: ServedModel, make_jobs: Callable[[Caller], Sequence[Job]], *, id: str, flow: Hashable
    ) -> Generation:
        """Start the streams of a request. They can be cancelled by the request's id, and are drained and counted.

        Args:
            served: the model.
            make_jobs: makes a job for each choice.
            id: the request's id.
            flow: the client. Flows take turns in the fair queue.

        Raises:
            ApiError: the request cannot be started.
            HeadraceError: the same. The endpoint must still translate the name of the parameter; see `as_api_error`.
        """
        self.check_accepting()
        if id in self._live or self.event_logs.has(id):
            message = f"X-Request-Id is {id!r}, which another stream has; allowed: another id, or none"
            raise ApiError(409, message, param="X-Request-Id", code="id_in_use", headers={"x-should-retry": "false"})
        caller = served.caller(flow)
        jobs = make_jobs(caller)
        max_choices = served.core.engine.max_streams + served.core.engine.max_queue
        if len(jobs) > max_choices:
            raise InvalidRequestError(
                "n", len(jobs), f"at most {max_choices} choices in all, which is what this server can hold"
            )
        self._live[id] = None
        try:
            streams = await served.open(caller, jobs, id)
        except BaseException as error:
            self._forget(id)
            if isinstance(error, QueueFullError):
                self.metrics.refused += 1
            raise
        # Choices of one prompt follow one another, and share `prepare`. The first one's stream represents the prompt.
        previous = [None, *(job.prepare for job in jobs)]
        prompts = [s for s, job, prepare in zip(streams, jobs, previous, strict=False) if job.prepare is not prepare]
        generation = Generation(id, served.name, streams, prompts, self._ended)
        self._live[id] = generation
        if id in self._cancelled_early:
            generation.cancel("request")
        if self.is_draining and self._is_cut_off:
            generation.cancel("shutdown")
        return generation

    def cancel(self, id: str) -> bool:
        """Cancel a generation by its request's id. Returns whether it was running."""
        if id not in self._live:
            return False
        generation = self._live[id]
        if generation is None:
            self._cancelled_early.add(id)
        else:
            generation.cancel("request")
        return True

    async def drain(self, timeout: float) -> None:
        """Take no more requests, wait for the running ones, and cancel those left after `timeout` seconds."""
        self.is_draining = True
        try:
            async with asyncio.timeout(timeout):
                await self.settle()
        except TimeoutError:
            self.cut_off()
            await self.settle()

    def cut_off(self) -> None:
        """Cancel all generations now. The last event of each is an error."""
        self.is_draining = self._is_cut_off = True
        for generation in list(self._live.values()):
            if generation is not None:
                generation.cancel("shutdown")

    async def settle(self) -> None:
        """Wait until no generation runs."""
        while self._live:
            self._all_ended.clear()
            await self._all_ended.wait()

    def _ended(self, generation: Generation) -> None:
        self._forget(generation.id)
        self.metrics.observe(generation)
        log_stream(generation)

    def _forget(self, id: str) -> None:
        del self._live[id]
        self._cancelled_early.discard(id)
        if not self._live:
            self._all_ended.set()
