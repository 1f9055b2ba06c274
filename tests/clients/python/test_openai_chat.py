"""openai-python against /v1/chat/completions: create, stream, the stream helper, raw responses, async, abort."""

from __future__ import annotations

import asyncio
import json

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from serving import Server

MODEL = "smollm2"
MESSAGES = [{"role": "user", "content": "Write a short story about a lighthouse."}]
# As good as greedy; but a seeded stream that runs alone repeats to the last bit, so these tests can compare texts.
SETTINGS = {"model": MODEL, "messages": MESSAGES, "temperature": 0.01, "seed": 1, "max_tokens": 24}
# This answer is short and ends by itself.
SHORT = SETTINGS | {"messages": [{"role": "user", "content": "Name the capital of France."}]}
ENDLESS = SETTINGS | {"max_tokens": 1900, "extra_body": {"ignore_eos": True}}


@pytest.fixture
def client(server: Server):
    with openai.OpenAI(base_url=server.api, api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture
def text(client: openai.OpenAI) -> str:
    """What the model says, whichever way it is asked for."""
    return client.chat.completions.create(**SETTINGS).choices[0].message.content


def chunks_of(client: openai.OpenAI, **settings) -> list[ChatCompletionChunk]:
    """A whole stream, each chunk checked against the library's own type, which it does not do by itself."""
    with client.chat.completions.with_streaming_response.create(**SETTINGS | settings, stream=True) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert events.pop() == "[DONE]"
    return [ChatCompletionChunk.model_validate_json(event) for event in events]


def test_create(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(**SETTINGS)
    body = json.loads(raw.text)
    completion = ChatCompletion.model_validate(body)
    assert completion.id.startswith("chatcmpl-")
    assert completion.model == MODEL
    (choice,) = completion.choices
    assert (choice.index, choice.finish_reason, choice.message.role) == (0, "length", "assistant")
    assert choice.message.content
    assert {"refusal": None, "logprobs": None}.items() <= (body["choices"][0] | body["choices"][0]["message"]).items()
    assert completion.usage.completion_tokens == 24
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + 24


def test_the_request_id_is_the_given_one_or_a_new_one(client: openai.OpenAI) -> None:
    given = client.chat.completions.with_raw_response.create(**SETTINGS, extra_headers={"X-Request-Id": "mine-1"})
    assert given.headers["x-request-id"] == given.parse()._request_id == "mine-1"
    first, second = (client.chat.completions.create(**SETTINGS)._request_id for _ in range(2))
    assert first
    assert first != second


def test_stream(client: openai.OpenAI, text: str) -> None:
    chunks = chunks_of(client)
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.to_dict() == {"role": "assistant", "content": ""}
    assert chunks[-1].choices[0].delta.to_dict() == {}
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
    assert all("usage" not in chunk.model_fields_set for chunk in chunks)


def test_stream_with_usage(client: openai.OpenAI) -> None:
    *chunks, last = chunks_of(client, stream_options={"include_usage": True})
    assert all(chunk.usage is None and "usage" in chunk.model_fields_set for chunk in chunks)
    assert last.choices == []
    assert last.usage.completion_tokens == 24
    assert last.usage == client.chat.completions.create(**SETTINGS).usage.model_copy(
        update={"prompt_tokens_details": last.usage.prompt_tokens_details}
    )


def test_stream_helper(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(**SHORT, logprobs=True) as stream:
        events = list(stream)
        completion = stream.get_final_completion()
    text = client.chat.completions.create(**SHORT).choices[0].message.content
    assert "Paris" in text
    assert "".join(event.delta for event in events if event.type == "content.delta") == text
    assert [event.content for event in events if event.type == "content.done"] == [text]
    assert completion.choices[0].message.content == text
    assert completion.choices[0].message.role == "assistant"
    assert completion.choices[0].finish_reason == "stop"
    assert "".join(entry.token for entry in completion.choices[0].logprobs.content) == text


@pytest.mark.parametrize("stream", [False, True])
def test_several_choices(client: openai.OpenAI, stream: bool) -> None:
    settings = SETTINGS | {"n": 3, "temperature": 1.2, "max_tokens": 12}
    if stream:
        with client.chat.completions.stream(**settings, stream_options={"include_usage": True}) as helper:
            completion = helper.until_done().current_completion_snapshot
    else:
        completion = client.chat.completions.create(**settings)
    assert [choice.index for choice in completion.choices] == [0, 1, 2]
    assert {choice.finish_reason for choice in completion.choices} <= {"length", "stop"}
    assert len({choice.message.content for choice in completion.choices}) > 1, "three times the same"
    assert 3 < completion.usage.completion_tokens <= 36


def test_a_seed_repeats(client: openai.OpenAI) -> None:
    def ask(seed: int) -> str:
        completion = client.chat.completions.create(**SETTINGS | {"temperature": 1, "seed": seed})
        return completion.choices[0].message.content

    assert ask(7) == ask(7)
    assert ask(7) != ask(8)


@pytest.mark.parametrize("stream", [False, True])
def test_stop(client: openai.OpenAI, text: str, stream: bool) -> None:
    word = text.split()[7]
    settings = SETTINGS | {"stop": ["never said, at no time", word]}
    if stream:
        with client.chat.completions.stream(**settings) as helper:
            (choice,) = helper.get_final_completion().choices
    else:
        (choice,) = client.chat.completions.create(**settings).choices
    assert choice.finish_reason == "stop"
    assert choice.message.content == text[: text.index(word)]


def test_logprobs(client: openai.OpenAI, text: str) -> None:
    (choice,) = client.chat.completions.create(**SETTINGS, logprobs=True, top_logprobs=3).choices
    assert choice.message.content == text
    assert len(choice.logprobs.content) == 24
    assert choice.logprobs.refusal is None
    assert b"".join(bytes(entry.bytes) for entry in choice.logprobs.content).decode() == text
    for entry in choice.logprobs.content:
        assert entry.logprob <= 0
        likelihoods = [top.logprob for top in entry.top_logprobs]
        assert len(likelihoods) == 3
        assert likelihoods == sorted(likelihoods, reverse=True)
        assert entry.logprob <= likelihoods[0]


def test_logprobs_in_a_stream(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**SETTINGS, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    chunks = chunks_of(client, logprobs=True, top_logprobs=2)
    streamed = [entry for chunk in chunks if chunk.choices[0].logprobs for entry in chunk.choices[0].logprobs.content]
    assert [entry.token for entry in streamed] == [entry.token for entry in whole]


def test_max_completion_tokens(client: openai.OpenAI) -> None:
    settings = {key: value for key, value in SETTINGS.items() if key != "max_tokens"}
    completion = client.chat.completions.create(**settings, max_completion_tokens=5)
    assert completion.usage.completion_tokens == 5


def test_logit_bias(client: openai.OpenAI) -> None:
    (choice,) = client.chat.completions.create(**SETTINGS, logit_bias={"504": 100}, logprobs=True).choices
    assert len({entry.token for entry in choice.logprobs.content}) == 1, "nothing beats a bias of 100"


def test_extras_of_other_servers(client: openai.OpenAI) -> None:
    extras = {"top_k": 20, "min_p": 0.05, "repeat_penalty": 1.1, "ignore_eos": True}
    completion = client.chat.completions.create(**SETTINGS, extra_body=extras)
    assert completion.usage.completion_tokens == 24


def test_what_has_no_effect_is_accepted(client: openai.OpenAI, text: str) -> None:
    completion = client.chat.completions.create(
        **SETTINGS, user="u", metadata={"a": "b"}, store=False, service_tier="auto", n=1, stop=None, logprobs=None
    )
    assert completion.choices[0].message.content == text


def test_content_parts_and_developer_messages(client: openai.OpenAI) -> None:
    def ask(*messages: dict) -> str:
        return client.chat.completions.create(**SETTINGS | {"messages": messages}).choices[0].message.content

    question = MESSAGES[0]["content"]
    parts = [{"type": "text", "text": question[:10]}, {"type": "text", "text": question[10:]}]
    system = {"role": "system", "content": "You are a pirate."}
    assert ask({"role": "user", "content": parts}) == ask(*MESSAGES)
    assert ask(system | {"role": "developer"}, *MESSAGES) == ask(system, *MESSAGES)


def test_breaking_off_cancels(server: Server, client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(**ENDLESS, stream=True, extra_headers={"X-Request-Id": "broken-off"})
    received = 0
    with stream:
        for chunk in stream:
            received += bool(chunk.choices[0].delta.content)
            if received == 3:
                break
    assert server.end_of("broken-off")["finish_reason"] == "cancelled"


def test_a_timeout_of_the_client_cancels(server: Server, client: openai.OpenAI) -> None:
    with pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(**ENDLESS, timeout=0.5, extra_headers={"X-Request-Id": "too-slow"})
    assert server.end_of("too-slow")["finish_reason"] == "cancelled"


def test_async(server: Server, text: str) -> None:
    async def stream_one(client: openai.AsyncOpenAI, prompt: str) -> tuple[str, str]:
        messages = [{"role": "user", "content": prompt}]
        async with client.chat.completions.stream(**SETTINGS | {"messages": messages}) as stream:
            streamed = "".join([event.delta async for event in stream if event.type == "content.delta"])
            return streamed, stream.current_completion_snapshot.choices[0].message.content

    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=server.api, api_key="unused", max_retries=0) as client:
            assert (await client.chat.completions.create(**SETTINGS)).choices[0].message.content == text
            answers = await asyncio.gather(*(stream_one(client, f"Tell me about the number {i}.") for i in range(8)))
            assert len(set(answers)) > 1
            assert all(streamed and streamed == final for streamed, final in answers)

    asyncio.run(main())


def test_cancelling_a_task_cancels_the_stream(server: Server) -> None:
    async def read(client: openai.AsyncOpenAI, started: asyncio.Event) -> None:
        stream = await client.chat.completions.create(
            **ENDLESS, stream=True, extra_headers={"X-Request-Id": "task-cancelled"}
        )
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                started.set()

    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=server.api, api_key="unused", max_retries=0) as client:
            started = asyncio.Event()
            task = asyncio.create_task(read(client, started))
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    assert server.end_of("task-cancelled")["finish_reason"] == "cancelled"
