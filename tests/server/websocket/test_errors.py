"""`/ws`: requests that are refused, streams that fail, and their log lines."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from harness import Gate, echo, echoed, run_async

from server.websocket.peer import ENDLESS, connected, noted_ends


@pytest.mark.parametrize(
    ("fields", "code", "says"),
    [
        ({"temperature": -1}, "invalid_value", "temperature is -1; allowed: "),
        ({"max_tokens": 0}, "invalid_value", "max_tokens is 0"),
        ({"max_tokens": "many"}, "invalid_value", "max_tokens is 'many'"),
        ({"stop": [""]}, "invalid_value", "stop is ('',)"),
        ({"logit_bias": {"x": 1}}, "invalid_value", "logit_bias"),
        (
            {"timeout_ms": 60_001},
            "invalid_value",
            "timeout_ms is 60001; allowed: a finite number above 0, at most 60000",
        ),
        ({"timeout_ms": 0}, "invalid_value", "timeout_ms is 0; allowed: a finite number above 0"),
        ({"stall_timeout_ms": 50_001}, "invalid_value", "stall_timeout_ms is 50001"),
        ({"model": "other"}, "model_not_found", "model is 'other'; allowed: scripted"),
        ({"prompt": "  \n"}, "invalid_value", "prompt"),
        ({"prompt": []}, "invalid_value", "prompt"),
        ({"prompt": [999]}, "invalid_value", "prompt"),
        ({"prompt": [1], "system_prompt": "be"}, "invalid_value", "system_prompt"),
        ({"prompt": "x" * 5000}, "context_length_exceeded", "the prompt has 5000 tokens, but the context holds 4096"),
    ],
)
def test_what_cannot_be_generated(fields: dict[str, Any], code: str, says: str) -> None:
    async def run() -> None:
        async with connected("abc", {"timeout_ms": 60_000, "stall_timeout_ms": 50_000}) as (server, peer):
            peer.generate(**fields)
            error = await peer.error()
            assert (error["id"], error["code"], error["final"]) == ("a", code, True)
            assert says in error["message"]
            peer.generate()  # the socket lives, and the id is free
            await peer.until(lambda: peer.frames[-1]["type"] == "done")
            assert server.scripted.engine.metrics().streams_started == 1

    run_async(run())


def test_the_protocols_errors_leave_the_socket_and_its_streams_alive() -> None:
    async def run() -> None:
        gate = Gate()
        async with connected(echo, before_step=gate) as (_, peer):
            peer.generate("a")
            await asyncio.to_thread(gate.step, 2)
            await peer.until(lambda: len(peer.text()) == 2)
            seen = len(peer.frames)
            for frame in (
                '{"type":',
                "{}",
                b"x",
                {"type": "ack", "id": "a", "index": 2},
                {"type": "cancel", "id": "b"},
            ):
                peer.say(frame)
            peer.generate("a")
            peer.say("x" * (1024 * 1024 + 1))
            await peer.until_pong()
            codes = [frame["code"] for frame in peer.frames[seen:] if frame["type"] == "error"]
            assert codes == [
                "invalid_json",
                "unknown_type",
                "invalid_frame",
                "invalid_value",
                "unknown_id",
                "id_in_use",
                "frame_too_large",
            ]
            gate.open()
            await peer.until(lambda: peer.frames[-1]["type"] == "done")
            assert peer.text() == echoed("hi")

    run_async(run())


def test_a_full_queue() -> None:
    async def run() -> None:
        gate = Gate()
        async with connected("abc", before_step=gate, max_streams=1, max_queue=1) as (server, peer):
            peer.generate("running")
            await asyncio.to_thread(gate.wait)
            peer.generate("queued")
            await peer.until(lambda: peer.of("queued"))
            peer.generate("refused")
            error = await peer.until_last("refused")
            assert (error["code"], error["final"]) == ("queue_full", True)
            assert server.service.metrics.refused == 1
            gate.open()
            await asyncio.gather(peer.until_last("running"), peer.until_last("queued"))

    run_async(run())


def test_a_model_must_be_named_where_there_are_several() -> None:
    async def run() -> None:
        async with connected("abc") as (server, peer):
            server.service.add("second", server.scripted.model)
            peer.generate("a")
            error = await peer.error()
            assert error["code"] == "missing_required_parameter"
            assert "allowed: scripted, second" in error["message"]
            peer.generate("b", model="second")
            assert (await peer.until_last("b"))["type"] == "done"

    run_async(run())


def test_a_model_that_is_being_loaded() -> None:
    async def run() -> None:
        async with connected("abc") as (server, peer):
            server.service._served.clear()
            server.service.expect("soon")
            peer.generate("a")
            assert (await peer.error())["code"] == "model_loading"

    run_async(run())


def test_a_failing_step_ends_its_stream_with_an_error() -> None:
    async def run() -> None:
        def fail(_slices: Any) -> None:
            raise ValueError("secret")

        async with connected("abc", before_step=fail) as (server, peer):
            server.scripted.is_consistent = False
            peer.generate()
            error = await peer.until_last()
            assert (error["code"], error["final"]) == ("generation_failed", True)
            await peer.until_pong()

    run_async(run())


def test_a_timeout_ends_its_stream_with_an_error() -> None:
    async def run() -> None:
        gate = Gate()
        async with connected(ENDLESS, before_step=gate) as (server, peer):
            ended = noted_ends(server)
            peer.generate(timeout_ms=1)
            await peer.until(lambda: peer.of("a"))
            gate.open()
            error = await peer.until_last()
            assert (error["code"], error["final"]) == ("timeout", True)
            assert "timeout_ms" in error["message"]
            await server.settled()
            assert [one.error and one.error.code for one in ended] == ["timeout"]

    run_async(run())


def test_a_fault_of_the_server_is_logged_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with connected("abc") as (server, peer):
            begin = server.service.begin

            async def fail(*args: Any, **kwargs: Any) -> Any:
                monkeypatch.setattr(server.service, "begin", begin)
                raise ZeroDivisionError("secret")

            monkeypatch.setattr(server.service, "begin", fail)
            peer.generate("a")
            error = await peer.until_last()
            assert (error["code"], error["message"]) == ("internal_error", "the server failed")
            assert any(record.exc_info for record in caplog.records)
            peer.generate("b")
            assert (await peer.until_last("b"))["type"] == "done"

    run_async(run())


def test_logs_tell_of_streams_and_refusals_but_not_what_was_said(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        caplog.set_level(logging.INFO, "headrace.server")
        async with connected("answer") as (server, peer):
            peer.generate("good", "secret")
            await peer.until_last("good")
            peer.generate("bad", ["secret"], system_prompt="secret")
            await peer.until_last("bad")
            peer.generate("worse", "secret" * 1000)
            await peer.until_last("worse")
            await server.settled()
        fields = {one["id"].partition(":")[2]: one for one in (vars(record)["fields"] for record in caplog.records)}
        assert fields["good"]["finish_reason"] == "stop"
        assert (fields[""]["code"], fields[""]["param"]) == ("invalid_value", "prompt")
        assert fields["worse"]["code"] == "context_length_exceeded"
        assert "secret" not in str([vars(record) for record in caplog.records])

    run_async(run())
