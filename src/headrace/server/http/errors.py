"""What a client is told when something fails: one error class, and the one place where headrace's errors become it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

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

__all__ = ["ApiError", "ErrorBody", "as_api_error"]

# What the clients' automatic retries would only make worse: openai's libraries heed this header.
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
    """An error as the wire has it.

    Attributes:
        status: the HTTP status, where the response has not begun.
        message: what was wrong, what was given, what is allowed.
        type: the kind: "invalid_request_error", "rate_limit_error", "timeout_error", "server_error".
        param: the parameter to blame.
        code: the kind more precisely, for programs.
        headers: more headers for the response.
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
        """The parameter without what the client may have named itself, for the log."""
        if self.param is None or self.code == "unknown_parameter":
            return None
        return re.split(r"[.\[]", self.param, maxsplit=1)[0]

    def body(self) -> dict[str, Any]:
        """The error object."""
        return {"message": self.message, "type": self.type, "param": self.param, "code": self.code}

    def json(self) -> bytes:
        """The body of an error response, and the data of an error event."""
        return json.dumps({"error": self.body()}).encode()


def as_api_error(error: HeadraceError, names: Mapping[str, str] | None = None) -> ApiError:
    """What a client is told of one of headrace's errors.

    Args:
        error: the error.
        names: what the settings, or parts of them, are called on the wire, where that is something else; the longest
            that a place begins with counts.
    """
    if isinstance(error, ContextOverflowError):
        return ApiError(400, str(error), param=_named(error.field, names), code="context_length_exceeded")
    if isinstance(error, InvalidRequestError):
        param, message = _named(error.field, names), str(error)
        if param != error.field and message.startswith(error.field):
            message = param + message[len(error.field) :]
        return ApiError(400, message, param=param, code="invalid_value")
    if isinstance(error, QueueFullError):
        message = (
            f"the queue is full: {error.max_queue} streams may wait, and so many do; "
            f"try again in about {error.retry_after:.0f} s"
        )
        headers = {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
        return ApiError(429, message, type="rate_limit_error", code="queue_full", headers=headers)
    if isinstance(error, StreamTimeoutError):
        return ApiError(504, str(error), type="timeout_error", code="timeout", headers=_DO_NOT_RETRY)
    if isinstance(error, EngineClosedError):
        return ApiError(503, "the model is not loaded any more", type="server_error", code="model_unloaded")
    if isinstance(error, GenerationError):
        # What it was stands in the log: the message may come from anywhere, and name anything.
        message = "the engine failed this stream"
        return ApiError(500, message, type="server_error", code="generation_failed", headers=_DO_NOT_RETRY)
    return ApiError(500, "the server failed", type="server_error", code="internal_error")


def _named(field: str, names: Mapping[str, str] | None) -> str:
    known = [name for name in names or () if field == name or field.startswith((f"{name}.", f"{name}["))]
    if names is None or not known:
        return field
    longest = max(known, key=len)
    return names[longest] + field[len(longest) :]
