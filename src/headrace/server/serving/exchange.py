"""`generate`: answers generating requests of every HTTP endpoint. `Exchange`: the part that differs by endpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict

from headrace.api.caller import Caller
from headrace.api.job import Job
from headrace.server.http.body import parse, read_body
from headrace.server.http.disconnect import cancel_on_disconnect
from headrace.server.http.errors import ApiError, as_api_error
from headrace.server.http.json_text import dumps
from headrace.server.http.sse import EventStream, Source
from headrace.server.serving.generation import FinishedChoice, Renderer
from headrace.server.serving.served_model import ServedModel
from headrace.server.serving.service import Service
from headrace.values.errors import HeadraceError

__all__ = ["Exchange", "GenerationBody", "event_stream", "generate"]


class GenerationBody(BaseModel):
    """The fields that every generating endpoint has in its body.

    Attributes:
        model: the model's name.
        stream: whether the answer is streamed.
        resumable: whether the stream goes on when the client disconnects, so that it can be resumed.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    stream: bool | None = None
    resumable: bool | None = None


_Body = TypeVar("_Body", bound=GenerationBody)


class Exchange(Renderer, Protocol):
    """One request to an endpoint, and its answer in the endpoint's JSON."""

    @property
    def names(self) -> Mapping[str, str]:
        """The endpoint's names of settings that `StreamConfig` names differently, by the names in `StreamConfig`."""
        ...

    @property
    def wants_tokens(self) -> bool:
        """Whether `full_response` needs the tokens as well as the results."""
        ...

    def jobs(self, caller: Caller) -> Sequence[Job]:
        """Returns a job for each choice.

        Raises:
            ApiError: a parameter is wrong.
            HeadraceError: a setting is wrong. The caller must still translate its name with `names`.
        """
        ...

    def full_response(self, choices: Sequence[FinishedChoice]) -> dict[str, Any]:
        """Returns the body of a response that is not streamed."""
        ...


async def generate(
    service: Service,
    request: Request,
    kind: type[_Body],
    make_exchange: Callable[[_Body, ServedModel, str], Exchange],
) -> Response:
    """Answer a request: parse the body, start the streams, send their tokens.

    Args:
        service: the models and the generations.
        request: the request.
        kind: the type of its body.
        make_exchange: makes the endpoint's exchange from the body, the model and the request's id.
    """
    id: str = request.state.request_id
    body = parse(kind, await read_body(request, service.max_body))
    served = service.find(body.model)
    if body.resumable and not body.stream:
        raise ApiError(400, "resumable is true, but stream is not; only streams can be resumed", param="resumable")
    exchange = make_exchange(body, served, id)
    try:
        service.check_room(served)  # first, so that requests that must be refused cost no work
        generation = await cancel_on_disconnect(
            request.receive, service.begin(served, exchange.jobs, id=id, flow=_flow_of(request))
        )
        if not body.stream:
            choices = await cancel_on_disconnect(request.receive, generation.results(with_tokens=exchange.wants_tokens))
            return Response(dumps(exchange.full_response(choices)), media_type="application/json")
    except HeadraceError as error:
        raise as_api_error(error, exchange.names) from None
    source = generation.events(exchange)
    if body.resumable:
        return event_stream(service, service.event_logs.record(id, source).follow(0))
    return event_stream(service, source, on_leave=generation.cancel)


def event_stream(service: Service, source: Source, on_leave: Callable[[str], None] = lambda _: None) -> EventStream:
    """Returns a streamed response with the service's settings."""
    settings = service.settings
    return EventStream(
        source,
        on_leave=on_leave,
        headers={},
        ping_interval=settings.ping_interval,
        stall_timeout=settings.stall_timeout_ms / 1000,
    )


def _flow_of(request: Request) -> tuple[int | None, str | None]:
    """Returns the client's flow in the fair queue: its API key's number and its address."""
    return request.state.key, request.client.host if request.client is not None else None
