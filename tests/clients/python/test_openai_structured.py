"""openai-python's helpers for answers of a given form, tools and thoughts: parse, stream, accumulated calls."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Literal

import openai
import pytest
from openai.types.chat import ChatCompletionChunk
from pydantic import BaseModel, Field
from serving import Server

SETTINGS = {
    "model": "smollm2",
    "messages": [{"role": "user", "content": "Bob is 42 years old and happy. Describe him as JSON."}],
    "temperature": 0.01,
    "seed": 1,
    "max_tokens": 200,
}


class Person(BaseModel):
    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=150)
    mood: Literal["happy", "sad"]


class GetWeather(BaseModel):
    """Say what the weather is like."""

    city: str = Field(max_length=20)
    unit: Literal["celsius", "fahrenheit"]


class GetTime(BaseModel):
    """Say how late it is."""

    city: str = Field(max_length=20)


WEATHER, TIME = openai.pydantic_function_tool(GetWeather), openai.pydantic_function_tool(GetTime)
NAMED = {"type": "function", "function": {"name": "GetWeather"}}
CHOICES = [
    "required",
    NAMED,
    {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}},
]


@pytest.fixture
def client(server: Server):
    with openai.OpenAI(base_url=server.api, api_key="unused", max_retries=0) as client:
        yield client


def test_parse(client: openai.OpenAI) -> None:
    (choice,) = client.chat.completions.parse(**SETTINGS, response_format=Person).choices
    assert choice.finish_reason == "stop"
    assert isinstance(choice.message.parsed, Person)
    assert choice.message.parsed == Person.model_validate_json(choice.message.content)


def test_several_choices_fit_each_for_itself(client: openai.OpenAI) -> None:
    settings = SETTINGS | {"n": 2, "temperature": 1.5}
    for completion in (
        client.chat.completions.parse(**settings, response_format=Person),
        _final(client, **settings, response_format=Person),
    ):
        assert [choice.index for choice in completion.choices] == [0, 1]
        assert all(isinstance(choice.message.parsed, Person) for choice in completion.choices)
    completion = client.chat.completions.parse(**settings, tools=[WEATHER], tool_choice=NAMED)
    calls = [choice.message.tool_calls[0] for choice in completion.choices]
    assert all(isinstance(call.function.parsed_arguments, GetWeather) for call in calls)
    assert len({call.id for call in calls}) == 2


def _final(client: openai.OpenAI, **settings):
    """What the stream helper makes of the chunks."""
    with client.chat.completions.stream(**settings) as stream:
        return stream.get_final_completion()


def test_an_object_of_any_form(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(**SETTINGS, response_format={"type": "json_object"})
    (choice,) = completion.choices
    assert choice.message.content.startswith("{")
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content), dict)


@pytest.mark.parametrize(
    ("extra", "pattern"),
    [
        ({"json_schema": {"enum": ["red", "green"]}}, '"(red|green)"'),
        ({"regex": "[0-9]{3}-[0-9]{4}"}, "[0-9]{3}-[0-9]{4}"),
        ({"grammar": 'start: "yes" | "no"'}, "yes|no"),
        ({"grammar": 'root ::= "yes" | "no"'}, "yes|no"),
    ],
)
def test_extras(client: openai.OpenAI, extra: dict, pattern: str) -> None:
    chat = client.chat.completions.create(**SETTINGS, extra_body=extra).choices[0]
    completion = client.completions.create(
        model="smollm2", prompt="The answer is ", max_tokens=30, extra_body=extra
    ).choices[0]
    for text, reason in ((chat.message.content, chat.finish_reason), (completion.text, completion.finish_reason)):
        assert re.fullmatch(pattern, text)
        assert reason == "stop"


def test_stream(client: openai.OpenAI) -> None:
    deltas: list[str] = []
    grown: list[object] = []
    done: list[object] = []
    with client.chat.completions.stream(**SETTINGS, response_format=Person) as stream:
        for event in stream:
            if event.type == "content.delta":
                deltas.append(event.delta)
                grown.append(event.parsed)
            elif event.type == "content.done":
                done.append(event.parsed)
        completion = stream.get_final_completion()
    (choice,) = completion.choices
    assert isinstance(choice.message.parsed, Person)
    assert "".join(deltas) == choice.message.content
    assert len(deltas) > 5
    assert grown[-1] == choice.message.parsed.model_dump()
    assert done == [choice.message.parsed]


@pytest.mark.parametrize(
    "asked",
    [{"response_format": Person, "max_tokens": 3}, {"tools": [WEATHER], "tool_choice": NAMED, "max_tokens": 24}],
)
def test_what_is_cut_is_told_from_what_is_complete(client: openai.OpenAI, asked: dict) -> None:
    with pytest.raises(openai.LengthFinishReasonError) as caught:
        client.chat.completions.parse(**SETTINGS | asked)
    assert caught.value.completion.usage.completion_tokens == asked["max_tokens"]
    with pytest.raises(openai.LengthFinishReasonError):
        _final(client, **SETTINGS | asked)


@pytest.mark.parametrize("choice", CHOICES)
def test_parsed_calls(client: openai.OpenAI, choice) -> None:
    completion = client.chat.completions.parse(**SETTINGS, tools=[WEATHER], tool_choice=choice)
    (answer,) = completion.choices
    assert answer.finish_reason == "tool_calls"
    assert answer.message.content is None
    assert answer.message.tool_calls
    for call in answer.message.tool_calls:
        assert isinstance(call.function.parsed_arguments, GetWeather)
    back = answer.message.model_dump(exclude_none=True)
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": "18 degrees, sunny"} for call in answer.message.tool_calls
    ]
    messages = [*SETTINGS["messages"], back, *results]
    last = client.chat.completions.create(**SETTINGS | {"messages": messages, "max_tokens": 8}, tools=[WEATHER])
    assert last.usage.completion_tokens <= 8


@pytest.mark.parametrize("choice", CHOICES)
def test_calls_are_put_together_from_a_stream(client: openai.OpenAI, choice) -> None:
    pieces: dict[int, str] = {}
    done: list[object] = []
    with client.chat.completions.stream(**SETTINGS, tools=[WEATHER], tool_choice=choice) as stream:
        for event in stream:
            if event.type == "tool_calls.function.arguments.delta":
                pieces[event.index] = pieces.get(event.index, "") + event.arguments_delta
            elif event.type == "tool_calls.function.arguments.done":
                done.append(event.parsed_arguments)
        (answer,) = stream.get_final_completion().choices
    assert answer.finish_reason == "tool_calls"
    calls = answer.message.tool_calls
    assert [call.function.arguments for call in calls] == list(pieces.values())
    assert all(isinstance(one, GetWeather) for one in done)
    assert len(done) == len(calls) > 0
    assert {call.type for call in calls} == {"function"}
    assert len({call.id for call in calls}) == len(calls)
    assert all(json.loads(piece) for piece in pieces.values())


def test_thoughts_are_beside_the_answer(client: openai.OpenAI) -> None:
    extra = {"regex": r"<think>\n[a-z ]{5,20}\n</think>\n\nYes\.", "thinking_tags": ["<think>", "</think>"]}
    completion = client.chat.completions.create(**SETTINGS, extra_body=extra)
    (choice,) = completion.choices
    assert choice.message.content == "Yes."
    assert len(choice.message.reasoning_content.strip()) >= 1
    reasoning_tokens = completion.usage.completion_tokens_details.reasoning_tokens
    assert 0 < reasoning_tokens < completion.usage.completion_tokens
    thought = answer = ""
    for chunk in client.chat.completions.create(**SETTINGS, extra_body=extra, stream=True):
        thought += getattr(chunk.choices[0].delta, "reasoning_content", None) or ""
        answer += chunk.choices[0].delta.content or ""
    assert thought == choice.message.reasoning_content
    assert answer == "Yes."
    # It goes back with the message.
    messages = [*SETTINGS["messages"], choice.message, {"role": "user", "content": "Really?"}]
    again = client.chat.completions.create(**SETTINGS | {"messages": messages}, extra_body={"regex": "No"})
    assert again.choices[0].message.content == "No"


def test_chunks_of_calls(client: openai.OpenAI) -> None:
    """Each chunk as OpenAI's type has it: of a call, first the id and the name, then nothing but arguments."""
    settings = SETTINGS | {"tools": [WEATHER, TIME], "tool_choice": "required", "parallel_tool_calls": False}
    with client.chat.completions.with_streaming_response.create(**settings, stream=True) as response:
        events = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    choices = [ChatCompletionChunk.model_validate_json(event).choices[0] for event in events[:-1]]
    first, *rest = [call for choice in choices for call in choice.delta.tool_calls or ()]
    assert first.id
    assert first.type == "function"
    assert first.function.name in ("GetWeather", "GetTime")
    assert first.function.arguments == ""
    assert len(rest) > 3
    for call in rest:
        assert call.to_dict().keys() == {"index", "function"}
        assert call.function.to_dict().keys() == {"arguments"}
    arguments = json.loads("".join(call.function.arguments for call in rest))
    assert (GetWeather if first.function.name == "GetWeather" else GetTime).model_validate(arguments)
    assert {call.index for call in rest} == {0}, "one call, as there may be no more"
    assert not any(choice.delta.content for choice in choices)
    assert [choice.finish_reason for choice in choices[-2:]] == [None, "tool_calls"]


@pytest.mark.parametrize("choice", ["none", "auto"])
def test_no_call_has_to_be(client: openai.OpenAI, choice: str) -> None:
    """The form is for text; where the model may call, too, it is one or the other."""
    asked = {"tools": [WEATHER], "tool_choice": choice, "response_format": Person}
    (answer,) = client.chat.completions.parse(**SETTINGS | asked).choices
    if choice == "none":
        assert not answer.message.tool_calls
    if answer.message.tool_calls:
        assert all(isinstance(call.function.parsed_arguments, GetWeather) for call in answer.message.tool_calls)
    else:
        assert isinstance(answer.message.parsed, Person)


@pytest.mark.parametrize("choice", CHOICES)
def test_a_call_has_to_be_also_where_text_has_a_form(client: openai.OpenAI, choice) -> None:
    """instructor's modes for responses say both, for one."""
    asked = {"tools": [WEATHER], "tool_choice": choice, "response_format": Person}
    for completion in (client.chat.completions.parse(**SETTINGS | asked), _final(client, **SETTINGS | asked)):
        (answer,) = completion.choices
        assert answer.finish_reason == "tool_calls"
        assert isinstance(answer.message.tool_calls[0].function.parsed_arguments, GetWeather)


NOT_SUPPORTED = {"type": "object", "properties": {"a": {"not": {"type": "string"}}}}


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": NOT_SUPPORTED}}},
            "response_format.json_schema.schema",
        ),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        (
            {"tools": [WEATHER, {"type": "function", "function": {"name": "f", "parameters": NOT_SUPPORTED}}]},
            "tools[1].function.parameters",
        ),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"extra_body": {"regex": "(a"}}, "regex"),
        ({"extra_body": {"regex": "a", "grammar": 'start: "b"'}}, "grammar"),
        ({"extra_body": {"thinking_budget": -1}}, "thinking_budget"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_is_refused_by_name(client: openai.OpenAI, asked: dict, param: str, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**SETTINGS | asked, stream=stream)
    assert caught.value.param.startswith(param)


def test_async(server: Server) -> None:
    async def grow(client: openai.AsyncOpenAI) -> None:
        async with client.chat.completions.stream(**SETTINGS, response_format=Person) as stream:
            grown = [event.parsed async for event in stream if event.type == "content.delta"]
            completion = await stream.get_final_completion()
        assert grown[-1] == completion.choices[0].message.parsed.model_dump()

    async def call(client: openai.AsyncOpenAI) -> None:
        settings = SETTINGS | {"tools": [WEATHER], "tool_choice": NAMED}
        (answer,) = (await client.chat.completions.parse(**settings)).choices
        assert isinstance(answer.message.tool_calls[0].function.parsed_arguments, GetWeather)

    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=server.api, api_key="unused", max_retries=0) as client:
            await asyncio.gather(*(task(client) for task in [grow, call] * 3))

    asyncio.run(main())
