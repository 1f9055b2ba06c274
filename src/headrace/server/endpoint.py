"""What every endpoint that generates does, and what every route does about ids and errors."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

from fastapi import APIRouter, Depends, Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from headrace.api.lane import Job, Lane
from headrace.server.body import parse, read_body
from headrace.server.common import dumps
from headrace.server.disconnect import unless_left
from headrace.server.errors import ApiError, ErrorBody, as_api_error
from headrace.server.generation import Generated, Renderer
from headrace.server.service import Served, Service
from headrace.server.sse import EventStream, Source
from headrace.server.wire import Sampling
from headrace.values.errors import HeadraceError

__all__ = ["Exchange", "Route", "check_id", "error_response", "event_stream", "generate", "id_of", "router_of"]

_logger = logging.getLogger("headrace.server")
_ID = re.compile(r"[A-Za-z0-9._:=+@-]{1,128}")
_ERRORS: dict[int | str, dict[str, Any]] = {"4XX": {"model": ErrorBody}, "5XX": {"model": ErrorBody}}


class Exchange(Renderer, Protocol):
    """One request of an endpoint and its answer in the endpoint's own form."""

    @property
    def names(self) -> Mapping[str, str]:
        """What the wire calls the settings of StreamConfig, where it is something else."""
        ...

    @property
    def wants_tokens(self) -> bool:
        """Whether a response that is not streamed needs the tokens one by one."""
        ...

    def jobs(self, lane: Lane) -> Sequence[Job]:
        """A job for each choice.

        Raises:
            ApiError: the request asks for what cannot be done.
            HeadraceError: the same, in the words of the engine.
        """
        ...

    def whole(self, choices: Sequence[Generated]) -> dict[str, Any]:
        """The response that is not streamed."""
        ...


class Route(APIRoute):
    """A route whose responses carry the request's id, and whose errors look as the wire wants them."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The route's endpoint, wrapped."""
        handle = super().get_route_handler()

        async def handle_with_id(request: Request) -> Response:
            given, id = request.headers.get("x-request-id"), id_of(request)
            request.state.request_id = id
            try:
                if given is not None and request.method == "POST":  # others start nothing that would have this name
                    check_id(given)
                response = await handle(request)
            except ApiError as error:
                response = error_response(error)
                _log_refusal(request, id, error)
            except ClientDisconnect:
                response = Response(status_code=499)  # nobody will read it
            response.headers["X-Request-Id"] = id
            return response

        return handle_with_id


def check_id(id: str) -> None:
    """Raise ApiError, 400, where this cannot be the id of a request."""
    if _ID.fullmatch(id) is None:
        allowed = "1 to 128 letters, digits and . _ : = + @ -"
        message = f"X-Request-Id is {id[:140]!r}; allowed: {allowed}"
        raise ApiError(400, message, param="X-Request-Id", code="invalid_value")


def id_of(request: Request) -> str:
    """The id that a request came with, if it can be one, or a new one."""
    given = request.headers.get("x-request-id")
    return secrets.token_hex(12) if given is None or _ID.fullmatch(given) is None else given


def router_of(service: Service, tag: str, *, guarded: bool = True) -> APIRouter:
    """A router of this server.

    Args:
        service: what is behind it.
        tag: its heading in the documentation.
        guarded: whether it takes an API key, where the server has any.
    """
    dependencies = [Depends(service.keys.require)] if guarded else []
    return APIRouter(route_class=Route, tags=[tag], dependencies=dependencies, responses=_ERRORS)


def error_response(error: ApiError) -> Response:
    """An error as an HTTP response."""
    return Response(error.json(), error.status, error.headers, "application/json")


async def generate(
    service: Service,
    request: Request,
    kind: type[Sampling],
    make_exchange: Callable[[Any, Served, str], Exchange],
) -> Response:
    """Answer a request: parse it, start its streams, send what they bring.

    Args:
        service: what is behind it all.
        request: the request.
        kind: type of its body.
        make_exchange: makes the endpoint's exchange from the body, the model and the request's id.
    """
    id: str = request.state.request_id
    body = parse(kind, await read_body(request, service.max_body))
    served = service.find(body.model)
    if body.resumable and not body.stream:
        raise ApiError(400, "resumable is true, but stream is not; only streams can be resumed", param="resumable")
    exchange = make_exchange(body, served, id)
    try:
        service.check_room(served)  # when too many ask, most of them are answered here, and cheaply
        generation = await unless_left(
            request.receive, service.begin(served, exchange.jobs, id=id, turn=_client(request))
        )
        if not body.stream:
            choices = await unless_left(request.receive, generation.results(with_tokens=exchange.wants_tokens))
            return Response(dumps(exchange.whole(choices)), media_type="application/json")
    except HeadraceError as error:
        raise as_api_error(error, exchange.names) from None
    source = generation.events(exchange)
    if body.resumable:
        return event_stream(service, service.shelf.record(id, source).follow(0))
    return event_stream(service, source, on_leave=generation.cancel)


def event_stream(service: Service, source: Source, on_leave: Callable[[str], None] = lambda _: None) -> EventStream:
    """A streamed response with the service's settings."""
    settings = service.settings
    return EventStream(
        source,
        on_leave=on_leave,
        headers={},
        ping_interval=settings.ping_interval,
        stall_timeout=settings.stall_timeout_ms / 1000,
    )


def _client(request: Request) -> tuple[int | None, str | None]:
    """Who asks, as far as one can tell: whoever asks a lot shall not make others wait."""
    return request.state.key, request.client.host if request.client is not None else None


def _log_refusal(request: Request, id: str, error: ApiError) -> None:
    # The message may show what was given, and so a part of a prompt: it is for the client alone.
    path = getattr(request.scope.get("route"), "path", None)
    fields = {"id": id, "path": path, "status": error.status, "code": error.code, "param": error.known_param}
    _logger.info("refused", extra={"fields": fields})
