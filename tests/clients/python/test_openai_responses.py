"""openai-python against /v1/responses: create, typed events, the helpers, forms, tools, thoughts, async, abort."""

from __future__ import annotations

import asyncio
import itertools
import json

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, Field, TypeAdapter
from serving import Server

MODEL = "smollm2"
SETTINGS = {
    "model": MODEL,
    "input": "Write a short story about a lighthouse.",
    "temperature": 0.01,
    "extra_body": {"seed": 1},
    "max_output_tokens": 200,
}
# The model says this much and stops by itself: only a whole answer is "completed".
SHORT = SETTINGS | {"input": "Name the capital of France."}
ANY_EVENT: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)


@pytest.fixture
def client(server: Server):
    with openai.OpenAI(base_url=server.api, api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture
def text(client: openai.OpenAI) -> str:
    return client.responses.create(**SHORT).output_text


def test_create(client: openai.OpenAI) -> None:
    raw = client.responses.with_raw_response.create(**SHORT)
    response = Response.model_validate(json.loads(raw.text))
    assert response.id.startswith("resp_")
    assert (response.status, response.model, response.error) == ("completed", MODEL, None)
    (message,) = response.output
    assert (message.type, message.role, message.status) == ("message", "assistant", "completed")
    assert [part.type for part in message.content] == ["output_text"]
    assert raw.parse().output_text == message.content[0].text
    assert "Paris" in message.content[0].text
    assert response.usage.output_tokens > 0
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens


def test_the_limit_makes_it_incomplete(client: openai.OpenAI) -> None:
    response = client.responses.create(**SETTINGS | {"max_output_tokens": 16})
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert response.output[0].status == "incomplete"
    assert response.usage.output_tokens == 16


def test_stream(client: openai.OpenAI, text: str) -> None:
    with client.responses.with_streaming_response.create(**SHORT, stream=True) as response:
        lines = [line for line in response.iter_lines() if line]
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    events = [ANY_EVENT.validate_json(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    types = [event.type for event in events]
    assert names == types
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert types == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * len(deltas),
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(deltas) == text
    assert events[-4].text == events[-3].part.text == events[-2].item.content[0].text == text
    assert events[-1].response.output_text == text
    assert len({event.response.id for event in (events[0], events[1], events[-1])}) == 1
    assert events[-1].response.usage.output_tokens > 0


def test_a_stream_that_reaches_the_limit(client: openai.OpenAI) -> None:
    events = list(client.responses.create(**SETTINGS | {"max_output_tokens": 16}, stream=True))
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.incomplete_details.reason == "max_output_tokens"


def test_stream_helper(client: openai.OpenAI, text: str) -> None:
    with client.responses.stream(**SHORT) as stream:
        snapshots = [event.snapshot for event in stream if event.type == "response.output_text.delta"]
        response = stream.get_final_response()
    assert snapshots[-1] == response.output_text == text
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(snapshots))


def test_instructions_are_a_system_message(client: openai.OpenAI) -> None:
    question = {"type": "message", "role": "user", "content": SHORT["input"]}
    order = "Answer in capital letters."
    instructed = client.responses.create(**SHORT, instructions=order)
    spelled_out = client.responses.create(**SHORT | {"input": [{"role": "system", "content": order}, question]})
    assert instructed.instructions == order
    assert instructed.output_text == spelled_out.output_text


def test_a_conversation(client: openai.OpenAI) -> None:
    first = client.responses.create(**SHORT)
    question = {"role": "user", "content": [{"type": "input_text", "text": "Write one sentence about it."}]}
    turns = [{"role": "user", "content": SHORT["input"]}, *first.output, question]
    second = client.responses.create(**SHORT | {"input": turns})
    messages = [
        {"role": "user", "content": SHORT["input"]},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "Write one sentence about it."},
    ]
    chat = client.chat.completions.create(model=MODEL, messages=messages, temperature=0.01, seed=1, max_tokens=200)
    assert second.output_text == chat.choices[0].message.content
    assert second.usage.input_tokens == chat.usage.prompt_tokens


def test_logprobs(client: openai.OpenAI, text: str) -> None:
    settings = SHORT | {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    part = client.responses.create(**settings).output[0].content[0]
    assert part.text == "".join(entry.token for entry in part.logprobs) == text
    assert all(len(entry.top_logprobs) == 2 for entry in part.logprobs)
    with client.responses.stream(**settings) as stream:
        deltas = [event for event in stream if event.type == "response.output_text.delta"]
    assert "".join(entry.token for delta in deltas for entry in delta.logprobs) == text


class Place(BaseModel):
    """A place, small enough for a small model."""

    name: str = Field(pattern="^[A-Za-z ]{1,20}$")
    visitors: int = Field(ge=0, le=99)


class Add(BaseModel):
    """Add two digits."""

    a: int = Field(ge=0, le=9)
    b: int = Field(ge=0, le=9)


def test_parse(client: openai.OpenAI) -> None:
    response = client.responses.parse(**SETTINGS, text_format=Place)
    assert response.status == "completed"
    assert response.output_parsed == Place.model_validate_json(response.output_text)
    assert response.text.format.name == "Place"
    assert response.text.format.schema_["properties"].keys() == {"name", "visitors"}


def test_stream_of_a_form(client: openai.OpenAI) -> None:
    with client.responses.stream(**SETTINGS, text_format=Place) as stream:
        (done,) = [event for event in stream if event.type == "response.output_text.done"]
        response = stream.get_final_response()
    assert isinstance(response.output_parsed, Place)
    assert done.parsed == response.output_parsed


def test_tools(client: openai.OpenAI) -> None:
    settings = SETTINGS | {"input": "Add 2 and 3.", "tools": [openai.pydantic_function_tool(Add)]}
    settings |= {"tool_choice": "required", "parallel_tool_calls": False}
    parsed = client.responses.parse(**settings)
    with client.responses.stream(**settings) as stream:
        events = list(stream)
        response = stream.get_final_response()
    for one in (parsed, response):
        (call,) = one.output
        assert (call.type, call.name, call.status) == ("function_call", "Add", "completed")
        assert call.parsed_arguments == Add.model_validate_json(call.arguments)
        assert (one.tools[0].name, one.tool_choice, one.parallel_tool_calls) == ("Add", "required", False)
    deltas = [event for event in events if event.type == "response.function_call_arguments.delta"]
    assert "".join(event.delta for event in deltas) == deltas[-1].snapshot == response.output[0].arguments
    result = {"type": "function_call_output", "call_id": response.output[0].call_id, "output": "5"}
    turns = [{"role": "user", "content": "Add 2 and 3."}, *response.output, result]
    assert client.responses.create(**SETTINGS | {"input": turns}).output_text


def test_typed_events_of_a_thought_and_a_call(client: openai.OpenAI) -> None:
    thought = {"thinking_tags": ["<think>", "</think>"], "regex": "<think>[a-z ]{5,9}</think>Yes[.]", "seed": 1}
    tool = {"type": "function", "name": "add", "parameters": Add.model_json_schema(), "strict": True}
    called = {"tools": [tool], "tool_choice": {"type": "function", "name": "add"}}
    for kind, settings in (("reasoning", {"extra_body": thought}), ("function_call", called)):
        with client.responses.with_streaming_response.create(**SETTINGS | settings, stream=True) as response:
            lines = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
        events = [ANY_EVENT.validate_json(line) for line in lines]
        for event, line in zip(events, lines, strict=True):
            assert json.loads(line).keys() - {"name"} <= type(event).model_fields.keys(), "the type knows all of it"
        response = events[-1].response
        assert response.status == "completed"
        assert response.output[0].type == kind
        if kind == "reasoning":
            assert len(response.output[0].content[0].text) <= 9
            assert response.output_text == "Yes."
            assert response.usage.output_tokens_details.reasoning_tokens > 0


def test_async(server: Server, text: str) -> None:
    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=server.api, api_key="unused", max_retries=0) as client:
            assert (await client.responses.create(**SHORT)).output_text == text
            async with client.responses.stream(**SHORT) as stream:
                assert (await stream.get_final_response()).output_text == text

    asyncio.run(main())


def test_breaking_off_cancels(server: Server, client: openai.OpenAI) -> None:
    settings = SETTINGS | {"max_output_tokens": 1900, "extra_body": {"ignore_eos": True}}
    with client.responses.stream(**settings, extra_headers={"X-Request-Id": "response-broken-off"}) as stream:
        next(event for event in stream if event.type == "response.output_text.delta")
    assert server.end_of("response-broken-off")["finish_reason"] == "cancelled"


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("previous_response_id", "resp_1"),
        ("background", True),
        ("tools", [{"type": "web_search"}]),
        ("max_tool_calls", 1),
        ("truncation", "auto"),
    ],
)
def test_what_is_not_there_is_refused_by_name(client: openai.OpenAI, param: str, value: object) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**SHORT, **{param: value})
    assert caught.value.param.startswith(param)
    assert param in caught.value.message
