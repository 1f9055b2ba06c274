"""The sampler's settings, on real logits."""

from __future__ import annotations

import math

import pytest

from headrace import InvalidRequestError, Model

from .ties import NEAR, assert_greedy, read

PROMPT = "My favourite animal is the"


@pytest.fixture
def model(empty_model: Model) -> Model:
    """Here texts are compared to the last character."""
    return empty_model


def ids(model: Model, **settings) -> list[int]:
    return [token.id for token in model.generate_stream(PROMPT, **{"max_tokens": 12, **settings})]


def test_the_same_seed_gives_the_same_tokens(model: Model) -> None:
    first = ids(model, temperature=1.2, seed=7)
    assert ids(model, temperature=1.2, seed=7) == first
    others = [ids(model, temperature=1.2, seed=seed) for seed in (8, 9, 10)]
    assert any(other != first for other in others)


def test_without_a_seed_generations_differ(model: Model) -> None:
    drawn = {tuple(ids(model, temperature=1.5, top_k=0, top_p=1.0)) for _ in range(4)}
    assert len(drawn) > 1


def test_temperature_0_repeats_itself_whatever_the_seed(model: Model) -> None:
    first = ids(model, temperature=0)
    assert ids(model, temperature=0) == ids(model, temperature=0, seed=3) == first


@pytest.mark.parametrize("settings", [{"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0}, {"top_k": 0, "min_p": 1.0}])
def test_filters_that_leave_one_token_are_greedy(model: Model, settings: dict[str, float]) -> None:
    assert_greedy(model, model.tokenize(PROMPT), ids(model, temperature=1.0, seed=1, **settings))


def test_logit_bias_forces_and_bans(model: Model) -> None:
    (forced,) = model.tokenize(" zebra")[:1]
    assert ids(model, logit_bias={forced: 1000.0}, max_tokens=3) == [forced] * 3
    (favourite,) = ids(model, max_tokens=1)
    assert favourite not in ids(model, logit_bias={favourite: -1000.0})
    with pytest.raises(InvalidRequestError, match="logit_bias"):
        model.generate(PROMPT, logit_bias={10**6: 1.0})


def test_penalties_break_a_loop(model: Model) -> None:
    loop = "🚀🚀🚀🚀🚀🚀🚀🚀"
    repeated = [token.id for token in model.generate_stream(loop, max_tokens=12)]
    assert len(set(repeated)) < len(repeated)
    settings = {"repeat_penalty": 1000.0, "presence_penalty": 2.0, "penalty_last_n": 500}
    penalised = [token.id for token in model.generate_stream(loop, max_tokens=12, **settings)]
    assert len({*penalised, *model.tokenize(loop)}) == len(penalised) + len(set(model.tokenize(loop)))


def test_logprobs_are_consistent(model: Model) -> None:
    tokens, _ = read(model.generate_stream(PROMPT, max_tokens=8, logprobs=5))
    for token in tokens:
        assert token.logprob is not None
        assert token.top_logprobs is not None
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 5
        logprobs = [candidate.logprob for candidate in token.top_logprobs]
        assert logprobs == sorted(logprobs, reverse=True)
        assert sum(map(math.exp, logprobs)) <= 1 + 1e-6
        # Greedy: the choice is the first of them.
        first = token.top_logprobs[0]
        assert (first.id, first.logprob, first.bytes) == (token.id, token.logprob, token.bytes)


def test_logprobs_of_all_tokens_cover_the_probability(model: Model) -> None:
    (token,), _ = read(model.generate_stream("2 + 2 =", max_tokens=1, logprobs=128))
    total = sum(math.exp(candidate.logprob) for candidate in token.top_logprobs or ())
    assert 0.5 < total <= 1 + 1e-6


def test_logprobs_are_those_of_the_model_whatever_the_settings(model: Model) -> None:
    (plain,), _ = read(model.generate_stream(PROMPT, max_tokens=1, logprobs=3))
    (drawn,), _ = read(
        model.generate_stream(PROMPT, max_tokens=1, logprobs=3, temperature=0.3, top_k=2, repeat_penalty=1.3, seed=5)
    )
    for one, other in zip(plain.top_logprobs or (), drawn.top_logprobs or (), strict=True):
        assert abs(one.logprob - other.logprob) < NEAR


def test_no_logprobs_unless_asked_for(model: Model) -> None:
    (token,), _ = read(model.generate_stream(PROMPT, max_tokens=1))
    assert token.logprob is None
    assert token.top_logprobs is None
    (token,), _ = read(model.generate_stream(PROMPT, max_tokens=1, logprobs=0))
    assert token.logprob is not None
    assert token.top_logprobs == ()
