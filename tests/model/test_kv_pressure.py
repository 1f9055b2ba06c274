"""When the streams need more KV than there is, they take turns; none is lost, and none is changed."""

from __future__ import annotations

import pytest
from harness import PATIENCE

from headrace import ContextOverflowError, Model, StreamConfig

from .ties import assert_greedy, read

NUM_STREAMS = 8
NUM_TOKENS = 48


def test_streams_that_outgrow_the_memory_all_finish_as_they_would_alone(small_model: Model) -> None:
    prompts = [f"{number}. This is a long story about the number {number}." for number in range(NUM_STREAMS)]
    settings = {"max_tokens": NUM_TOKENS, "ignore_eos": True, "buffer_size": NUM_TOKENS}
    demand = sum(small_model.count_tokens(prompt) + NUM_TOKENS for prompt in prompts)
    assert demand > 1.5 * small_model.metrics.kv_total

    streams = [small_model.generate_stream(prompt, **settings) for prompt in prompts]
    results = [stream.result(PATIENCE) for stream in streams]
    generated = [[token.id for token in stream] for stream in streams]
    assert small_model.metrics.preemptions > 0
    assert [result.finish_reason for result in results] == ["length"] * NUM_STREAMS
    assert [result.usage.completion_tokens for result in results] == [NUM_TOKENS] * NUM_STREAMS

    for prompt, ids in zip(prompts, generated, strict=True):
        assert_greedy(small_model, small_model.tokenize(prompt), ids, ignore_eos=True)


def test_a_prompt_longer_than_the_context_is_refused(small_model: Model) -> None:
    before = small_model.metrics
    with pytest.raises(ContextOverflowError) as caught:
        small_model.generate([5] * 257)
    assert (caught.value.prompt_tokens, caught.value.n_ctx) == (257, 256)
    assert small_model.metrics == before
    assert small_model.generate("Still here", max_tokens=1).usage.completion_tokens == 1


@pytest.fixture(scope="module")
def tiny_model():
    with Model.load("smollm2", n_ctx=64, max_streams=2, config=StreamConfig(temperature=0, timeout_ms=0)) as model:
        yield model


@pytest.mark.parametrize("length", [40, 63, 64])
def test_a_stream_that_fills_the_context_ends_with_length(tiny_model: Model, length: int) -> None:
    prompt = (tiny_model.tokenize("a b c d e f g h ") * 10)[:length]
    tokens, result = read(tiny_model.generate_stream(prompt, max_tokens=500, ignore_eos=True))
    assert result.finish_reason == "length"
    # The last token is sampled from the last cell, and needs none itself.
    assert len(tokens) == 64 - length + 1
    assert "".join(token.text for token in tokens) == result.text
    tiny_model.check_integrity()


def test_two_that_cannot_fill_it_both_at_once_both_do(tiny_model: Model) -> None:
    prompts = ["Mary had a little lamb", "Twinkle twinkle little star"]
    streams = [tiny_model.generate_stream(prompt, max_tokens=50, ignore_eos=True) for prompt in prompts]
    for prompt, stream in zip(prompts, streams, strict=True):
        result = stream.result(PATIENCE)
        assert result.usage.completion_tokens == 50
        ids = [token.id for token in stream]
        assert_greedy(tiny_model, tiny_model.tokenize(prompt), ids, ignore_eos=True)
    tiny_model.check_integrity()
