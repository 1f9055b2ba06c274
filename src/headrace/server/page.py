"""The chat page at `/`, and the client for browsers at `/headrace.js`: files, the same for everybody."""

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
    # Scripts and styles come from here alone, nothing is sent elsewhere, no text becomes markup unless DOMPurify has
    # made it harmless, and no other page can put this one in a frame.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types dompurify headrace-worker"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Asked for again each time, and answered with a 304 where nothing has changed: the page is always the server's own.
    "Cache-Control": "no-cache",
}


class _File(NamedTuple):
    content: bytes
    media_type: str
    tag: str


def page_router(service: Service) -> APIRouter:
    """The routes, to be included in an app.

    They ask for no API key: a browser would not send one, and nothing in them is secret. The page asks its user for it.
    """
    router = router_of(service.keys, "Page", guarded=False)
    files = _read_files()

    @router.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        return _answer(files, "index.html", request)

    @router.get("/headrace.js", include_in_schema=False)
    async def client(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        return _answer(files, "headrace.js", request)

    @router.get("/page/{name}", include_in_schema=False)
    async def part(name: str, request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        return _answer(files, f"page/{name}", request)

    @router.get("/vendor/{name}", include_in_schema=False)
    async def vendor(name: str, request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        return _answer(files, f"vendor/{name}", request)

    return router


def _read_files() -> dict[str, _File]:
    """All files by their paths. Those in vendor/ may be missing; then the page shows answers as plain text."""
    files: dict[str, _File] = {}
    for pattern in ("*", "page/*", "vendor/*"):
        for path in _FOLDER.glob(pattern):
            if path.suffix in _TYPES:
                content = path.read_bytes()
                media_type = f"{_TYPES[path.suffix]}; charset=utf-8"
                tag = f'"{sha256(content).hexdigest()[:32]}"'
                files[path.relative_to(_FOLDER).as_posix()] = _File(content, media_type, tag)
    return files


def _answer(files: dict[str, _File], path: str, request: Request) -> Response:
    file = files.get(path)
    if file is None:
        raise ApiError(404, f"there is no {path[:200]!r}", code="not_found")
    headers = {**_HEADERS, "ETag": file.tag}
    if file.tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers={**headers, "Content-Type": file.media_type})
