"""The id of a request: the header `X-Request-Id`, or a new id."""

from __future__ import annotations

import re
import secrets

from fastapi import Request

from headrace.server.http.errors import ApiError

__all__ = ["check_id", "id_of"]

_ID = re.compile(r"[A-Za-z0-9._:=+@-]{1,128}")


def check_id(id: str) -> None:
    """Check that this can be the id of a request.

    Raises:
        ApiError: 400, it cannot.
    """
    if _ID.fullmatch(id) is None:
        allowed = "1 to 128 letters, digits and . _ : = + @ -"
        message = f"X-Request-Id is {id[:140]!r}; allowed: {allowed}"
        raise ApiError(400, message, param="X-Request-Id", code="invalid_value")


def id_of(request: Request) -> str:
    """Returns the id in the request's header if it is a valid one, otherwise a new id."""
    given = request.headers.get("x-request-id")
    return secrets.token_hex(12) if given is None or _ID.fullmatch(given) is None else given
