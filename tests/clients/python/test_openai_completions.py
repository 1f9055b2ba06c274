"""openai-python against /v1/completions: prompts of all kinds, streams, echo, log probabilities."""

from __future__ import annotations

import json

import openai
import pytest
from openai.types import Completion
from serving import Server

PROMPT = "The sea is deep and"
SETTINGS = {"model": "smollm2", "prompt": PROMPT, "temperature": 0.01, "seed": 1, "max_tokens": 12}


@pytest.fixture
def client(server: Server):
    with openai.OpenAI(base_url=server.api, api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture
def text(client: openai.OpenAI) -> str:
    return client.completions.create(**SETTINGS).choices[0].text


def test_create(client: openai.OpenAI) -> None:
    raw = client.completions.with_raw_response.create(**SETTINGS)
    completion = Completion.model_validate(json.loads(raw.text))
    assert completion.id.startswith("cmpl-")
    assert completion.choices[0].finish_reason == "length"
    assert completion.choices[0].text
    assert completion.usage.completion_tokens == 12


def test_stream(client: openai.OpenAI, text: str) -> None:
    with client.completions.with_streaming_response.create(
        **SETTINGS, stream=True, stream_options={"include_usage": True}
    ) as response:
        *events, done = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert done == "[DONE]"
    *chunks, last = [json.loads(event) for event in events]
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert len({(chunk["id"], chunk["created"]) for chunk in [*chunks, last]}) == 1
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == text
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 12


def test_the_library_reads_the_stream(client: openai.OpenAI, text: str) -> None:
    assert "".join(chunk.choices[0].text for chunk in client.completions.create(**SETTINGS, stream=True)) == text


def test_several_prompts(client: openai.OpenAI) -> None:
    prompts = [PROMPT, "Once upon a time", "def main():"]
    completion = client.completions.create(**SETTINGS | {"prompt": prompts})
    assert [choice.index for choice in completion.choices] == [0, 1, 2]
    assert len({choice.text for choice in completion.choices}) == 3
    assert completion.usage.completion_tokens == 36


def test_prompts_of_token_ids(client: openai.OpenAI) -> None:
    ids = [504, 5253, 314, 3740]
    one = client.completions.create(**SETTINGS | {"prompt": ids})
    assert one.usage.prompt_tokens == len(ids)
    two = client.completions.create(**SETTINGS | {"prompt": [ids, ids[:2]]})
    assert [choice.index for choice in two.choices] == [0, 1]
    assert two.usage.prompt_tokens == len(ids) + 2


@pytest.mark.parametrize("stream", [False, True])
def test_echo(client: openai.OpenAI, text: str, stream: bool) -> None:
    answer = client.completions.create(**SETTINGS, echo=True, stream=stream)
    texts = [chunk.choices[0].text for chunk in answer] if stream else [answer.choices[0].text]
    assert "".join(texts) == PROMPT + text


def test_several_choices(client: openai.OpenAI) -> None:
    completion = client.completions.create(**SETTINGS | {"n": 2, "temperature": 1.2})
    assert [choice.index for choice in completion.choices] == [0, 1]
    assert completion.choices[0].text != completion.choices[1].text


def test_logprobs(client: openai.OpenAI, text: str) -> None:
    (choice,) = client.completions.create(**SETTINGS, logprobs=2).choices
    assert "".join(choice.logprobs.tokens) == choice.text == text
    assert len(choice.logprobs.token_logprobs) == len(choice.logprobs.text_offset) == 12
    assert all(value <= 0 for value in choice.logprobs.token_logprobs)
    assert all(len(top) >= 2 for top in choice.logprobs.top_logprobs)
    lengths = [len(token) for token in choice.logprobs.tokens]
    assert choice.logprobs.text_offset == [sum(lengths[:i]) for i in range(12)]


def test_stop(client: openai.OpenAI, text: str) -> None:
    word = text.split()[4]
    (choice,) = client.completions.create(**SETTINGS, stop=word).choices
    assert (choice.text, choice.finish_reason) == (text[: text.index(word)], "stop")


def test_breaking_off_cancels(server: Server, client: openai.OpenAI) -> None:
    settings = SETTINGS | {"max_tokens": 1900, "extra_body": {"ignore_eos": True}}
    headers = {"X-Request-Id": "completion-broken-off"}
    with client.completions.create(**settings, stream=True, extra_headers=headers) as stream:
        next(iter(stream))
    assert server.end_of("completion-broken-off")["finish_reason"] == "cancelled"
