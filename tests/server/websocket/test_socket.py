"""`/ws` from the client's end: streams, alone and side by side."""

from __future__ import annotations

import asyncio
from collections import Counter

from harness import Gate, echo, echoed, run_async

from server.harness import running
from server.websocket.peer import ENDLESS, Peer, connected, heard, wait


def test_a_stream_from_its_first_frame_to_its_last() -> None:
    async def run() -> None:
        async with connected("héllo") as (server, peer):
            peer.generate("a")
            done = await peer.until_last()
            started, *tokens, _ = peer.frames
            assert started == {"type": "started", "id": "a"}
            # A byte is a token here: the first half of é has no text yet, and the end of the text is a token as well.
            assert [token["text"] for token in tokens] == ["h", "", "é", "l", "l", "o", ""]
            assert tokens[1] == {"type": "token", "id": "a", "text": "", "index": 1, "kind": "text"}
            assert (done["finish_reason"], done["usage"]["completion_tokens"]) == ("stop", 7)
            assert done["metrics"]["latency_ms"] > 0
            await server.settled()

    run_async(run())


def test_a_plain_text_a_prompt_of_tokens_and_a_chat() -> None:
    async def run() -> None:
        async with connected(echo) as (_, peer):
            peer.say("Hello!\n")
            await peer.until_last("0")
            assert peer.text("0") == echoed("Hello!")
            peer.generate("ids", prompt=[ord("x") + 1])
            await peer.until_last("ids")
            assert peer.text("ids") == echoed("x")
            peer.generate("system", prompt="hi", system_prompt="be")
            await peer.until_last("system")
            assert peer.text("system") == echoed("<system>be<user>hi")
            messages = [{"role": "developer", "content": "be"}, {"role": "user", "content": "hi"}]
            peer.generate("chat", prompt=None, messages=messages, model="scripted")
            await peer.until_last("chat")
            assert peer.text("chat") == echoed("<system>be<user>hi")

    run_async(run())


def test_settings_reach_the_engine() -> None:
    async def run() -> None:
        async with connected("one two END three") as (_, peer):
            peer.generate("a", stop="END")
            done = await peer.until_last("a")
            assert (done["finish_reason"], done["stop_sequence"], peer.text("a")) == (
                "stop_sequence",
                "END",
                "one two ",
            )
            peer.generate("b", max_tokens=3)
            assert (await peer.until_last("b"))["finish_reason"] == "length"
            peer.say(type="generate", id="c", prompt="x")
            done = await peer.until_last("c")
            assert done["finish_reason"] == "stop"

    run_async(run())


def test_streams_run_side_by_side() -> None:
    async def run() -> None:
        gate = Gate()
        async with connected(echo, before_step=gate) as (server, peer):
            with server.scripted.hold():
                peer.generate("a", "aaa")
                peer.generate("b", "bbb")
                await wait(lambda: len(server.service.live) == 2 and all(server.service.live.values()))
            for count in range(1, 6):
                await asyncio.to_thread(gate.step)
                await peer.until(lambda count=count: len(peer.text("a")) == len(peer.text("b")) == count)
            gate.open()
            await asyncio.gather(peer.until_last("a"), peer.until_last("b"))
            assert (peer.text("a"), peer.text("b")) == (echoed("aaa"), echoed("bbb"))

    run_async(run())


def test_an_id_is_free_as_soon_as_its_stream_is_over() -> None:
    async def run() -> None:
        async with connected("ab") as (_, peer):
            for count in range(1, 20):
                peer.generate("a")
                await peer.until(lambda count=count: [frame["type"] for frame in peer.frames].count("done") == count)
            assert Counter(frame["type"] for frame in peer.frames) == {"started": 19, "token": 57, "done": 19}

    run_async(run())


def test_an_id_is_free_even_before_the_server_is_done_with_its_stream() -> None:
    async def run() -> None:
        async with connected("ab") as (server, peer):
            peer.linger_after("done")
            peer.generate()
            await peer.until_last()
            assert server.service.live, "its name is taken, as long as the write has not returned"
            peer.generate()
            await heard(peer)
            peer.go_on_taking()
            await peer.until(lambda: [frame["type"] for frame in peer.frames].count("done") == 2)
            assert Counter(frame["type"] for frame in peer.frames) == {"started": 2, "token": 6, "done": 2}

    run_async(run())


def test_sockets_do_not_share_their_ids() -> None:
    async def run() -> None:
        async with connected(echo) as (server, peer):
            other = Peer(server.app)
            peer.generate("a", "one")
            other.generate("a", "two")
            await asyncio.gather(peer.until_last(), other.until_last())
            assert (peer.text(), other.text()) == (echoed("one"), echoed("two"))
            other.leave()
            await other.until_over()

    run_async(run())


def test_the_server_knows_a_stream_by_the_names_of_socket_and_stream() -> None:
    async def run() -> None:
        gate = Gate()
        async with running(ENDLESS, {"websocket": True}, before_step=gate) as server:
            peer, twin = (Peer(server.app, {"X-Request-Id": "my-socket"}) for _ in range(2))
            peer.generate("a")
            await peer.until(lambda: peer.of("a"))
            assert peer.accepted is not None
            assert peer.accepted["headers"] == [(b"x-request-id", b"my-socket")]
            assert list(server.service.live) == ["my-socket:a"]
            twin.generate("a")
            error = await twin.error()
            assert (error["id"], error["code"], error["final"]) == ("a", "id_in_use", True)
            gate.open()
            assert (await server.ask("DELETE", "/v1/streams/my-socket:a")).json["cancelled"]
            assert (await peer.until_last())["finish_reason"] == "cancelled"
            for one in (peer, twin):
                one.leave()
                await one.until_over()

    run_async(run())


def test_logprobs() -> None:
    async def run() -> None:
        async with connected("abc") as (_, peer):
            peer.generate(logprobs=1)
            await peer.until_last()
            entries = [entry for frame in peer.frames for entry in frame.get("logprobs", [])]
            assert "".join(entry["token"] for entry in entries) == "abc"

    run_async(run())
