"""instructor against the server: its modes, objects that grow, lists, retries, errors, async."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import instructor
import openai
import pytest
from instructor import Mode
from instructor.core import IncompleteOutputException, InstructorRetryException
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from serving import Server

# One answer is shown, so that the model knows how an answer looks where only JSON of any form is asked for.
SETTINGS: dict[str, Any] = {
    "model": "smollm2",
    "messages": [
        {"role": "user", "content": "Ann is 31 years old and sad."},
        {"role": "assistant", "content": '{"name": "Ann", "age": 31, "mood": "sad"}'},
        {"role": "user", "content": "Bob is 42 years old and happy."},
    ],
    "temperature": 0,
    "max_tokens": 200,
    "max_retries": 0,
}
# The same, said by a call.
CALLED: list[dict[str, Any]] = [
    {"role": "user", "content": "Ann is 31 years old and sad."},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "Person", "arguments": '{"name": "Ann", "age": 31, "mood": "sad"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "noted"},
    {"role": "user", "content": "Bob is 42 years old and happy."},
]
MODES = [Mode.TOOLS, Mode.JSON_SCHEMA, Mode.JSON]


class Person(BaseModel):
    """A person."""

    # Without it a schema allows any other key as well, and a small model goes on to write some.
    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=150)
    mood: Literal["happy", "sad"]


@pytest.fixture
def openai_client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.api, api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture
def messages() -> list[list[dict[str, Any]]]:
    """The messages of each request that `client_of` has sent."""
    return []


@pytest.fixture
def client_of(openai_client: openai.OpenAI, messages: list[list[dict[str, Any]]]):
    """Makes a client of a mode."""

    def make(mode: Mode) -> instructor.Instructor:
        client = instructor.from_openai(openai_client, mode=mode)
        client.on("completion:kwargs", lambda **kwargs: messages.append(list(kwargs.get("messages", ()))))
        return client

    return make


@pytest.mark.parametrize("mode", MODES)
def test_create(client_of, mode: Mode) -> None:
    person, completion = client_of(mode).create_with_completion(**SETTINGS, response_model=Person)
    assert isinstance(person, Person)
    assert completion.choices[0].finish_reason == ("tool_calls" if mode is Mode.TOOLS else "stop")
    assert bool(completion.choices[0].message.tool_calls) is (mode is Mode.TOOLS)


@pytest.mark.parametrize("mode", MODES)
def test_a_growing_object(client_of, mode: Mode) -> None:
    growing = list(client_of(mode).create_partial(**SETTINGS, response_model=Person))
    assert Person.model_validate(growing[-1].model_dump())
    assert growing[0].model_dump() == {"name": None, "age": None, "mood": None}
    assert len(growing) > 3
    for earlier, later in itertools.pairwise(growing):
        assert later.name.startswith(earlier.name or "") if later.name is not None else earlier.name is None


@pytest.mark.parametrize("mode", [Mode.TOOLS, Mode.JSON_SCHEMA])
def test_a_list(client_of, mode: Mode) -> None:
    class People(BaseModel):
        model_config = ConfigDict(extra="forbid")

        people: list[Person] = Field(min_length=2, max_length=2)

    people = client_of(mode).create(**SETTINGS, response_model=People).people
    assert len(people) == 2
    assert all(isinstance(person, Person) for person in people)


def test_an_iterable(client_of) -> None:
    """The items come one by one, while the list is written."""
    example = {"role": "assistant", "content": '{"tasks": [{"name": "Ann", "age": 31, "mood": "sad"}]}'}
    first, _, last = SETTINGS["messages"]
    settings = SETTINGS | {"messages": [first, example, last]}
    items = client_of(Mode.JSON_SCHEMA).create_iterable(**settings, response_model=Person)
    assert isinstance(next(items), Person)
    items.close()


def test_a_history_with_calls(client_of) -> None:
    """Which instructor sends on with an empty list for content."""
    settings = SETTINGS | {"messages": CALLED}
    assert isinstance(client_of(Mode.TOOLS).create(**settings, response_model=Person), Person)


def test_responses(client_of) -> None:
    """In this mode instructor asks for the call of a tool and beside it, for text, for a form."""
    client = client_of(Mode.RESPONSES_TOOLS)
    settings = {name: value for name, value in SETTINGS.items() if name != "temperature"}
    assert isinstance(client.create(**settings, response_model=Person), Person)
    growing = list(client.create_partial(**settings, response_model=Person))
    assert Person.model_validate(growing[-1].model_dump())


@pytest.mark.parametrize("mode", [Mode.TOOLS, Mode.JSON_SCHEMA])
def test_what_does_not_validate_is_asked_for_again(client_of, messages, mode: Mode) -> None:
    refused: list[str] = []

    def refuse_one(name: str) -> str:
        if not refused:
            refused.append(name)
            raise ValueError("this name is not wanted")
        return name

    class Wanted(Person):
        name: Annotated[str, AfterValidator(refuse_one)] = Field(max_length=20)

    person = client_of(mode).create(**SETTINGS | {"max_retries": 1}, response_model=Wanted)
    assert isinstance(person, Wanted)
    first, second = messages
    assert first == second[: len(first)]
    *_, answer, complaint = second
    assert answer["role"] == "assistant"
    assert bool(answer.get("tool_calls")) is (mode is Mode.TOOLS)
    assert complaint["role"] == ("tool" if mode is Mode.TOOLS else "user")
    assert "this name is not wanted" in str(complaint["content"])


@pytest.mark.parametrize("mode", MODES)
def test_a_cut_object_is_known_as_one(client_of, mode: Mode) -> None:
    with pytest.raises(IncompleteOutputException):
        client_of(mode).create(**SETTINGS | {"max_tokens": 8}, response_model=Person)


@pytest.mark.parametrize(
    ("mode", "param"),
    [(Mode.TOOLS, "tools[0].function.parameters"), (Mode.JSON_SCHEMA, "response_format.json_schema.schema")],
)
def test_a_schema_that_is_not_supported(client_of, mode: Mode, param: str) -> None:
    class Odd(BaseModel):
        name: str = Field(json_schema_extra={"not": {"const": "Bob"}})

    with pytest.raises(InstructorRetryException) as caught:
        client_of(mode).create(**SETTINGS, response_model=Odd)
    error = caught.value.__cause__
    while not isinstance(error, openai.BadRequestError):
        assert error is not None, "the server's error is not among the causes"
        error = error.__cause__
    assert error.param == param
    assert "not" in error.message


def test_async(server: Server) -> None:
    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=server.api, api_key="unused", max_retries=0) as openai_client:
            client = instructor.from_openai(openai_client, mode=Mode.TOOLS)
            people = await asyncio.gather(*(client.create(**SETTINGS, response_model=Person) for _ in range(4)))
            assert all(isinstance(person, Person) for person in people)

    asyncio.run(main())


def test_breaking_off_cancels(server: Server) -> None:
    class Story(BaseModel):
        text: str = Field(min_length=4000)

    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=server.api, api_key="unused", max_retries=0) as openai_client:
            client = instructor.from_openai(openai_client, mode=Mode.TOOLS)
            settings = SETTINGS | {"max_tokens": 1500, "extra_headers": {"X-Request-Id": "instructor-broken-off"}}
            growing = client.create_partial(**settings, response_model=Story)
            async for story in growing:
                if story.text:
                    break
            await growing.aclose()

    asyncio.run(main())
    assert server.end_of("instructor-broken-off")["finish_reason"] == "cancelled"
