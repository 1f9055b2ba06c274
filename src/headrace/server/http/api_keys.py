"""`Keys`: the server's API keys, and the check of a request's key."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from hashlib import sha256
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from headrace.server.http.errors import ApiError

__all__ = ["Keys"]

_bearer = HTTPBearer(auto_error=False, description="One of the server's API keys, where it has any.")


class Keys:
    """The server's API keys. Without any, the server is open to everybody.

    Args:
        keys: the keys.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def check(self, key: str | None) -> int | None:
        """Check a key in constant time.

        Returns:
            The key's position among the server's keys; None where the server is open.

        Raises:
            ApiError: 401, the key is missing or wrong.
        """
        if not self._digests:
            return None
        given = _digest(key or "")
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        if not any(matches):
            message = "the API key is missing" if not key else "the API key is wrong"
            raise ApiError(
                401,
                f"{message}; send one of the server's in the header Authorization: Bearer KEY",
                param="Authorization",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return matches.index(True)

    async def require(
        self, request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
    ) -> None:
        """Check a request's key, as a dependency of a route. `request.state.key` is set to the key's position."""
        request.state.key = self.check(None if given is None else given.credentials)


def _digest(key: str) -> bytes:
    # All digests have one length, so the time of a comparison does not tell how long a key is.
    return sha256(key.encode(errors="surrogateescape")).digest()
