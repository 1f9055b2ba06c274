"""Pydantic AI against the server: both of its OpenAI models, all kinds of output, tools, thoughts, streams, errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, ConfigDict, Field
from pydantic_ai import Agent, ModelRetry, ModelSettings, NativeOutput, PromptedOutput, RunContext, ToolOutput
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import IncompleteToolCall, ModelHTTPError
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import Model
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from serving import Server

SETTINGS = ModelSettings(temperature=0, max_tokens=200)
PROMPT = "Bob is 42 years old and happy."
# An answer is shown, so that the model knows how one looks where only JSON of any form is asked for.
HISTORY: list[ModelMessage] = [
    ModelRequest([UserPromptPart("Ann is 31 years old and sad.")]),
    ModelResponse([TextPart('{"name": "Ann", "age": 31, "mood": "sad"}')]),
]


class Person(BaseModel):
    """A person."""

    # Without it a schema allows any other key as well, and a small model goes on to write some.
    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=150)
    mood: Literal["happy", "sad"]


OUTPUTS = [ToolOutput(Person), NativeOutput(Person), PromptedOutput(Person)]
RunWith = Callable[[Callable[[Model], Coroutine[Any, Any, None]]], None]


@pytest.fixture(params=[OpenAIChatModel, OpenAIResponsesModel])
def run_with(request: pytest.FixtureRequest, server: Server) -> RunWith:
    """Runs a coroutine function with a model, once for each of the two APIs."""

    @asynccontextmanager
    async def model() -> AsyncIterator[Model]:
        async with openai.AsyncOpenAI(base_url=server.api, api_key="unused", max_retries=0) as client:
            yield request.param("smollm2", provider=OpenAIProvider(openai_client=client))

    def run(body: Callable[[Model], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            async with model() as one:
                await body(one)

        asyncio.run(main())

    return run


def kinds_of(messages: list[ModelMessage]) -> list[type]:
    return [type(part) for message in messages for part in message.parts]


def test_text(run_with: RunWith) -> None:
    async def body(model: Model) -> None:
        agent = Agent(model, model_settings=SETTINGS)
        result = await agent.run(PROMPT)
        assert result.output
        assert result.usage.output_tokens > 0
        async with agent.run_stream(PROMPT) as stream:
            deltas = [delta async for delta in stream.stream_text(delta=True, debounce_by=None)]
        assert len(deltas) > 1
        assert "".join(deltas).strip()

    run_with(body)


@pytest.mark.parametrize("output", OUTPUTS, ids=lambda output: type(output).__name__)
def test_output(run_with: RunWith, output: Any) -> None:
    async def body(model: Model) -> None:
        agent = Agent(model, output_type=output, model_settings=SETTINGS, retries=0)
        assert isinstance((await agent.run(PROMPT, message_history=HISTORY)).output, Person)
        async with agent.run_stream(PROMPT, message_history=HISTORY) as stream:
            responses = [response async for response in stream.stream_response(debounce_by=None)]
            assert isinstance(await stream.get_output(), Person)
        assert len(responses) > 3, "it came in pieces"

    run_with(body)


def test_a_growing_output(run_with: RunWith) -> None:
    class Story(BaseModel):
        model_config = ConfigDict(extra="forbid")

        title: str = Field(max_length=40)
        text: str = Field(min_length=40, max_length=80)

    async def body(model: Model) -> None:
        agent = Agent(model, output_type=ToolOutput(Story), model_settings=SETTINGS, retries=0)
        async with agent.run_stream("Write a story.") as stream:
            *growing, last = [story async for story in stream.stream_output(debounce_by=None)]
        assert 40 <= len(last.text) <= 80
        assert growing
        assert all(last.text.startswith(story.text) for story in growing)

    run_with(body)


class _InTurn(AbstractCapability[None]):
    """Makes the model call a tool first, and then answer."""

    def get_model_settings(self) -> Callable[[RunContext[None]], ModelSettings]:
        return lambda context: ModelSettings(tool_choice=["add"] if context.run_step == 1 else ["final_result"])


@pytest.mark.parametrize("is_streamed", [False, True])
def test_tools(run_with: RunWith, is_streamed: bool) -> None:
    calls: list[tuple[int, int]] = []

    async def body(model: Model) -> None:
        output = ToolOutput(Person, name="final_result")
        agent = Agent(model, output_type=output, model_settings=SETTINGS, retries=0, capabilities=[_InTurn()])

        @agent.tool_plain
        def add(a: int, b: int) -> int:
            """Add two numbers."""
            calls.append((a, b))
            return a + b

        prompt = "Bob is 20 plus 22 years old and happy."
        if is_streamed:
            async with agent.run_stream(prompt) as run:
                person = await run.get_output()
        else:
            run = await agent.run(prompt)
            person = run.output
        assert isinstance(person, Person)
        assert len(calls) >= 1
        kinds = kinds_of(run.all_messages())
        assert kinds.count(ToolCallPart) == kinds.count(ToolReturnPart) == len(calls) + 1

    run_with(body)


def test_the_model_may_choose_among_the_kinds_of_output(run_with: RunWith) -> None:
    class Place(BaseModel):
        model_config = ConfigDict(extra="forbid")

        city: str = Field(max_length=20)

    async def body(model: Model) -> None:
        agent = Agent(model, output_type=[ToolOutput(Person), ToolOutput(Place)], model_settings=SETTINGS, retries=0)
        assert isinstance((await agent.run(PROMPT)).output, Person | Place)

    run_with(body)


def test_what_is_not_accepted_is_asked_for_again(run_with: RunWith) -> None:
    async def body(model: Model) -> None:
        settings = SETTINGS | ModelSettings(parallel_tool_calls=False)
        agent = Agent(model, output_type=ToolOutput(Person), model_settings=settings, retries=1)
        refused: list[Person] = []

        @agent.output_validator
        def refuse_one(person: Person) -> Person:
            if not refused:
                refused.append(person)
                raise ModelRetry("this one is not wanted")
            return person

        result = await agent.run(PROMPT)
        assert isinstance(result.output, Person)
        assert result.usage.requests == 2
        assert "this one is not wanted" in str(result.all_messages()[-3])

    run_with(body)


def test_thoughts(run_with: RunWith) -> None:
    thought = {"regex": r"<think>[a-z ]{5,20}</think>Yes\.", "thinking_tags": ["<think>", "</think>"]}

    async def body(model: Model) -> None:
        agent = Agent(model, model_settings=SETTINGS | ModelSettings(extra_body=thought))
        result = await agent.run("Do you know?")
        assert result.output == "Yes."
        assert kinds_of(result.new_messages()) == [UserPromptPart, ThinkingPart, TextPart]
        assert result.usage.details["reasoning_tokens"] > 0
        async with agent.run_stream("Do you know?") as stream:
            assert await stream.get_output() == "Yes."
        first = stream.response.parts[0]
        assert isinstance(first, ThinkingPart)
        # The chat's thoughts have a field of their own; those of responses are the item's raw content.
        assert first.content or first.provider_details["raw_content"][0]
        # They are sent back with the history.
        settings = ModelSettings(extra_body={"regex": "No"})
        again = await agent.run("Really?", message_history=result.all_messages(), model_settings=settings)
        assert again.output == "No"

    run_with(body)


def test_a_cut_call_is_known_as_one(run_with: RunWith) -> None:
    async def body(model: Model) -> None:
        agent = Agent(
            model, output_type=ToolOutput(Person), model_settings=SETTINGS | ModelSettings(max_tokens=30), retries=0
        )
        with pytest.raises(IncompleteToolCall):
            await agent.run(PROMPT)

    run_with(body)


def test_a_schema_that_is_not_supported(run_with: RunWith) -> None:
    class Odd(BaseModel):
        name: str = Field(json_schema_extra={"not": {"const": "Bob"}})

    async def body(model: Model) -> None:
        for output, place in ((ToolOutput(Odd), "tools[0]."), (NativeOutput(Odd), "schema")):
            with pytest.raises(ModelHTTPError) as caught:
                await Agent(model, output_type=output, model_settings=SETTINGS).run(PROMPT)
            assert caught.value.status_code == 400
            assert place in caught.value.body["param"]
            assert "not" in caught.value.body["message"]

    run_with(body)


def test_breaking_off_cancels(server: Server, run_with: RunWith, request: pytest.FixtureRequest) -> None:
    id = f"pydantic-ai-{request.node.callspec.id}"
    settings = ModelSettings(max_tokens=1500, extra_headers={"X-Request-Id": id}, extra_body={"ignore_eos": True})

    async def body(model: Model) -> None:
        async with Agent(model, model_settings=settings).run_stream("Write a story.") as stream:
            async for _ in stream.stream_text(debounce_by=None):
                break

    run_with(body)
    assert server.end_of(id)["finish_reason"] == "cancelled"
