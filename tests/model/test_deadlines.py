"""A stream whose deadline passes ends with an error that holds what there is, and harms nobody."""

from __future__ import annotations

import pytest
from harness import wait_until

from headrace import AsyncTokenStream, Model, StreamTimeoutError, TokenStream

from .waits import prompt_of


def read_into(texts: list[str], stream: TokenStream) -> None:
    texts.extend(token.text for token in stream)


async def aread_into(texts: list[str], stream: AsyncTokenStream) -> None:
    async for token in stream:
        texts.append(token.text)  # noqa: PERF401 - what came before the error counts


def test_a_generation_that_takes_too_long(model: Model) -> None:
    model.generate("Endless", max_tokens=1)  # its prompt is in the cache
    texts: list[str] = []
    with pytest.raises(StreamTimeoutError, match="timeout_ms") as caught:
        read_into(texts, model.generate_stream("Endless", max_tokens=4000, ignore_eos=True, timeout_ms=1200))
    partial = caught.value.partial
    assert caught.value.which == "total"
    assert partial is not None
    assert partial.finish_reason == "timeout"
    assert texts, "it did not get to its first token in time"
    assert "".join(texts) == partial.text
    assert len(texts) == partial.usage.completion_tokens


def test_result_raises_the_same(model: Model) -> None:
    stream = model.generate_stream("Endless", max_tokens=4000, ignore_eos=True, timeout_ms=50)
    for _ in range(2):
        with pytest.raises(StreamTimeoutError) as caught:
            stream.result()
        assert caught.value.which == "total"
    assert stream.finish_reason == "timeout"
    with pytest.raises(StreamTimeoutError):
        model.generate("Endless", max_tokens=4000, ignore_eos=True, timeout_ms=50)


def test_a_first_token_that_is_long_in_coming(model: Model) -> None:
    neighbour = model.generate_stream("The neighbour", max_tokens=16, ignore_eos=True)
    stream = model.generate_stream(prompt_of(model, 1600, "Late:"), max_tokens=4, first_token_timeout_ms=100)
    with pytest.raises(StreamTimeoutError, match="first_token_timeout_ms") as caught:
        next(stream)
    assert caught.value.which == "first_token"
    assert caught.value.partial is not None
    assert caught.value.partial.text == ""
    assert caught.value.partial.usage.completion_tokens == 0
    assert neighbour.result().usage.completion_tokens == 16


def test_a_reader_that_stays_away(model: Model) -> None:
    stream = model.generate_stream(
        "Nobody listens", max_tokens=4000, ignore_eos=True, buffer_size=4, stall_timeout_ms=100, timeout_ms=60_000
    )
    texts: list[str] = []
    next(stream)
    # Nothing is read until the stream has ended; what was in the buffer can still be read then.
    wait_until(lambda: stream.finish_reason == "timeout")
    with pytest.raises(StreamTimeoutError) as caught:
        read_into(texts, stream)
    assert caught.value.which == "stall"
    assert caught.value.partial is not None
    assert caught.value.partial.text.endswith("".join(texts))
    assert len(texts) <= 4


@pytest.mark.anyio
async def test_the_same_for_tasks(model: Model) -> None:
    stream = model.as_async().generate_stream("Endless", max_tokens=4000, ignore_eos=True, timeout_ms=100)
    texts: list[str] = []
    with pytest.raises(StreamTimeoutError) as caught:
        await aread_into(texts, stream)
    assert caught.value.partial is not None
    assert caught.value.partial.text == "".join(texts)
    with pytest.raises(StreamTimeoutError):
        await stream.result()
