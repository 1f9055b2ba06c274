"""`page_router`: the chat page at `/`, and the client for browsers at `/headrace.js`. All are static files."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from fastapi import APIRouter, Request, Response

from headrace.server.http.errors import ApiError
from headrace.server.http.routes import router_of
from headrace.server.serving.service import Service

__all__ = ["page_router"]

_FOLDER = Path(__file__).parents[1] / "web"
_TYPES = {".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".svg": "image/svg+xml"}
_HEADERS = {
    # Scripts and styles come from this server only. Nothing is sent elsewhere. No text becomes markup unless DOMPurify
    # has sanitized it. No other page can put this one in a frame.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types dompurify headrace-worker"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Browsers ask again each time, and get a 304 if nothing has changed. So the page always fits the server's version.
    "Cache-Control": "no-cache",
}


class _File(NamedTuple):
    content: bytes
    media_type: str
    tag: str


def page_router(service: Service) -> APIRouter:
    """Returns the routes, to be included in an app.

    They ask for no API key, because a browser would send none, and the files are not secret. The page asks its user for
    the key of the other routes.
    """
    router = router_of(service.keys, "Page", guarded=False)
    files = _read_files()

    @router.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        return _response(files, "index.html", request)

    @router.get("/headrace.js", include_in_schema=False)
    async def client(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        return _response(files, "headrace.js", request)

    @router.get("/page/{name}", include_in_schema=False)
    async def part(name: str, request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        return _response(files, f"page/{name}", request)

    @router.get("/vendor/{name}", include_in_schema=False)
    async def vendor(name: str, request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        return _response(files, f"vendor/{name}", request)

    return router


def _read_files() -> dict[str, _File]:
    """Returns all files, by path. Files in vendor/ may be missing; then the page shows answers as plain text."""
    files: dict[str, _File] = {}
    for pattern in ("*", "page/*", "vendor/*"):
        for path in _FOLDER.glob(pattern):
            if path.suffix in _TYPES:
                content = path.read_bytes()
                media_type = f"{_TYPES[path.suffix]}; charset=utf-8"
                tag = f'"{sha256(content).hexdigest()[:32]}"'
                files[path.relative_to(_FOLDER).as_posix()] = _File(content, media_type, tag)
    return files


def _response(files: dict[str, _File], path: str, request: Request) -> Response:
    file = files.get(path)
    if file is None:
        raise ApiError(404, f"there is no file {path[:200]!r}", code="not_found")
    headers = {**_HEADERS, "ETag": file.tag}
    if file.tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers={**headers, "Content-Type": file.media_type})
