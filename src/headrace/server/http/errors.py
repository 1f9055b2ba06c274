"""`ApiError`: an error as a client sees it. `as_api_error` maps headrace's errors to it, `error_response` to HTTP."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from fastapi import Response
from pydantic import BaseModel

from headrace.values.errors import (
    ContextOverflowError,
    EngineClosedError,
    GenerationError,
    HeadraceError,
    InvalidRequestError,
    QueueFullError,
    StreamTimeoutError,
)

__all__ = ["ApiError", "ErrorBody", "as_api_error", "error_response"]

# OpenAI's client libraries heed this header. Retrying these errors automatically would only make them worse.
_DO_NOT_RETRY = {"x-should-retry": "false"}


class ErrorDetails(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every response that is an error."""

    error: ErrorDetails


class ApiError(Exception):
    """An error as a client sees it.

    Attributes:
        status: the HTTP status; only used where the response has not begun.
        message: what was wrong, what was given, what is allowed.
        type: the kind of error: "invalid_request_error", "rate_limit_error", "timeout_error", "server_error".
        param: the parameter that is wrong.
        code: a more precise kind, for programs.
        headers: more headers of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    @property
    def known_param(self) -> str | None:
        """The parameter for the log, without names that the client made up."""
        if self.param is None or self.code == "unknown_parameter":
            return None
        return re.split(r"[.\[]", self.param, maxsplit=1)[0]

    def body(self) -> dict[str, Any]:
        """Returns the error as a JSON object."""
        return {"message": self.message, "type": self.type, "param": self.param, "code": self.code}

    def json(self) -> bytes:
        """Returns the body of an error response, which is also the data of an error event."""
        return json.dumps({"error": self.body()}).encode()


def as_api_error(error: HeadraceError, names: Mapping[str, str] | None = None) -> ApiError:
    """Maps one of headrace's errors to the error that a client gets.

    Args:
        error: the error.
        names: the endpoint's names of settings, if they differ, by the names in headrace. A name may be nested, such as
            "tools[0].function"; the longest name that the error's field begins with counts.
    """
    if isinstance(error, ContextOverflowError):
        return ApiError(400, str(error), param=_wire_name(error.field, names), code="context_length_exceeded")
    if isinstance(error, InvalidRequestError):
        param, message = _wire_name(error.field, names), str(error)
        if param != error.field and message.startswith(error.field):
            message = param + message[len(error.field) :]
        return ApiError(400, message, param=param, code="invalid_value")
    if isinstance(error, QueueFullError):
        message = (
            f"the queue is full: {error.max_queue} streams are waiting, which is the limit; "
            f"try again in about {error.retry_after:.0f} s"
        )
        headers = {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
        return ApiError(429, message, type="rate_limit_error", code="queue_full", headers=headers)
    if isinstance(error, StreamTimeoutError):
        return ApiError(504, str(error), type="timeout_error", code="timeout", headers=_DO_NOT_RETRY)
    if isinstance(error, EngineClosedError):
        return ApiError(503, "the model is not loaded any more", type="server_error", code="model_unloaded")
    if isinstance(error, GenerationError):
        # The message is only logged: it may come from anywhere and quote anything.
        message = "the engine failed this stream"
        return ApiError(500, message, type="server_error", code="generation_failed", headers=_DO_NOT_RETRY)
    return ApiError(500, "the server failed", type="server_error", code="internal_error")


def error_response(error: ApiError) -> Response:
    """Returns an error as an HTTP response."""
    return Response(error.json(), error.status, error.headers, "application/json")


def _wire_name(field: str, names: Mapping[str, str] | None) -> str:
    known = [name for name in names or () if field == name or field.startswith((f"{name}.", f"{name}["))]
    if names is None or not known:
        return field
    longest = max(known, key=len)
    return names[longest] + field[len(longest) :]
