"""`/v1/responses`: answers in text, streamed or not."""

from __future__ import annotations

from typing import Any

import pytest
from harness import echo, run_async

from headrace import StreamConfig
from headrace.values.events import Sample
from headrace.values.request import Request
from server.harness import MODEL, running
from server.openai.responding import (
    DELTA,
    LOGPROBS,
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
