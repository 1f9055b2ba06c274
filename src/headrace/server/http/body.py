"""Request bodies: read up to a limit, parsed into the wire's types, and refused with the name of what is wrong."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json
from starlette.requests import Request

from headrace.server.http.errors import ApiError
from headrace.values.errors import shortened

__all__ = ["parse", "read_body", "request_body"]

_Model = TypeVar("_Model", bound=BaseModel)

# Keys that a JSON object may have; the largest that means something is a logit_bias.
_MAX_KEYS = 4096
# Objects and lists that a body may have: two seconds go by until a million of them are made.
_MAX_CONTAINERS = 50_000
_LARGE = 65_536  # bytes from which on a body is looked at before it is parsed
# One that does not end reaches to the end, so that no byte is looked at twice.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
# What pydantic puts into an error's place for the branches of a union; these are no names of fields. Tags of the wire's
# own begin with "=".
_BRANCHES = ("str", "int", "float", "bool", "list", "dict")


async def read_body(request: Request, limit: int) -> bytes:
    """The body of a request.

    Args:
        request: the request.
        limit: bytes it may have.

    Raises:
        ApiError: 413, it is longer; 415, it is not said to be JSON.
        ClientDisconnect: the client has left.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # Also what keeps other sites' pages out: a browser asks before it sends this type to another origin.
        message = f"Content-Type is {shortened(kind)}; allowed: application/json"
        raise ApiError(415, message, param="Content-Type", code="unsupported_media_type")
    if (coding := request.headers.get("content-encoding", "identity").strip().lower()) not in ("", "identity"):
        message = f"Content-Encoding is {shortened(coding)}; allowed: none"
        raise ApiError(415, message, param="Content-Encoding", code="unsupported_media_type")
    too_long = ApiError(413, f"the body is longer than {limit} bytes", code="body_too_large")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and len(length) < 20 and int(length) > limit:
        raise too_long
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise too_long
        parts.append(part)
    return b"".join(parts)


def parse(kind: type[_Model], body: bytes | str, what: str = "the body") -> _Model:
    """The body as a wire type.

    Args:
        kind: the type.
        body: JSON.
        what: what errors call it.

    Raises:
        ApiError: 400, with the name of the first parameter that is wrong.
    """
    if len(body) > _LARGE:
        _check_count(body.encode(errors="replace") if isinstance(body, str) else body, what)
        try:
            _check_size(from_json(body), what)
        except ValueError as error:
            raise ApiError(400, f"{what} is not valid JSON: {error}", code="invalid_json") from None
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _as_api_error(error, what) from None


def _check_count(body: bytes, what: str) -> None:
    """Refuse more objects and lists than anybody needs, before any of them is made."""
    if _num_containers(body) <= _MAX_CONTAINERS:
        return  # not even if they were all outside of strings
    if (count := _num_containers(_STRING.sub(b"", body))) > _MAX_CONTAINERS:
        message = f"{what} has {count} objects and lists; allowed: {_MAX_CONTAINERS}"
        raise ApiError(400, message, code="invalid_value")


def _num_containers(body: bytes) -> int:
    return body.count(b"{") + body.count(b"[")


def _check_size(value: object, what: str) -> None:
    """Refuse objects with more keys than anybody needs: each unknown one would be an error of its own."""
    pending = [value]
    while pending:
        one = pending.pop()
        values: Collection[object] = ()
        if isinstance(one, dict):
            values = cast("dict[str, object]", one).values()
            if len(values) > _MAX_KEYS:
                message = f"{what} has an object with {len(values)} keys; allowed: {_MAX_KEYS}"
                raise ApiError(400, message, code="invalid_value")
        elif isinstance(one, list):
            values = cast("list[object]", one)
        pending += [inner for inner in values if inner and isinstance(inner, (dict, list))]


def _as_api_error(error: ValidationError, what: str) -> ApiError:
    found = error.errors(include_url=False)
    # The branches of a union each complain; the one that came furthest knows best what was meant.
    first = max(found, key=lambda one: len(one["loc"]))
    param = _param(first["loc"], ends_in_key=first["type"] == "extra_forbidden")
    if first["type"] == "json_invalid":
        return ApiError(400, f"{what} is not valid JSON: {first.get('ctx', {}).get('error')}", code="invalid_json")
    what = f"{param or what}: "
    if first["type"] == "missing":
        return ApiError(400, f"{what}it is missing", param=param, code="missing_required_parameter")
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"{what}there is no such parameter", param=param, code="unknown_parameter")
    if first["type"] == "unsupported":
        return ApiError(400, f"{what}{first['msg']}", param=param, code="unsupported_parameter")
    given = shortened(first["input"])
    return ApiError(400, f"{what}{_message(first, found)}; given: {given}", param=param, code="invalid_value")


def _message(first: ErrorDetails, found: list[ErrorDetails]) -> str:
    place = _param(first["loc"])
    messages = dict.fromkeys(_lower(one["msg"]) for one in found if _param(one["loc"]) == place)
    return ", or ".join(messages)


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]


def _param(loc: tuple[int | str, ...], *, ends_in_key: bool = False) -> str | None:
    """The place of an error as one would write it: messages[2].content; None for the whole.

    Args:
        loc: pydantic's place of it.
        ends_in_key: whether its last part is what the client wrote, whatever that looks like.
    """
    param = ""
    for at, part in enumerate(loc):
        is_key = ends_in_key and at == len(loc) - 1
        if isinstance(part, int):
            param += f"[{part}]"
        elif is_key or (part not in _BRANCHES and "[" not in part and not part.startswith(("=", "constrained-"))):
            name = part if part and part.isprintable() and len(part) <= 100 else shortened(part)
            param += f".{name}" if param else name
    return param or None


def request_body(kind: type[BaseModel]) -> dict[str, Any]:
    """What the OpenAPI document says of a body that the endpoint itself reads."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _schema_of(kind)}}}}


def _schema_of(kind: type[BaseModel]) -> dict[str, Any]:
    # In one piece, because references would be into a document that the router does not know.
    schema = kind.model_json_schema()
    definitions = schema.pop("$defs", {})

    def inlined(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return inlined(definitions[cast("dict[str, str]", value)["$ref"].rpartition("/")[2]])
            return {key: inlined(one) for key, one in cast("dict[str, Any]", value).items()}
        return [inlined(one) for one in cast("list[Any]", value)] if isinstance(value, list) else value

    return inlined(schema)
