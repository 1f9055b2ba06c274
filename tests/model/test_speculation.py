"""Guessed tokens on real models: the greedy text stays, near-ties excepted, and so do its log probabilities."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cases import sampled

from headrace import Model, StreamConfig
from headrace.engine.tuning.cost import CostModel

from .ties import assert_greedy, read

COPY = "The quick brown fox jumps over the lazy dog. A wizard's job is to vex chumps quickly in fog. "
CHAT = [{"role": "user", "content": "Repeat this, word by word: " + COPY * 2}]


def free_rows(_: CostModel, __: int) -> float:
    """Guesses are tried wherever there are any, so that many of them are wrong, too."""
    return 1e-6


@pytest.fixture(scope="module", params=sampled(["smollm2", "gemma3-270m"], 2))
def guessing(request: pytest.FixtureRequest) -> Iterator[Model]:
    config = StreamConfig(temperature=0, timeout_ms=0, max_tokens=60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CostModel, "decode_time", free_rows)
        with Model.load(request.param, n_ctx=1024, n_threads=1, max_streams=4, config=config) as model:
            yield model
            model.check_integrity()


def test_greedy_text_stays(guessing: Model) -> None:
    for text in (COPY * 3, "one two three four five one two three six seven one two three", "Once upon a time"):
        prompt = guessing.tokenize(text)
        tokens, result = read(guessing.generate_stream(prompt, buffer_size=100))
        assert "".join(token.text for token in tokens) == result.text
        assert_greedy(guessing, prompt, [token.id for token in tokens], speculation="off")
        if text.startswith(COPY):
            assert result.metrics.accepted_tokens > 20


def test_streams_side_by_side(guessing: Model) -> None:
    prompts = [guessing.tokenize(f"{number}. {COPY * 2}{number}. ") for number in range(1, 5)]
    streams = [guessing.generate_stream(prompt, buffer_size=100) for prompt in prompts]
    for prompt, stream in zip(prompts, streams, strict=True):
        tokens, _ = read(stream)
        assert_greedy(guessing, prompt, [token.id for token in tokens], speculation="off")
    assert guessing.metrics.drafted_tokens > guessing.metrics.accepted_tokens > 0


def test_log_probabilities_and_penalties_are_those_of_each_place(guessing: Model) -> None:
    prompt = guessing.tokenize(COPY * 3)
    settings = {"logprobs": 3, "max_tokens": 24, "frequency_penalty": 0.05, "buffer_size": 100}
    tokens, result = read(guessing.generate_stream(prompt, **settings))
    assert result.metrics.accepted_tokens > 5
    alone, _ = read(guessing.generate_stream(prompt, **settings, speculation="off"))
    same = next((i for i, token in enumerate(tokens) if token.id != alone[i].id), len(tokens))
    assert same > 10
    for token, other in zip(tokens[:same], alone[:same], strict=True):
        assert token.logprob == pytest.approx(other.logprob, abs=0.7)
        assert token.top_logprobs is not None
        assert len(token.top_logprobs) == 3
        if token.top_logprobs[0].id == token.id:
            assert token.logprob == token.top_logprobs[0].logprob


def test_an_output_that_is_kept_to_a_form_guesses_nothing(guessing: Model) -> None:
    result = guessing.generate(COPY * 3, regex="(?s).*", max_tokens=12)
    assert result.metrics.drafted_tokens == 0
