"""Request bodies: `read_body` reads a body up to a limit, `parse` validates it and names what is wrong."""

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

# Keys that a JSON object may have. The largest object that makes sense is a logit_bias.
_MAX_KEYS = 4096
# Objects and lists that a body may have. To make a million of them takes two seconds.
_MAX_CONTAINERS = 50_000
# Bodies with more bytes than this are checked before pydantic parses them.
_LARGE = 65_536
# A JSON string. An unterminated one matches up to the end, so that no byte is scanned twice.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
# pydantic puts the branches of a union into an error's place. These are not names of fields, and neither are our own
# tags of branches, which begin with "=".
_BRANCHES = ("str", "int", "float", "bool", "list", "dict")


async def read_body(request: Request, limit: int) -> bytes:
    """Returns the body of a request.

    Args:
        request: the request.
        limit: bytes that the body may have.

    Raises:
        ApiError: 413, the body is longer; 415, the Content-Type is not JSON, or the body is compressed.
        ClientDisconnect: the client has left.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # This also keeps out pages of other sites: a browser asks before it sends JSON to another origin.
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
    """Returns a JSON text as a pydantic type.

    Args:
        kind: the type.
        body: the JSON text.
        what: the text's name in an error.

    Raises:
        ApiError: 400, it is not JSON, or a parameter is wrong; the error names the parameter.
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
    """Refuse a text with too many objects and lists before they are made."""
    if _num_containers(body) <= _MAX_CONTAINERS:
        return  # there are few enough brackets, even counting those in strings
    if (count := _num_containers(_STRING.sub(b"", body))) > _MAX_CONTAINERS:
        message = f"{what} has {count} objects and lists; allowed: {_MAX_CONTAINERS}"
        raise ApiError(400, message, code="invalid_value")


def _num_containers(body: bytes) -> int:
    return body.count(b"{") + body.count(b"[")


def _check_size(value: object, what: str) -> None:
    """Refuse objects with too many keys: pydantic would make an error for each unknown key."""
    pending = [value]
    while pending:
        outer = pending.pop()
        values: Collection[object] = ()
        if isinstance(outer, dict):
            values = cast("dict[str, object]", outer).values()
            if len(values) > _MAX_KEYS:
                message = f"{what} has an object with {len(values)} keys; allowed: {_MAX_KEYS}"
                raise ApiError(400, message, code="invalid_value")
        elif isinstance(outer, list):
            values = cast("list[object]", outer)
        pending += [inner for inner in values if inner and isinstance(inner, (dict, list))]


def _as_api_error(error: ValidationError, what: str) -> ApiError:
    found = error.errors(include_url=False)
    # Each branch of a union has errors. The client most likely meant the branch with the deepest error.
    first = max(found, key=lambda candidate: len(candidate["loc"]))
    param = _param(first["loc"], ends_in_key=first["type"] == "extra_forbidden")
    if first["type"] == "json_invalid":
        return ApiError(400, f"{what} is not valid JSON: {first.get('ctx', {}).get('error')}", code="invalid_json")
    place = f"{param or what}: "
    if first["type"] == "missing":
        return ApiError(400, f"{place}it is missing", param=param, code="missing_required_parameter")
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"{place}there is no such parameter", param=param, code="unknown_parameter")
    if first["type"] == "unsupported":
        return ApiError(400, f"{place}{first['msg']}", param=param, code="unsupported_parameter")
    given = shortened(first["input"])
    return ApiError(400, f"{place}{_message(first, found)}; given: {given}", param=param, code="invalid_value")


def _message(first: ErrorDetails, found: list[ErrorDetails]) -> str:
    place = _param(first["loc"])
    messages = dict.fromkeys(_lower(error["msg"]) for error in found if _param(error["loc"]) == place)
    return ", or ".join(messages)


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]


def _param(loc: tuple[int | str, ...], *, ends_in_key: bool = False) -> str | None:
    """Returns the path of the parameter that an error is about, such as "messages[2].content"; None for the whole body.

    Args:
        loc: the error's location, from pydantic.
        ends_in_key: whether the last part of the location is a key that the client wrote, even if it looks like a tag.
    """
    param = ""
    for index, part in enumerate(loc):
        is_key = ends_in_key and index == len(loc) - 1
        if isinstance(part, int):
            param += f"[{part}]"
        elif is_key or (part not in _BRANCHES and "[" not in part and not part.startswith(("=", "constrained-"))):
            name = part if part and part.isprintable() and len(part) <= 100 else shortened(part)
            param += f".{name}" if param else name
    return param or None


def request_body(kind: type[BaseModel]) -> dict[str, Any]:
    """Returns the OpenAPI description of a body that the endpoint parses itself."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _schema_of(kind)}}}}


def _schema_of(kind: type[BaseModel]) -> dict[str, Any]:
    # Definitions are inlined, because a reference would point into a document that the router does not know.
    schema = kind.model_json_schema()
    definitions = schema.pop("$defs", {})

    def inlined(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return inlined(definitions[cast("dict[str, str]", value)["$ref"].rpartition("/")[2]])
            return {key: inlined(inner) for key, inner in cast("dict[str, Any]", value).items()}
        return [inlined(inner) for inner in cast("list[Any]", value)] if isinstance(value, list) else value

    return inlined(schema)
