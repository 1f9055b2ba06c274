"""`Connection` with real sockets: limits, errors, pipelined requests, and disconnects in every stage and way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from harness import Gate

from headrace.server.http import protocol
from server.harness import MODEL, USER
from server.listening import LOOPS, Listening, chat, eventually, http, listening, run_on

ENDLESS = "abc" * 100_000

pytestmark = pytest.mark.parametrize("loop", LOOPS)


def completion(id: str, **body: Any) -> bytes:
    """A request for an answer in one piece."""
    body = {"model": MODEL, "messages": USER, **body}
    return http("POST", "/v1/chat/completions", body, x_request_id=id)


# Leaving
# -------


@asynccontextmanager
async def at_stage(stage: str) -> AsyncIterator[tuple[Listening, Callable[[], Any]]]:
    """A server whose engine stands still, so that the next stream to come stays in this stage."""
    gate = Gate()
    async with listening(ENDLESS, max_streams=1, before_step=gate) as server:
        if stage == "queued":
            other = await server.connect()
            other.send(chat("other"))
            await server.begun("other")
            await asyncio.to_thread(gate.wait)
            yield server, lambda: asyncio.sleep(0)
        elif stage == "prefilling":
            yield server, lambda: asyncio.to_thread(gate.wait)
        else:

            async def decode() -> None:
                await asyncio.to_thread(gate.step, 5)
                await asyncio.to_thread(gate.wait)

            yield server, decode


@pytest.mark.parametrize("how", ["close", "reset", "half"])
@pytest.mark.parametrize("request_of", [chat, completion], ids=["streamed", "whole"])
@pytest.mark.parametrize("stage", ["queued", "prefilling", "decoding"])
def test_a_client_that_leaves_is_noticed(loop: str, stage: str, request_of: Callable[[str], bytes], how: str) -> None:
    async def run() -> None:
        async with at_stage(stage) as (server, reach_stage):
            client = await server.connect()
            client.send(request_of("mine"))
            generation = await server.begun("mine")
            await reach_stage()
            client.leave(how)
            await eventually(lambda: generation.cancelled_by == "disconnect")

    run_on(loop, run())


AHEAD = {
    "after another request": lambda: (http("GET", "/health"), chat("mine"), b""),
    "before another request": lambda: (b"", chat("mine"), http("GET", "/health")),
    "before half a request": lambda: (b"", chat("mine"), b"POST /v1/ch"),
    "before a long body": lambda: (b"", chat("mine"), completion("next", user="x" * 30_000)),
    "with a long body": lambda: (b"", chat("mine", user="x" * 300_000), b""),
}


@pytest.mark.parametrize("at_once", [True, False], ids=["in one piece", "apart"])
@pytest.mark.parametrize("situation", AHEAD)
def test_a_client_that_leaves_is_noticed_behind_other_requests(loop: str, situation: str, at_once: bool) -> None:
    async def run() -> None:
        before, mine, after = AHEAD[situation]()
        async with listening(ENDLESS, before_step=Gate()) as server:
            client = await server.connect()
            if at_once:
                client.send(before + mine + after)
                generation = await server.begun("mine")
            else:
                if before:
                    client.send(before)
                    assert (await client.answer())[0] == 200
                client.send(mine)
                generation = await server.begun("mine")
                client.send(after)
                connection = next(iter(server.server.server_state.connections))
                await eventually(lambda: len(connection._pipelined) == len(after))
            client.leave()
            await eventually(lambda: generation.cancelled_by == "disconnect")
            assert set(server.service.live) <= {"mine"}  # what it sent ahead is never begun

    run_on(loop, run())


def test_who_sends_too_much_ahead_is_cut_off(loop: str) -> None:
    async def run() -> None:
        async with listening(ENDLESS, before_step=Gate()) as server:
            client = await server.connect()
            client.send(chat("mine"))
            generation = await server.begun("mine")
            client.send(completion("next", user="x" * 100_000))
            await client.rest()
            await eventually(lambda: generation.cancelled_by == "disconnect")

    run_on(loop, run())


def test_requests_sent_ahead_are_answered_in_order(loop: str) -> None:
    async def run() -> None:
        async with listening("abc") as server:
            client = await server.connect()
            long = completion("second", user="x" * 40_000)
            client.send(chat("first") + http("GET", "/health") + long + http("GET", "/v1/models") + b"GET /rea")
            assert b"[DONE]" in (await client.answer())[2]
            assert json.loads((await client.answer())[2])["status"]
            assert (await client.answer())[1]["x-request-id"] == "second"
            assert json.loads((await client.answer())[2])["object"] == "list"
            client.send(b"dy HTTP/1.1\r\n\r\n")
            assert json.loads((await client.answer())[2])["status"]

    run_on(loop, run())


def test_requests_sent_during_an_answer_are_answered_in_order(loop: str) -> None:
    async def run() -> None:
        gate = Gate()
        async with listening("abc", before_step=gate) as server:
            client = await server.connect()
            client.send(chat("first"))
            await server.begun("first")
            ahead = completion("second", user="x" * 40_000) + http("GET", "/health") + b"GET /rea"
            client.send(ahead)
            connection = next(iter(server.server.server_state.connections))
            await eventually(lambda: len(connection._pipelined) == len(ahead))
            gate.open()
            assert b"[DONE]" in (await client.answer())[2]
            assert (await client.answer())[1]["x-request-id"] == "second"
            assert json.loads((await client.answer())[2])["status"]
            client.send(b"dy HTTP/1.1\r\n\r\n")
            assert json.loads((await client.answer())[2])["status"]

    run_on(loop, run())


# Not reading
# -----------


def test_a_client_that_does_not_read_pauses_its_stream_and_is_cut_off(loop: str) -> None:
    async def run() -> None:
        async with listening(ENDLESS, {"stall_timeout_ms": 300}) as server:
            client = await server.connect(receive_buffer=4096)
            client.send(chat("mine", max_tokens=100_000))
            generation = await server.begun("mine")
            await eventually(lambda: server.scripted.engine.metrics().paused)
            await eventually(lambda: generation.cancelled_by)
            assert generation.cancelled_by == "stall"
            # An event has more than 150 bytes here; what was generated is in buffers, and they are small.
            assert generation.streams[0].tokens_generated() < 300_000 / 150
            assert b"[DONE]" not in await client.rest()

    run_on(loop, run())


def test_a_client_that_stops_reading_and_says_that_it_sends_no_more_has_left(loop: str) -> None:
    async def run() -> None:
        async with listening(ENDLESS, {"stall_timeout_ms": 0}) as server:
            client = await server.connect(receive_buffer=4096)
            client.send(chat("mine", max_tokens=100_000))
            generation = await server.begun("mine")
            await server.until_stuck()
            client.leave("half")
            await eventually(lambda: generation.cancelled_by == "disconnect")

    run_on(loop, run())


def test_64_clients_that_do_not_read_do_not_keep_the_65th_from_being_served(loop: str) -> None:
    def script(prompt: tuple[int, ...]) -> Any:
        return [98] * 100_000 if bytes(token - 1 for token in prompt).endswith(b"stall") else [98, 99, 100]

    async def run() -> None:
        sizes = {"max_streams": 80, "num_rows": 200, "num_cells": 500_000}
        async with listening(script, **sizes) as server:
            for number in range(64):
                client = await server.connect(receive_buffer=4096)
                stalling = [{"role": "user", "content": "stall"}]
                client.send(chat(f"stalled-{number}", messages=stalling, max_tokens=100_000))
            await eventually(lambda: server.scripted.engine.metrics().paused == 64)
            status, _, body = await server.ask("POST", "/v1/chat/completions", {"model": MODEL, "messages": USER})
            assert (status, json.loads(body)["choices"][0]["message"]["content"]) == (200, "abc")
            connections = server.server.server_state.connections
            assert all(one.transport.get_write_buffer_size() < 64 * 1024 for one in connections)

    run_on(loop, run())


# Bounds and errors
# -----------------

CHUNKED = b"POST /v1/completions HTTP/1.1\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
REFUSED = {
    "no HTTP": (b"HELLO\r\n\r\n", 400, "invalid_http"),
    "an unknown method": (b"FETCH / HTTP/1.1\r\n\r\n", 400, "invalid_http"),
    "TLS": (bytes.fromhex("16030100f1010000ed0303"), 400, "invalid_http"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "invalid_http"),
    "a target that is no path": (b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n", 400, "invalid_http"),
    "a space in a header": (b"GET / HTTP/1.1\r\na b: c\r\n\r\n", 400, "invalid_http"),
    "a length that is none": (b"POST / HTTP/1.1\r\ncontent-length: many\r\n\r\n", 400, "invalid_http"),
    "two lengths": (b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400, "invalid_http"),
    "a long line": (b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n\r\n", 431, "head_too_large"),
    "a long header": (b"GET / HTTP/1.1\r\na: " + b"b" * 40_000 + b"\r\n\r\n", 431, "head_too_large"),
    "a header without an end": (b"GET / HTTP/1.1\r\na: " + b"b" * 40_000, 431, "head_too_large"),
    "many headers": (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 101 + b"\r\n", 431, "head_too_large"),
}


@pytest.mark.parametrize("in_pieces", [False, True], ids=["at once", "in pieces"])
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_gets_an_error_in_json(loop: str, case: str, in_pieces: bool) -> None:
    data, status, code = REFUSED[case]

    async def run() -> None:
        async with listening() as server:
            client = await server.connect()
            if in_pieces:
                for start in range(0, len(data), 997):
                    client.send(data[start : start + 997])
                    await asyncio.sleep(0)
            else:
                client.send(data)
            answer = await client.answer()
            assert answer[0] == status
            assert answer[1]["content-type"] == "application/json"
            error = json.loads(answer[2])["error"]
            assert (error["code"], set(error)) == (code, {"message", "type", "param", "code"})
            await client.rest()
            assert (await server.ask("GET", "/health"))[0] == 200

    run_on(loop, run())


def test_a_head_just_below_the_bounds_is_read(loop: str) -> None:
    async def run() -> None:
        async with listening() as server:
            many = {f"x-{number}": "a" for number in range(98)}
            assert (await server.ask("GET", "/health", **many))[0] == 200
            assert (await server.ask("GET", "/health", long="a" * 32_000))[0] == 200

    run_on(loop, run())


def test_a_body_that_is_garbage_ends_its_request(loop: str) -> None:
    async def run() -> None:
        async with listening() as server:
            client = await server.connect()
            client.send(CHUNKED + b"3\r\n{  \r\n")
            await eventually(lambda: server.server.server_state.tasks)
            client.send(b"zz\r\n")
            assert (await client.answer())[0] == 400
            await client.rest()
            await eventually(lambda: not server.server.server_state.tasks)

    run_on(loop, run())


@pytest.mark.parametrize("at_once", [True, False], ids=["in one piece", "apart"])
def test_garbage_behind_a_stream_does_not_come_into_it(loop: str, at_once: bool) -> None:
    async def run() -> None:
        gate = Gate()
        async with listening("abc", before_step=gate) as server:
            client = await server.connect()
            garbage = b"\x00\x01 garbage\r\n\r\n"
            client.send(chat("mine") + (garbage if at_once else b""))
            await server.begun("mine")
            if not at_once:
                client.send(garbage)
                connection = next(iter(server.server.server_state.connections))
                await eventually(lambda: connection._pipelined)
            gate.open()
            status, _, body = await client.answer()
            assert (status, body.endswith(b"data: [DONE]\n\n")) == (200, True)
            if not at_once:
                assert (await client.answer())[0] == 400
            assert await client.rest() == b""

    run_on(loop, run())


def test_trailers_are_no_headers(loop: str) -> None:
    async def run() -> None:
        async with listening("abc", {"api_keys": ("secret",)}) as server:
            body = json.dumps({"model": MODEL, "prompt": "hi"}).encode()
            trailers = b"0\r\nauthorization: Bearer secret\r\n" + b"a: b\r\n" * 200 + b"\r\n"
            client = await server.connect()
            client.send(CHUNKED + b"%x\r\n%b\r\n" % (len(body), body) + trailers)
            assert (await client.answer())[0] == 401

    run_on(loop, run())


def test_after_an_early_refusal_the_connection_can_be_used_again(loop: str) -> None:
    async def run() -> None:
        async with listening("abc", {"max_body_mb": 0.001}) as server:
            client = await server.connect()
            request = completion("mine", user="x" * 200_000)
            client.send(request[:1000])
            assert (await client.answer())[0] == 413
            client.send(request[1000:] + http("GET", "/health"))
            assert json.loads((await client.answer())[2]) == {"status": "ok"}

    run_on(loop, run())


def test_who_asks_for_another_protocol_is_answered_in_this_one(loop: str) -> None:
    async def run() -> None:
        async with listening("abc") as server:
            client = await server.connect()
            h2c = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2_settings": "AAMAAABkAAQAAP__"}
            body = {"model": MODEL, "messages": USER}
            for _ in range(2):
                client.send(http("POST", "/v1/chat/completions", body, **h2c))
                status, _, answer = await client.answer()
                assert (status, json.loads(answer)["choices"][0]["message"]["content"]) == (200, "abc")
            websocket = {"connection": "Upgrade", "upgrade": "websocket"}
            client.send(http("GET", "/ws", **websocket) + http("GET", "/health", **h2c))
            assert (await client.answer())[0] == 404
            assert json.loads((await client.answer())[2])["status"]

    run_on(loop, run())


# Time
# ----


@pytest.mark.parametrize(
    "begun",
    [b"", b"GET /hea", http("GET", "/health")[:-2], completion("mine", user="x" * 100)[:-50]],
    ids=["nothing", "a line", "a head", "a body"],
)
def test_who_does_not_go_on_with_a_request_is_cut_off(loop: str, begun: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_PATIENCE", 0.1)

    async def run() -> None:
        async with listening(ENDLESS, before_step=Gate()) as server:
            running = await server.connect()
            running.send(chat("mine"))
            generation = await server.begun("mine")
            running.send(b"GET /hea")  # not due as long as an answer is on its way

            client = await server.connect()
            client.send(begun)
            assert await client.rest() == b""
            assert generation.cancelled_by is None

            again = await server.connect()
            again.send(http("GET", "/health"))
            assert (await again.answer())[0] == 200
            again.send(begun or b"GET")
            assert await again.rest() == b""

    run_on(loop, run())


def test_a_slow_body_is_read_to_its_end(loop: str) -> None:
    async def run() -> None:
        async with listening("abc") as server:
            client = await server.connect()
            request = completion("mine")
            start = request.index(b"\r\n\r\n") + 4
            client.send(request[:start])
            connection = next(iter(server.server.server_state.connections))
            await eventually(lambda: connection._num_received == start)
            for byte in range(start, len(request) - 1):
                client.send(request[byte : byte + 1])
                await eventually(lambda: connection._num_received > byte)  # noqa: B023
            client.send(request[-1:])
            assert (await client.answer())[0] == 200

    run_on(loop, run())
