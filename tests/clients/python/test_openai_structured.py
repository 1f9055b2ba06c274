"""openai-python's helpers for answers of a given form and for tools: parse, stream, accumulated calls."""

from __future__ import annotations

import json
from typing import Literal

import openai
import pytest
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


WEATHER = openai.pydantic_function_tool(GetWeather)
CHOICES = ["required", {"type": "function", "function": {"name": "GetWeather"}}]


@pytest.fixture
def client(server: Server):
    with openai.OpenAI(base_url=server.api, api_key="unused", max_retries=0) as client:
        yield client


def test_parse(client: openai.OpenAI) -> None:
    (choice,) = client.chat.completions.parse(**SETTINGS, response_format=Person).choices
    assert choice.finish_reason == "stop"
    assert isinstance(choice.message.parsed, Person)


def test_stream(client: openai.OpenAI) -> None:
    deltas: list[str] = []
    grown: list[object] = []
    with client.chat.completions.stream(**SETTINGS, response_format=Person) as stream:
        for event in stream:
            if event.type == "content.delta":
                deltas.append(event.delta)
                grown.append(event.parsed)
        completion = stream.get_final_completion()
    (choice,) = completion.choices
    assert isinstance(choice.message.parsed, Person)
    assert "".join(deltas) == choice.message.content
    assert len(deltas) > 5
    assert grown[-1] == choice.message.parsed.model_dump()


def test_what_is_cut_is_told_from_what_is_complete(client: openai.OpenAI) -> None:
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(**SETTINGS | {"max_tokens": 3}, response_format=Person)


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
    (choice,) = client.chat.completions.create(**SETTINGS, extra_body=extra).choices
    assert choice.message.content == "Yes."
    thought = ""
    for chunk in client.chat.completions.create(**SETTINGS, extra_body=extra, stream=True):
        thought += getattr(chunk.choices[0].delta, "reasoning_content", None) or ""
    assert thought == choice.message.reasoning_content
