"""`/ws`: the origin, the API key and the id of a handshake."""

from __future__ import annotations

import base64
import json

import pytest
from harness import run_async

from server.harness import running
from server.websocket.peer import Peer


@pytest.mark.parametrize(
    ("origin", "origins", "is_let_in"),
    [
        (None, (), True),
        ("http://localhost:8080", (), True),
        ("https://LOCALHOST:8080", (), True),
        ("http://localhost", (), False),
        ("http://localhost:8080.evil.example", (), False),
        ("http://evil.example", (), False),
        ("null", (), False),
        ("", (), False),
        ("http://chat.example", ("http://chat.example",), True),
        ("https://chat.example", ("http://chat.example",), False),
        ("http://anybody.example", ("*",), True),
    ],
)
def test_the_origin_is_checked(origin: str | None, origins: tuple[str, ...], is_let_in: bool) -> None:
    async def run() -> None:
        async with running("abc", {"websocket": True, "cors_origins": origins}) as server:
            peer = Peer(server.app, {} if origin is None else {"Origin": origin})
            if is_let_in:
                await peer.until_pong()
                peer.leave()
            await peer.until_over()
            assert (peer.accepted is not None) == is_let_in
            if not is_let_in:
                assert (peer.status, json.loads(peer.body)["error"]["code"]) == (403, "origin_not_allowed")

    run_async(run())


def key_subprotocol(key: str) -> str:
    return "headrace.key." + base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    ("headers", "subprotocols", "is_let_in"),
    [
        ({"Authorization": "Bearer k?y/>1"}, [], True),
        ({"Authorization": "bearer k?y/>1"}, [], True),
        ({}, ["headrace", key_subprotocol("k?y/>1")], True),
        ({}, [], False),
        ({"Authorization": "Bearer wrong"}, [], False),
        ({"Authorization": "k?y/>1"}, [], False),
        ({"Authorization": "Basic k?y/>1"}, [], False),
        ({}, ["headrace", key_subprotocol("wrong")], False),
        ({}, ["headrace", "headrace.key."], False),
        ({}, ["headrace", "headrace.key.*"], False),
        ({}, ["headrace", key_subprotocol("ü")[:-1]], False),
    ],
)
def test_the_key_is_checked(headers: dict[str, str], subprotocols: list[str], is_let_in: bool) -> None:
    async def run() -> None:
        async with running("abc", {"websocket": True, "api_keys": ("other", "k?y/>1")}) as server:
            peer = Peer(server.app, headers, subprotocols)
            if is_let_in:
                await peer.until_pong()
                peer.leave()
            await peer.until_over()
            if is_let_in:
                assert peer.accepted is not None
                assert peer.accepted.get("subprotocol") == ("headrace" if subprotocols else None)
            else:
                assert peer.accepted is None
                assert (peer.status, json.loads(peer.body)["error"]["code"]) == (401, "invalid_api_key")

    run_async(run())


def test_a_server_that_can_only_say_no_says_no() -> None:
    async def run() -> None:
        async with running("abc", {"websocket": True}) as server:
            peer = Peer(server.app, {"Origin": "http://evil.example"}, can_refuse=False)
            await peer.until_over()
            assert (peer.accepted, peer.closed_with) == (None, 1000)

    run_async(run())


def test_a_bad_name_is_refused() -> None:
    async def run() -> None:
        async with running("abc", {"websocket": True}) as server:
            peer = Peer(server.app, {"X-Request-Id": "a b"})
            await peer.until_over()
            assert (peer.status, json.loads(peer.body)["error"]["param"]) == (400, "X-Request-Id")

    run_async(run())


def test_there_is_none_unless_it_was_asked_for() -> None:
    async def run() -> None:
        async with running("abc") as server:
            peer = Peer(server.app)
            await peer.until_over()
            assert peer.accepted is None

    run_async(run())
