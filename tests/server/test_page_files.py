"""The files of the chat page: access, headers, and paths when the app is mounted."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import run_async

import headrace
from server.harness import running

WEB = Path(headrace.__file__).parent / "web"
SERVED = ["/", "/headrace.js", *(f"/page/{path.name}" for path in sorted((WEB / "page").iterdir()))]


@pytest.mark.parametrize("path", SERVED)
def test_all_files_are_served_to_everybody(path: str) -> None:
    async def run() -> None:
        async with running("abc", {"api_keys": ["secret"]}) as server:
            answer = await server.ask("GET", path)
            assert answer.status == 200
            file = "index.html" if path == "/" else path[1:]
            assert answer.body == (WEB / file).read_bytes()
            kinds = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
            assert answer.headers["content-type"] == f"{kinds[Path(file).suffix]}; charset=utf-8"
            assert answer.headers["x-content-type-options"] == "nosniff"
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "*" not in policy
            again = await server.ask("GET", path, if_none_match=answer.headers["etag"])
            assert (again.status, again.body) == (304, b"")
            assert (await server.ask("GET", path, if_none_match='"other"')).status == 200

    run_async(run())


@pytest.mark.parametrize(
    "path",
    [
        *("/page/none.js", "/page/", "/page", "/index.html", "/vendor/package.json", "/vendor/none.js"),
        *("/page/../server/app.py", "/page/..%2Findex.html", "/page/%2e%2e", "/page/tsconfig.json", "/tsconfig.json"),
    ],
)
def test_nothing_else_is(path: str) -> None:
    async def run() -> None:
        async with running("abc") as server:
            answer = await server.ask("GET", path)
            assert (answer.status, answer.error["code"]) == (404, "not_found")

    run_async(run())


def test_without_the_page() -> None:
    async def run() -> None:
        async with running("abc", {"page": False}) as server:
            for path in ("/", "/headrace.js", "/page/main.js"):
                assert (await server.ask("GET", path)).status == 404
            assert (await server.ask("GET", "/v1/models")).status == 200

    run_async(run())
