"""API keys and origins: clients without them can do nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from harness import run_async

from headrace.server import Settings
from server.harness import MODEL, USER, running

KEYS = {"api_keys": ["first-key", "second-key"]}
GUARDED = ["/v1/models", "/v1/models/x", "/v1/streams/x", "/metrics", "/docs", "/openapi.json"]


def test_keys_guard_everything_but_health() -> None:
    async def run() -> None:
        async with running("abc", KEYS) as server:
            for path in ("/health", "/ready"):
                assert (await server.ask("GET", path)).status == 200
            for path in GUARDED:
                for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic Zmlyc3Qta2V5"}):
                    answer = await server.ask("GET", path, **headers)
                    assert (answer.status, answer.error["code"]) == (401, "invalid_api_key"), path
                    assert answer.headers["www-authenticate"] == "Bearer"
                    assert "first" not in answer.body.decode()
                assert (await server.ask("GET", path, authorization="Bearer first-key")).status in (200, 404)
            body = {"model": MODEL, "messages": USER}
            for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses"):
                assert (await server.ask("POST", path, body)).status == 401
            assert (await server.ask("DELETE", "/v1/streams/x")).status == 401
            for key in ("first-key", "second-key"):
                answer = await server.ask("POST", "/v1/chat/completions", body, authorization=f"Bearer {key}")
                assert answer.status == 200, answer.body
            # A key that was not asked for is no mistake: clients demand one of their users.
            assert server.scripted.engine.metrics().streams_started == 2
        async with running("abc") as server:
            assert (await server.ask("GET", "/v1/models", authorization="Bearer anything")).status == 200

    run_async(run())


def test_a_body_is_not_read_without_a_key() -> None:
    async def run() -> None:
        async with running("abc", {**KEYS, "max_body_mb": 0.001}) as server:
            assert (await server.ask("POST", "/v1/chat/completions", b"x" * 5000)).status == 401

    run_async(run())


def test_origins() -> None:
    async def run() -> None:
        async with running("abc") as server:
            answer = await server.ask("GET", "/v1/models", origin="https://evil.example")
            assert "access-control-allow-origin" not in answer.headers
            preflight = {"origin": "https://evil.example", "access_control_request_method": "POST"}
            answer = await server.ask("OPTIONS", "/v1/chat/completions", **preflight)
            assert "access-control-allow-origin" not in answer.headers
            # What a page of another site can send without a preflight is not taken.
            body = json.dumps({"model": MODEL, "messages": USER}).encode()
            for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
                answer = await server.ask("POST", "/v1/chat/completions", body, content_type=kind)
                assert answer.status == 415, kind
        async with running("abc", {"cors_origins": ["https://good.example"], **KEYS}) as server:
            preflight = {
                "origin": "https://good.example",
                "access_control_request_method": "POST",
                "access_control_request_headers": "authorization, content-type",
            }
            answer = await server.ask("OPTIONS", "/v1/chat/completions", **preflight)
            assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, "https://good.example")
            answer = await server.ask("GET", "/v1/models", origin="https://good.example")
            assert (answer.status, answer.headers["access-control-allow-origin"]) == (401, "https://good.example")
            answer = await server.ask("GET", "/v1/models", origin="https://evil.example")
            assert "access-control-allow-origin" not in answer.headers

    run_async(run())


def test_an_internal_error_tells_nothing() -> None:
    async def run() -> None:
        async with running("abc") as server:

            def fail(*_: Any) -> Any:
                raise RuntimeError("secret at /home/somebody/file.py")

            server.service.find = fail  # type: ignore[method-assign]
            socket = server.open("POST", "/v1/chat/completions", {"model": MODEL, "messages": USER})
            with pytest.raises(RuntimeError, match="secret"):  # for the log of the ASGI server
                await socket.until_over()
            assert (socket.answer.status, socket.answer.error["code"]) == (500, "internal_error")
            assert b"secret" not in socket.answer.body
            assert b"file.py" not in socket.answer.body

    run_async(run())


def test_settings_do_not_show_keys() -> None:
    assert "first-key" not in repr(Settings(**KEYS))
    assert "first-key" not in str(Settings(**KEYS))


def test_openapi_describes_the_bodies() -> None:
    async def run() -> None:
        async with running("abc") as server:
            document = (await server.ask("GET", "/openapi.json")).json
            for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses"):
                schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
                assert "model" in schema["required"]
                assert "$ref" not in json.dumps(schema)
            assert "openapi.json" in (await server.ask("GET", "/docs")).body.decode()

    run_async(run())
