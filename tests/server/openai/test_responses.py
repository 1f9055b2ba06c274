"""The responses endpoint: its events and their order, every form of input, its refusals, its ends."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from harness import BYTES, Gate, echo, ids, run_async

from headrace import StreamConfig
from headrace.values.events import Sample
from headrace.values.request import Request
from server.harness import MODEL, Answer, events_of, running
from server.openai.responding import (
    BEGINNING,
    DELTA,
    ENDING,
    LOGPROBS,
    OPENING,
    PATH,
    REQUIRED,
    ask,
    checked,
    delta_logprobs,
    delta_text,
    open_response,
    request,
    said,
)

TEXT = 'Blue 🌊 é\n\u2028 "quoted" \\ back\t</s>'


def test_the_whole_response() -> None:
    answer = ask(TEXT)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"] == "r1"
    body = answer.json
    assert isinstance(body.pop("created_at"), int)
    assert isinstance(body.pop("completed_at"), int)
    num_prompt, num_answer = len(b"<user>hi"), len(TEXT.encode()) + 1
    assert body.pop("timings")["predicted_n"] == num_answer
    part = {"type": "output_text", "text": TEXT, "annotations": [], "logprobs": []}
    assert body == {
        "id": "resp_r1",
        "object": "response",
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "model": MODEL,
        "output": [
            {"id": "msg_r1_0", "type": "message", "status": "completed", "role": "assistant", "content": [part]},
        ],
        "usage": {
            "input_tokens": num_prompt,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": num_answer,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": num_prompt + num_answer,
        },
        "instructions": None,
        "max_output_tokens": None,
        "temperature": 1.0,
        "top_p": 0.9,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "top_logprobs": 0,
        "text": {"format": {"type": "text"}},
        "reasoning": None,
        "truncation": "disabled",
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "max_tool_calls": None,
        "previous_response_id": None,
        "background": False,
        "store": False,
        "service_tier": "default",
        "metadata": {},
        "user": None,
        "safety_identifier": None,
        "prompt_cache_key": None,
    }
    assert set(answer.json) >= REQUIRED


def test_the_stream() -> None:
    events = checked(ask(TEXT, stream=True))
    assert events[-1]["type"] == "response.completed"
    assert delta_text(events) == TEXT
    deltas = [event for event in events if event["type"] == DELTA]
    assert all(event["delta"] for event in deltas), "an empty delta says nothing"
    assert set(deltas[0]) == {
        "type", "sequence_number", "item_id", "output_index", "content_index", "delta", "logprobs",
    }  # fmt: skip
    assert delta_logprobs(events) == []
    response = events[-1]["response"]
    assert response["usage"]["output_tokens"] == len(TEXT.encode()) + 1
    assert response["usage"]["input_tokens"] == len(b"<user>hi")
    assert response["timings"]["predicted_n"] == len(TEXT.encode()) + 1
    assert isinstance(response["completed_at"], int)


def test_streamed_and_whole_are_the_same() -> None:
    settings = {"instructions": "be brief", "metadata": {"a": "b"}, "temperature": 0.5, "top_p": 1, "user": "u"}
    whole, streamed = ask(TEXT, **settings).json, checked(ask(TEXT, stream=True, **settings))[-1]["response"]
    for response in (whole, streamed):
        for volatile in ("created_at", "completed_at", "timings"):
            del response[volatile]
    assert whole == streamed


def test_what_was_asked_for_is_shown() -> None:
    settings = {
        "instructions": "be brief",
        "max_output_tokens": 5000,
        "temperature": 0,
        "top_p": 0.5,
        "presence_penalty": 0.25,
        "frequency_penalty": -0.25,
        "parallel_tool_calls": False,
        "tool_choice": "none",
        "metadata": {"number": "1"},
        "user": "u",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "top_logprobs": 2,
    }
    events = checked(ask("abc", stream=True, include=LOGPROBS, **settings))
    for event in (events[0], events[1], events[-1]):
        assert {name: event["response"][name] for name in settings} == settings


def test_a_multi_byte_character_is_one_delta() -> None:
    events = checked(ask("é🌊", stream=True))
    assert [event["delta"] for event in events if event["type"] == DELTA] == ["é", "🌊"]


@pytest.mark.parametrize("stop", ["END", ["never", "END"], ["END", "ENDING", "END."]])
@pytest.mark.parametrize("stream", [False, True])
def test_stop_never_leaks(stop: Any, stream: bool) -> None:
    answer = ask("aENbENDdef", stop=stop, stream=stream, include=LOGPROBS)
    response = checked(answer)[-1]["response"] if stream else answer.json
    (part,) = response["output"][0]["content"]
    assert response["status"] == "completed"
    assert part["text"] == "aENb"
    assert [entry["token"] for entry in part["logprobs"]] == ["a", "E", "N", "b"]
    if stream:
        # A delta comes as soon as it is clear that no stop sequence begins with it, and not before.
        deltas = [event["delta"] for event in checked(answer) if event["type"] == DELTA]
        assert [delta for delta in deltas if delta] == ["a", "ENb"]


def test_a_stop_that_did_not_come_is_text() -> None:
    events = checked(ask("abcEN", stop="END", stream=True, include=LOGPROBS))
    assert delta_text(events) == "abcEN"
    assert [entry["token"] for entry in delta_logprobs(events)] == list("abcEN")


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs(stream: bool) -> None:
    answer = ask("aé", stream=stream, include=LOGPROBS, top_logprobs=2)
    response = checked(answer)[-1]["response"] if stream else answer.json
    entries = response["output"][0]["content"][0]["logprobs"]
    assert [bytes(entry["bytes"]) for entry in entries] == [b"a", b"\xc3", b"\xa9"]
    assert all(set(entry) == {"token", "logprob", "bytes", "top_logprobs"} for entry in entries)
    assert response["top_logprobs"] == 2


def test_logprobs_have_the_engines_numbers() -> None:
    async def run() -> None:
        async with running("ab") as server:
            sample = server.scripted.runner._sample

            def with_logprobs(part: Any) -> Any:
                return Sample(sample(part).token, -0.5, ((98, -0.5), (99, float("-inf"))))

            server.scripted.runner._sample = with_logprobs
            answer = await open_response(server, "r1", include=LOGPROBS, top_logprobs=2, stream=True).until_over()
            entry = delta_logprobs(checked(answer))[0]
            top = [{"token": "a", "logprob": -0.5, "bytes": [97]}, {"token": "b", "logprob": -9999.0, "bytes": [98]}]
            assert entry == {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": top}

    run_async(run())


def test_incomplete() -> None:
    whole = ask("abcdef", max_output_tokens=3)
    streamed = checked(ask("abcdef", max_output_tokens=3, stream=True))
    assert streamed[-1]["type"] == "response.incomplete"
    for response in (whole.json, streamed[-1]["response"]):
        assert response["status"] == response["output"][0]["status"] == "incomplete"
        assert response["incomplete_details"] == {"reason": "max_output_tokens"}
        assert (response["completed_at"], response["error"]) == (None, None)
        assert response["usage"]["output_tokens"] == 3
    assert said(whole) == delta_text(streamed) == "abc"


def test_a_text_held_for_a_stop_comes_when_the_limit_does() -> None:
    events = checked(ask("abEND", max_output_tokens=4, stop="END", stream=True))
    assert (delta_text(events), events[-1]["type"]) == ("abEN", "response.incomplete")


def test_without_a_limit_the_context_is_the_limit() -> None:
    assert len(said(ask("x" * 3000))) == 3000
    full = ask("x" * 3000, num_cells=1000).json
    assert full["incomplete_details"] == {"reason": "max_output_tokens"}
    assert full["usage"]["total_tokens"] == pytest.approx(1000, abs=1)


ANSWER = {  # what this server itself, and its clients, make of an answer
    "id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "phase": None,
    "content": [{"type": "output_text", "text": "three", "annotations": [], "logprobs": [], "parsed": None}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("given", "prompt"),
    [
        ("one", "<user>one"),
        ([{"role": "user", "content": "one"}], "<user>one"),
        ([{"type": "message", "role": "user", "content": "one"}], "<user>one"),
        ([{"role": "user", "content": [{"type": "input_text", "text": "one"}]}], "<user>one"),
        (
            [{"role": "user", "content": [{"type": "input_text", "text": "o"}, {"type": "text", "text": "ne"}]}],
            "<user>one",
        ),
        (
            [
                {"role": "system", "content": "s"},
                {"role": "developer", "content": "d"},
                {"role": "user", "content": "u"},
            ],
            "<system>s<system>d<user>u",
        ),
        (
            [{"role": "user", "content": "one"}, ANSWER, {"role": "user", "content": "four"}],
            "<user>one<assistant>three<user>four",
        ),
        (
            [
                {"role": "assistant", "content": "a", "phase": "commentary"},
                {"role": "assistant", "content": "b", "phase": "final_answer", "id": None, "status": None},
                {"role": "user", "content": "c"},
            ],
            "<assistant>a<assistant>b<user>c",
        ),
    ],
)
def test_every_form_of_input(given: Any, prompt: str) -> None:
    assert said(ask(echo, input=given)) == f"[{prompt}]" * 3
    assert said(ask(echo, input=given, instructions="be brief")) == f"[<system>be brief{prompt}]" * 3


def test_an_output_can_be_sent_back() -> None:
    async def run() -> None:
        async with running(echo) as server:
            first = await server.ask("POST", PATH, request(input="one"))
            turns = [{"role": "user", "content": "one"}, *first.json["output"], {"role": "user", "content": "two"}]
            second = await server.ask("POST", PATH, request(input=turns))
            assert said(second) == f"[<user>one<assistant>{said(first)}<user>two]" * 3
            assert second.json["usage"]["input_tokens_details"]["cached_tokens"] > 0

    run_async(run())


def test_settings_reach_the_engine() -> None:
    async def run() -> None:
        async with running("abc") as server:
            make_sampler = server.scripted.runner.make_sampler
            configs: list[StreamConfig] = []

            def note(request: Request) -> Any:
                configs.append(request.config)
                return make_sampler(request)

            server.scripted.runner.make_sampler = note
            settings = {
                "temperature": 0.5,
                "top_p": 0.8,
                "top_k": 7,
                "min_p": 0.1,
                "seed": 11,
                "frequency_penalty": 0.1,
                "presence_penalty": 0.2,
                "repeat_penalty": 1.1,
                "ignore_eos": False,
            }
            more = {"max_output_tokens": 9, "stop": "x", "logit_bias": {"5": -1.5}}
            assert (await server.ask("POST", PATH, request(**settings, **more))).status == 200
            assert (await server.ask("POST", PATH, request(include=LOGPROBS, top_logprobs=3))).status == 200
            assert (await server.ask("POST", PATH, request(include=LOGPROBS))).status == 200
            first, second, third = configs
            assert {name: getattr(first, name) for name in settings} == settings
            assert (first.max_tokens, first.stop_sequences, first.logit_bias) == (9, ("x",), {5: -1.5})
            assert [config.logprobs for config in configs] == [None, 3, 0]
            assert second.max_tokens == third.max_tokens == server.scripted.engine.max_length

    run_async(run())


def test_what_has_no_effect_is_accepted() -> None:
    answer = ask(
        TEXT, user="u",
        metadata={"a": "b"}, store=True, service_tier="auto", safety_identifier="s", prompt_cache_key="k",
        prompt_cache_retention="24h", tools=[], tool_choice="auto", parallel_tool_calls=True, truncation="disabled",
        text={"format": {"type": "text"}, "verbosity": "medium"}, reasoning={"effort": None, "summary": None},
        include=["reasoning.encrypted_content"], background=False, top_logprobs=0, stream=False,
    )  # fmt: skip
    assert answer.status == 200, answer.body
    assert answer.json["store"] is False, "nothing is stored, whatever was asked for"
    assert answer.json["service_tier"] == "default"
    streamed = ask(TEXT, stream=True, stream_options={"include_obfuscation": True, "include_usage": True})
    assert checked(streamed)[-1]["type"] == "response.completed"


def test_null_is_not_given() -> None:
    optional = REQUIRED - {"id", "object", "created_at", "completed_at", "status", "incomplete_details", "model"}
    optional -= {"output", "error", "usage"}
    more = {"user", "include", "stream", "stream_options", "previous_response_id", "conversation", "prompt", "stop"}
    answer = ask("abc", **dict.fromkeys(optional | more))
    assert said(answer) == "abc"


def user(*parts: Any, **fields: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": "x"}, {"role": "user", "content": list(parts), **fields}]


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"model": MODEL}, "input", "missing"),
        ({"input": "hi"}, "model", "missing"),
        (request(input=5), "input", "a string or a list"),
        (request(input=None), "input", "a string or a list"),
        (request(input=[]), "input", "at least 1"),
        (request(input=""), "input", "empty"),
        (request(input=" \n"), "input", "empty"),
        (request(input="a\0b"), "input", "NUL"),
        (request(instructions="a\0b"), "instructions", "NUL"),
        (request(instructions=5), "instructions", "string"),
        (request(input=["hi"]), "input[0]", "object"),
        (request(input=[{"role": "user"}]), "input[0].content", "missing"),
        (request(input=[{"role": "user", "content": None}]), "input[0].content", "a string or a list"),
        (request(input=[{"role": "user", "content": ""}]), "input[0].content", "empty"),
        (request(input=[{"role": "user", "content": []}]), "input[0].content", "at least 1"),
        (request(input=[{"role": "user", "content": ""}], instructions="i"), "input[0].content", "empty"),
        (
            request(input=[*user({"type": "input_text", "text": "a"}), {"role": "user", "content": "\0"}]),
            "input[2].content",
            "NUL",
        ),
        (request(input=[{"role": "boss", "content": "x"}]), "input[0].role", "boss"),
        (request(input=[{"role": "tool", "content": "x"}]), "input[0].role", "tool"),
        (request(input=[{"role": "user", "content": "x", "mood": 1}]), "input[0].mood", "no such parameter"),
        (request(input=[{"role": "assistant", "content": "x", "phase": "third"}]), "input[0].phase", "third"),
        (request(input=user({"type": "input_image", "image_url": "data:"})), "input[1].content[0].type", "input_image"),
        (
            request(input=user({"type": "input_text", "text": "x"}, {"type": "input_file", "file_id": "f"})),
            "input[1].content[1].type",
            "input_file",
        ),
        (request(input=user({"type": "refusal", "refusal": "no"})), "input[1].content[0].type", "refusal"),
        (request(input=user({"text": "x"})), "input[1].content[0].type", "missing"),
        (request(input=user({"type": "input_text"})), "input[1].content[0].text", "missing"),
        (request(input=[{"type": "item_reference", "id": "msg_1"}]), "input[0].type", "item_reference"),
        (request(colour=1), "colour", "no such parameter"),
        (request(max_tokens=5), "max_tokens", "no such parameter"),
        (request(max_output_tokens=0), "max_output_tokens", "1 to"),
        (request(max_output_tokens=1.5), "max_output_tokens", "integer"),
        (request(max_output_tokens="9"), "max_output_tokens", "integer"),
        (request(temperature=-1), "temperature", "at least 0"),
        (b'{"model":"scripted","input":"x","temperature":1e999}', "temperature", "finite"),
        (b'{"model":"scripted","input":"x","top_p":NaN}', "top_p", "finite"),
        (b'{"model":"scripted","input":"x","metadata":{"a":NaN}}', "metadata.a", "string"),
        (request(top_p=2), "top_p", "0 to 1"),
        (request(stop=[""]), "stop", "none of them empty"),
        (request(seed=-1), "seed", "0 to"),
        (request(top_logprobs=21, include=LOGPROBS), "top_logprobs", "20"),
        (request(top_logprobs=3), "top_logprobs", "include"),
        (request(include=["web_search_call.results"]), "include[0]", "web_search_call.results"),
        (request(include="message.output_text.logprobs"), "include", "array"),
        (request(stream="yes"), "stream", "boolean"),
        (request(stream_options={"include_obfuscation": False}), "stream_options", "stream"),
        (request(stream=True, stream_options={"include_usage": False}), "stream_options.include_usage", "true"),
        (request(resumable=True), "resumable", "stream"),
        (request(metadata={"a": 1}), "metadata.a", "string"),
        (request(metadata={"a": "x" * 513}), "metadata.a", "512"),
        (request(metadata={str(i): "x" for i in range(17)}), "metadata", "16"),
        (request(user=5), "user", "string"),
        (request(max_tool_calls=3), "max_tool_calls", "not supported"),
        (request(truncation="auto"), "truncation", "not supported"),
        (request(background=True), "background", "not supported"),
        (request(previous_response_id="resp_1"), "previous_response_id", "not supported"),
        (request(conversation="conv_1"), "conversation", "not supported"),
        (request(prompt={"id": "p"}), "prompt", "not supported"),
        (request(reasoning={"summary": "auto"}), "reasoning.summary", "not supported"),
        (request(reasoning={"colour": 1}), "reasoning.colour", "no such parameter"),
        (request(text={"verbosity": "low"}), "text.verbosity", "not supported"),
        (request(moderation={"model": "m"}), "moderation", "not supported"),
        (request(context_management=[{"type": "compaction"}]), "context_management", "not supported"),
    ],
)
def test_refusals_name_what_is_wrong(body: Any, param: str, says: str) -> None:
    async def run() -> None:
        async with running("fine") as server:
            answer = await server.ask("POST", PATH, body)
            assert answer.status == 400, answer.body
            error = answer.error
            assert set(error) == {"message", "type", "param", "code"}
            assert error["param"] == param
            assert error["type"] == "invalid_request_error"
            assert error["message"].startswith(param)
            assert says in error["message"], error["message"]
            assert said(await server.ask("POST", PATH, request())) == "fine", "the server lives on"

    run_async(run())


def test_a_prompt_that_is_too_long() -> None:
    answer = ask("fine", num_cells=64, input="x" * 100)
    assert (answer.status, answer.error["param"], answer.error["code"]) == (400, "input", "context_length_exceeded")


def test_a_template_that_refuses_the_messages() -> None:
    async def run() -> None:
        async with running("fine", chat_template="{{ raise_exception('no') }}") as server:
            answer = await server.ask("POST", PATH, request())
            assert (answer.status, answer.error["param"]) == (400, "input")

    run_async(run())


def test_what_is_not_there() -> None:
    async def run() -> None:
        async with running("fine", {"api_keys": ["secret"]}) as server:
            assert (await server.ask("POST", PATH, request())).status == 401
            named = {"authorization": "Bearer secret"}
            for method, path in (("POST", f"{PATH}/compact"), ("GET", f"{PATH}/resp_1"), ("DELETE", f"{PATH}/resp_1")):
                answer = await server.ask(method, path, request(), **named)
                assert (answer.status, answer.error["code"]) == (404, "not_found")
            assert (await server.ask("POST", PATH, request(model="other"), **named)).status == 404
            assert (await server.ask("POST", PATH, request(), **named)).status == 200

    run_async(run())


def failed(events: list[dict[str, Any]], type: str, text: str) -> None:
    """Check the last event of a stream that failed after this text."""
    response = events[-1]["response"]
    assert response["status"] == "failed"
    assert set(response["error"]) == {"code", "message", "type", "param"}
    assert (response["error"]["code"], response["error"]["type"]) == ("server_error", type)
    items = [(item["status"], item["content"][0]["text"]) for item in response["output"]]
    assert items == ([("incomplete", text)] if text else [])
    assert delta_text(events) == text
    assert (response["usage"], response["completed_at"], response["incomplete_details"]) == (None, None, None)


@pytest.mark.parametrize("include", [None, LOGPROBS])
def test_a_failing_engine(include: Any) -> None:
    def fail(part: Any, sample: Any) -> None:
        if part.start > 10:
            raise RuntimeError("broken")

    events = checked(ask("é" * 99, on_sample=fail, stream=True, include=include))
    # The last token that was sampled was half a character, of which nothing is shown.
    failed(events, "server_error", "éé")
    logprobs = delta_logprobs(events)
    assert events[-1]["response"]["output"][0]["content"][0]["logprobs"] == logprobs
    assert len(logprobs) == (4 if include else 0)
    whole = ask("é" * 99, on_sample=fail)
    assert (whole.status, whole.error["type"]) == (500, "server_error")


def test_a_deadline() -> None:
    async def run() -> None:
        gate = Gate()
        async with running("x" * 3000, {"timeout_ms": 50}, before_step=gate) as server:
            streamed, whole = open_response(server, "r1", stream=True), open_response(server, "r2")
            await asyncio.to_thread(gate.wait)
            await asyncio.sleep(0.06)  # the deadline itself, which must pass before the next step
            gate.open()
            events = checked(await streamed.until_over())
            failed(events, "timeout_error", delta_text(events))
            answer = await whole.until_over()
            assert (answer.status, answer.error["type"]) == (504, "timeout_error")

    run_async(run())


def test_cancelling_by_name() -> None:
    async def run() -> None:
        gate = Gate()
        async with running("x" * 3000, before_step=gate) as server:
            socket = open_response(server, "r1", stream=True)
            await asyncio.to_thread(gate.step, 2)
            await socket.until_events(5)
            assert (await server.ask("DELETE", "/v1/streams/r1")).json["cancelled"]
            gate.open()
            events = checked(await socket.until_over())
            failed(events, "cancelled_error", delta_text(events))
            assert delta_text(events).startswith("x")

    run_async(run())


def test_a_shutdown() -> None:
    async def run() -> None:
        gate = Gate()
        async with running("x" * 3000, before_step=gate) as server:
            socket = open_response(server, "r1", stream=True)
            await asyncio.to_thread(gate.step, 2)
            await socket.until_events(5)
            server.service.cut_off()
            gate.open()
            events = checked(await socket.until_over())
            failed(events, "server_error", delta_text(events))
            assert "shutting down" in events[-1]["response"]["error"]["message"]

    run_async(run())


@pytest.mark.parametrize("stream", [False, True])
def test_leaving_cancels(stream: bool) -> None:
    async def run() -> None:
        gate = Gate()
        async with running("x" * 3000, before_step=gate) as server:
            socket = open_response(server, "r1", stream=stream)
            await asyncio.to_thread(gate.step, 2)
            socket.leave()
            await socket.until_over()
            gate.open()
            await server.settled()
            assert server.scripted.engine.metrics().streams_finished == {"cancelled": 1}

    run_async(run())


def test_resuming_after_every_event() -> None:
    pieces = {**BYTES, 300: "é".encode(), 301: "🌊".encode()}
    script = [*ids("n"), 300, 301, *ids("\nend")]

    async def run() -> None:
        async with running(script, pieces=pieces) as server:
            whole = await open_response(server, "r1", stream=True, resumable=True).until_over()
            assert delta_text(checked(whole)) == "né🌊\nend"
            count = len(whole.events)
            assert [event.id for event in whole.events] == [str(number + 1) for number in range(count)]
        for cut in range(count + 1):
            gate = Gate()
            async with running(script, pieces=pieces, before_step=gate) as server:
                socket = open_response(server, "r1", stream=True, resumable=True)
                while len(before := await socket.until_events(1)) < cut:
                    await asyncio.to_thread(gate.step)
                    await socket.until_events(min(cut, len(before) + 1))
                socket.leave()
                await socket.until_over()
                gate.open()
                last = before[:cut][-1].id if cut else "0"
                assert last is not None
                rest = await server.ask("GET", "/v1/streams/r1", b"", Last_Event_ID=last)
                first = b"".join(one + b"\n\n" for one in socket.body.split(b"\n\n")[:cut])
                joined = Answer(200, rest.headers, first + rest.body)
                assert [event.id for event in joined.events] == [event.id for event in whole.events]
                assert delta_text(checked(joined)) == "né🌊\nend"

    run_async(run())


def test_one_write_for_each_step() -> None:
    async def run() -> None:
        gate = Gate()
        async with running("abc", before_step=gate) as server:
            socket = open_response(server, "r1", stream=True)
            await socket.until_events(len(BEGINNING))
            for number in range(3):
                await asyncio.to_thread(gate.step)
                await socket.until_events(len(BEGINNING) + len(OPENING) + 1 + number)
            gate.open()
            await socket.until_over()
            types = [[json.loads(event.data)["type"] for event in events_of(write)] for write in socket.writes]
            ending = [*ENDING, "response.completed"]
            assert types == [list(BEGINNING), [*OPENING, DELTA], [DELTA], [DELTA], ending]

    run_async(run())
