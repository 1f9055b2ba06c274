"""The handshake of a WebSocket: reads the API key, checks the origin of the page, and refuses handshakes."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from headrace.server.http.errors import ApiError, error_response

__all__ = ["SUBPROTOCOL", "check_origin", "key_of", "refuse"]

# A browser can send a key only as a subprotocol. It offers two: this one, and the key in base64url behind a prefix.
SUBPROTOCOL = "headrace"
_KEY_SUBPROTOCOL = "headrace.key."


def key_of(headers: Headers, offered: Sequence[str]) -> str | None:
    """Returns the API key of a handshake, from the header Authorization or from an offered subprotocol."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    for subprotocol in offered:
        if subprotocol.startswith(_KEY_SUBPROTOCOL):
            encoded = subprotocol.removeprefix(_KEY_SUBPROTOCOL)
            with contextlib.suppress(ValueError):
                return base64.b64decode(encoded + "=" * (-len(encoded) % 4), b"-_", validate=True).decode()
    return None


def check_origin(headers: Headers, allowed: Sequence[str]) -> None:
    """Refuse pages of other sites. Browsers let any page open a WebSocket to any origin, without CORS.

    Args:
        headers: of the handshake.
        allowed: origins allowed beside the server's own; "*" for all.

    Raises:
        ApiError: 403, the origin is not allowed.
    """
    origin, host = headers.get("origin"), headers.get("host", "").lower()
    if origin is None or origin in allowed or "*" in allowed:
        return
    if origin.lower() not in (f"http://{host}", f"https://{host}"):
        message = (
            f"Origin is {origin[:200]!r}; allowed: this server's own origin, and those of its setting cors_origins"
        )
        raise ApiError(403, message, param="Origin", code="origin_not_allowed")


async def refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a handshake with an error."""
    if "websocket.http.response" in scope.get("extensions", {}):
        await error_response(error)(scope, receive, send)
    else:
        await send({"type": "websocket.close"})  # before an accept, ASGI servers answer this with a 403
