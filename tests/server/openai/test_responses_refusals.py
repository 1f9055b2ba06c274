"""`/v1/responses`: requests that are refused."""

from __future__ import annotations

from typing import Any

import pytest
from harness import run_async

from server.harness import MODEL, running
from server.openai.responding import (
    LOGPROBS,
    PATH,
    ask,
    request,
    said,
)


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
