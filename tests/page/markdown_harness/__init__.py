"""A page with nothing but views of Markdown on it, under the policy of the real one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastapi import FastAPI, HTTPException, Response
from server.live import live

import headrace
from headrace.server.page import _HEADERS

_HERE = Path(__file__).parent
_WEB = Path(headrace.__file__).parent / "web"
_TYPES = {".css": "text/css", ".html": "text/html", ".js": "text/javascript"}


@contextmanager
def markdown_page(*, has_vendor: bool = True, worker: str = "page/markdown-worker.js") -> Iterator[str]:
    """Serve the page; gives its URL.

    Args:
        has_vendor: whether marked and DOMPurify are installed.
        worker: what is served as the worker.
    """
    app = FastAPI()
    folders = {"harness": _HERE, "page": _WEB / "page"}
    if has_vendor:
        folders["vendor"] = _WEB / "vendor"

    @app.get("/")
    def index() -> Response:
        return _file(_HERE / "index.html")

    @app.get("/{folder}/{name}")
    def part(folder: str, name: str) -> Response:
        if name == "markdown-worker.js":
            folder, name = worker.split("/")
        if folder not in folders:
            raise HTTPException(404)
        path = folders[folder] / name
        if not path.is_file():
            raise HTTPException(404)
        return _file(path)

    with live(app) as port:
        yield f"http://127.0.0.1:{port}/"


def _file(path: Path) -> Response:
    return Response(path.read_bytes(), headers=_HEADERS, media_type=_TYPES[path.suffix])
