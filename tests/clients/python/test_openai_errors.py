"""What openai-python makes of errors: which exception, with which fields, before the first byte and in mid-stream."""

from __future__ import annotations

import asyncio

import openai
import pytest
from serving import Server, wait_until

MODEL = "smollm2"
MESSAGES = [{"role": "user", "content": "Hello!"}]
SETTINGS = {"model": MODEL, "messages": MESSAGES, "max_tokens": 8}
ENDLESS = SETTINGS | {"max_tokens": 8000, "extra_body": {"ignore_eos": True}}


@pytest.fixture
def client(server: Server):
    with openai.OpenAI(base_url=server.api, api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture
def narrow_client(narrow: Server):
    with openai.OpenAI(base_url=narrow.api, api_key="secret", max_retries=0) as client:
        yield client


def test_models(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.object, model.owned_by) == (MODEL, "model", "headrace")
    assert client.models.retrieve(MODEL) == model


def test_an_unknown_model(client: openai.OpenAI) -> None:
    for call in (
        lambda: client.chat.completions.create(**SETTINGS | {"model": "gpt-9"}),
        lambda: client.completions.create(model="gpt-9", prompt="x"),
        lambda: client.responses.create(model="gpt-9", input="x"),
        lambda: client.models.retrieve("gpt-9"),
    ):
        with pytest.raises(openai.NotFoundError, match="gpt-9") as caught:
            call()
        assert caught.value.code == "model_not_found"
        assert caught.value.request_id


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("temperature", -1),
        ("temperature", "hot"),
        ("max_tokens", 0),
        ("max_tokens", 1.5),
        ("seed", 2**70),
        ("n", 0),
        ("top_p", 1.5),
        ("top_logprobs", 3),  # without logprobs
        ("stop", [1, 2]),
        ("stream", "yes"),
        ("stream_options", {"include_usage": True}),  # without stream
        ("messages", []),
        ("messages", "Hello!"),
        ("messages", [{"role": "king", "content": "Hello!"}]),
        ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]),
        ("tools", [{"type": "function", "function": {"name": "f", "parameters": {"type": "thing"}}}]),
        ("tools", [{"type": "custom", "custom": {"name": "f"}}]),
        ("tool_choice", {"type": "function", "function": {"name": "f"}}),  # without tools
        ("response_format", {"type": "json_schema", "json_schema": {"name": "n", "schema": {"mood": 1}}}),
        ("no_such_thing", 1),
    ],
)
def test_a_bad_request_names_what_is_bad(client: openai.OpenAI, param: str, value: object) -> None:
    settings = {key: setting for key, setting in SETTINGS.items() if key != param}
    settings.setdefault("messages", [])  # which the library insists on; the body's own comes last
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**settings, extra_body={param: value})
    assert caught.value.status_code == 400
    assert caught.value.type == "invalid_request_error"
    assert caught.value.param.startswith(param)
    assert param in caught.value.message
    assert caught.value.request_id


def test_a_prompt_that_is_too_long(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="2048") as caught:
        client.chat.completions.create(**SETTINGS | {"messages": [{"role": "user", "content": "word " * 3000}]})
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model=MODEL, input="word " * 3000, stream=True)
    assert caught.value.code == "context_length_exceeded"


def test_a_wrong_key(narrow: Server) -> None:
    with openai.OpenAI(base_url=narrow.api, api_key="guessed", max_retries=0) as client:
        for call in (client.models.list, lambda: client.chat.completions.create(**SETTINGS)):
            with pytest.raises(openai.AuthenticationError) as caught:
                call()
            assert "guessed" not in str(caught.value)


def test_the_right_key(narrow_client: openai.OpenAI) -> None:
    assert narrow_client.chat.completions.create(**SETTINGS).choices[0].message.content


def started(client: openai.OpenAI, **settings):
    """An endless stream that has begun to speak."""
    stream = client.chat.completions.create(**ENDLESS | settings, stream=True)
    next(chunk for chunk in stream if chunk.choices[0].delta.content)
    return stream


def test_an_error_in_mid_stream(narrow_client: openai.OpenAI) -> None:
    stream = started(narrow_client)
    with pytest.raises(openai.APIError, match="timeout_ms") as caught:
        list(stream)
    assert type(caught.value) is openai.APIError, "the status was 200"
    assert caught.value.code == "timeout"
    assert caught.value.param is None


def test_an_error_in_mid_stream_of_the_helper(narrow_client: openai.OpenAI) -> None:
    with (
        pytest.raises(openai.APIError, match="timeout_ms") as caught,
        narrow_client.chat.completions.stream(**ENDLESS) as stream,
    ):
        stream.until_done()
    assert caught.value.code == "timeout"


def test_an_error_in_mid_stream_of_completions(narrow_client: openai.OpenAI) -> None:
    settings = {"model": MODEL, "prompt": "Hello!", "max_tokens": 8000, "extra_body": {"ignore_eos": True}}
    with pytest.raises(openai.APIError, match="timeout_ms") as caught:
        list(narrow_client.completions.create(**settings, stream=True))
    assert caught.value.code == "timeout"


def test_a_response_that_fails_in_mid_stream(narrow_client: openai.OpenAI) -> None:
    settings = {"model": MODEL, "input": "Hello!", "max_output_tokens": 8000, "extra_body": {"ignore_eos": True}}
    *events, failed = narrow_client.responses.create(**settings, stream=True)
    assert any(event.type == "response.output_text.delta" for event in events)
    assert (failed.type, failed.response.status) == ("response.failed", "failed")
    assert "timeout_ms" in failed.response.error.message


def test_a_full_queue(narrow: Server) -> None:
    """One runs, one waits, the third is told when to come back; the fourth does so by itself until there is room."""

    async def first_token(stream: openai.AsyncStream) -> None:
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                return

    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=narrow.api, api_key="secret", max_retries=0) as client:
            running = await client.chat.completions.create(**ENDLESS, stream=True)
            await first_token(running)
            waiting = asyncio.create_task(client.chat.completions.create(**SETTINGS))
            await asyncio.to_thread(wait_until, lambda: narrow.metric("headrace_streams_queued") == 1, "one waits")
            with pytest.raises(openai.RateLimitError) as caught:
                await client.chat.completions.create(**SETTINGS)
            assert caught.value.code == "queue_full"
            assert int(caught.value.response.headers["retry-after"]) >= 1
            patient = asyncio.create_task(
                client.with_options(max_retries=20).chat.completions.create(
                    **SETTINGS, extra_headers={"X-Request-Id": "patient"}
                )
            )
            await asyncio.to_thread(wait_until, lambda: narrow.records("patient") != [], "it was refused once")
            await running.close()
            for task in (waiting, patient):
                assert (await task).choices[0].message.content
        refusal, end = narrow.records("patient")[0], narrow.end_of("patient")
        assert (refusal["status"], end["error"]) == (429, None)

    asyncio.run(main())
