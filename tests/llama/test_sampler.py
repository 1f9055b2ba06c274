"""The sampler against a reference that sorts the whole vocabulary and takes the softmax of all of it."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.llama.sampler import Sampler, sample_rows
from headrace.values.config import StreamConfig
from headrace.values.errors import InvalidRequestError
from headrace.values.events import Sample

EOG = frozenset({0, 2})


def make(config, n_vocab, prompt=()):
    return Sampler(config, n_vocab=n_vocab, eog_tokens=EOG & set(range(n_vocab)), prompt=prompt)


def adjusted(row, config, history):
    """Bias, then penalties, one token at a time, in single precision as llama.cpp does it."""
    row = row.copy()
    for token, bias in config.logit_bias.items():
        row[token] += np.float32(bias)
    if config.ignore_eos:
        for token in EOG:
            if token < row.size:
                row[token] = -np.inf
    recent = history[-config.penalty_last_n :] if config.penalty_last_n else []
    for token, count in Counter(recent).items():
        if row[token] > 0:
            row[token] /= np.float32(config.repeat_penalty)
        else:
            row[token] *= np.float32(config.repeat_penalty)
        row[token] -= np.float32(count) * np.float32(config.frequency_penalty) + np.float32(config.presence_penalty)
    return row


def kept(row, config, top_p):
    """Ids and probabilities of what the filters keep, most likely first."""
    ids = np.lexsort((np.arange(row.size), -row))
    ids = ids[np.isfinite(row[ids])]
    if config.top_k:
        ids = ids[: config.top_k]
    logits = row[ids].astype(np.float64)
    probabilities = np.exp(logits - logits[0])
    n = ids.size
    if config.top_p < 1:
        reached = np.cumsum(probabilities) >= top_p * probabilities.sum()
        n = int(np.argmax(reached)) + 1 if reached.any() else n
    if config.min_p > 0:
        n = min(n, int(np.sum(logits - logits[0] >= math.log(config.min_p))))
    with np.errstate(over="ignore"):
        weights = np.exp((logits[:n] - logits[0]) / config.temperature)
    return ids[:n], weights / weights.sum()


# What may be wrong about a probability, in all.
TOLERANCE = 1e-6


def choices(row, config, draw):
    """Every token that the draw may mean, allowing for TOLERANCE where it or top_p falls on a border."""
    if config.temperature == 0:
        return {int(np.argmax(row))}
    found = set()
    for top_p in {config.top_p * (1 + error) if config.top_p < 1 else 1 for error in (-TOLERANCE, 0, TOLERANCE)}:
        ids, probabilities = kept(row, config, top_p)
        cumulative = np.cumsum(probabilities)
        last = np.flatnonzero(probabilities)[-1]
        for error in (-TOLERANCE, 0, TOLERANCE):
            place = np.searchsorted(cumulative, min(max(draw + error, 0), 1 - 1e-12), side="right")
            found.add(int(ids[min(place, last)]))
    return found


class Loaded:
    """A random generator that gives what it was loaded with."""

    def __init__(self, *draws):
        self.draws = list(draws)

    def random(self):
        return self.draws.pop(0)


@st.composite
def rows(draw):
    n = draw(st.integers(1, 700))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["integers", "normal", "wide", "flat"]))
    row = {
        "integers": lambda: rng.integers(-3, 4, n),
        "normal": lambda: rng.normal(0, 1, n),
        "wide": lambda: rng.normal(0, 30, n),
        "flat": lambda: np.zeros(n),
    }[kind]().astype(np.float32)
    row[rng.random(n) < draw(st.sampled_from([0, 0, 0.1, 0.97]))] = -np.inf
    row[min(draw(st.integers(0, 699)), n - 1)] = draw(st.sampled_from([0.0, 1.0, 30.0]))
    return row


@st.composite
def configs(draw):
    return StreamConfig(
        temperature=draw(st.sampled_from([0, 1e-300, 0.3, 1, 1, 2, 1e300])),
        top_k=draw(st.sampled_from([0, 0, 1, 2, 40, 64, 5000])),
        top_p=draw(st.sampled_from([0, 0.1, 0.5, 0.9, 0.999, 1, 1])),
        min_p=draw(st.sampled_from([0, 0, 1e-3, 0.3, 1])),
        seed=draw(st.integers(0, 2**64 - 1)),
        repeat_penalty=draw(st.sampled_from([1, 1, 1.3, 0.5])),
        frequency_penalty=draw(st.sampled_from([0, 0, 0.7, -1])),
        presence_penalty=draw(st.sampled_from([0, 0, 1.5, -2])),
        penalty_last_n=draw(st.sampled_from([0, 1, 3, 64, 10**12])),
        logprobs=draw(st.sampled_from([None, None, 0, 5, 128])),
    )


@given(row=rows(), config=configs(), data=st.data())
@settings(max_examples=400, deadline=None)
def test_draws_what_the_reference_draws(row, config, data):
    token_ids = st.integers(0, row.size - 1)
    history = data.draw(st.lists(token_ids, max_size=8))
    bias = data.draw(st.dictionaries(token_ids, st.sampled_from([-2.5, 1.25, 4]), max_size=3))
    ignore_eos = row.size > 3 and bool(np.isfinite(row[3:]).any()) and data.draw(st.booleans())
    config = config.replace(logit_bias=bias, ignore_eos=ignore_eos)
    sampler = make(config, row.size, history)
    draws = np.random.Generator(np.random.PCG64(config.seed))
    history = list(history)
    for _ in range(6):
        sample = sampler.sample(row.copy())
        draw = 0 if config.temperature == 0 else draws.random()
        assert sample.token in choices(adjusted(row, config, history), config, draw)
        history.append(sample.token)
        if config.logprobs is None:
            assert (sample.logprob, sample.top) == (None, None)
        else:
            check_logprobs(row, sample, config.logprobs)


def check_logprobs(row, sample, k):
    logits = row.astype(np.float64)
    expected = logits - logits.max() - math.log(np.exp(logits - logits.max()).sum())
    assert sample.logprob == pytest.approx(expected[sample.token], abs=1e-4)
    ids = [int(i) for i in np.lexsort((np.arange(row.size), -row)) if np.isfinite(row[i])][:k]
    assert [token for token, _ in sample.top] == ids
    assert [logprob for _, logprob in sample.top] == pytest.approx(list(expected[ids]), abs=1e-4)


@pytest.mark.parametrize("n_vocab", [49152, 100_003])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"top_k": 0},
        {"top_k": 0, "top_p": 1},
        {"top_k": 0, "top_p": 1, "temperature": 1.7},
        {"top_k": 0, "top_p": 1, "min_p": 0.01},
        {"top_k": 0, "top_p": 0.999, "min_p": 0.001},
        {"top_k": 20_000, "top_p": 1},
        {"temperature": 0},
    ],
    ids=str,
)
def test_real_vocabulary_sizes(n_vocab, settings):
    rng = np.random.default_rng(7)
    row = (rng.gumbel(0, 1.5, n_vocab)).astype(np.float32)
    config = StreamConfig(seed=3, logprobs=20, **settings)
    sampler = make(config, n_vocab)
    draws = np.random.Generator(np.random.PCG64(3))
    for _ in range(10):
        sample = sampler.sample(row.copy())
        assert sample.token in choices(row, config, draws.random())
    check_logprobs(row, sample, 20)


HARD_ROWS = {
    "flat": lambda n, rng: np.zeros(n),
    "nearly flat": lambda n, rng: rng.normal(0, 1e-3, n),
    "one peak, and a flat rest of the same mass": lambda n, rng: np.where(np.arange(n) == n // 3, math.log(n), 0),
    "a step at each depth": lambda n, rng: -np.floor(np.arange(n) / n * 30),
    "few values, many ties": lambda n, rng: rng.integers(0, 3, n) * 9.0,
    "huge logits": lambda n, rng: rng.normal(3e4, 5, n),
    "mostly banned": lambda n, rng: np.where(rng.random(n) < 0.999, -np.inf, rng.normal(0, 3, n)),
}


HARD_SETTINGS = [
    {},
    {"temperature": 0.05},
    {"temperature": 50},
    {"top_p": 0.95},
    {"top_p": 0.5, "temperature": 0.7},
    {"min_p": 1e-4},
    {"min_p": 1e-4, "top_p": 0.999, "temperature": 2},
]


@pytest.mark.parametrize(
    ("n_vocab", "settings"),
    [*((50_257, settings) for settings in HARD_SETTINGS), (262_144, {}), (262_144, {"top_p": 0.95})],
    ids=str,
)
@pytest.mark.parametrize("kind", HARD_ROWS)
def test_no_mass_is_lost(kind, settings, n_vocab):
    """A draw just inside a token's share of the distribution is that token, wherever in the distribution it lies."""
    row = HARD_ROWS[kind](n_vocab, np.random.default_rng(5)).astype(np.float32)
    config = StreamConfig(**{"top_k": 0, "top_p": 1, **settings})
    sampler = make(config, n_vocab)
    cumulative = np.cumsum(kept(row, config, config.top_p)[1])
    places = np.unique(cumulative.searchsorted((0.01, 0.5, 0.97), side="right").clip(0, cumulative.size - 1))
    ends = [end - error for end in cumulative[places] for error in (2 * TOLERANCE, -2 * TOLERANCE)]
    draws = [0.0, *(min(max(end, 0.0), 1 - TOLERANCE) for end in ends)]
    sampler._random = Loaded(*draws)
    for draw in draws:
        assert sampler.sample(row.copy()).token in choices(row, config, draw)


def grid():
    for temperature, top_k, top_p, min_p in itertools.product((0.6, 1, 1.7), (0, 12), (1, 0.8), (0, 0.05)):
        yield {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    yield {"top_k": 0, "top_p": 1, "repeat_penalty": 1.5, "logit_bias": {3: 2.0}}
    yield {"top_k": 10, "top_p": 0.9, "frequency_penalty": 0.5, "presence_penalty": -0.5}


@pytest.mark.parametrize("settings", list(grid()), ids=str)
def test_draws_follow_the_distribution(settings):
    row = np.random.default_rng(1).normal(0, 1.2, 200).astype(np.float32)
    history = [3, 3, 20, 77]
    config = StreamConfig(seed=11, **settings)
    penalised = adjusted(row, config, history)
    n = 4000
    sampler = make(config, row.size, history)
    sampler._remember = lambda token: None  # every draw is from the same distribution
    counts = Counter(sampler.sample(row.copy()).token for _ in range(n))
    ids, probabilities = kept(penalised, config, config.top_p)
    assert set(counts) <= set(ids.tolist())
    # Rare tokens share one bin, so that no bin expects fewer than five.
    rare = probabilities * n < 5
    expected = np.append(probabilities[~rare], probabilities[rare].sum()) * n
    observed = np.array([counts[token] for token in ids[~rare].tolist()])
    observed = np.append(observed, n - observed.sum())
    expected, observed = expected[expected > 0], observed[expected > 0]
    chi_square = ((observed - expected) ** 2 / expected).sum()
    freedom = expected.size - 1
    assert chi_square <= freedom + 4 * math.sqrt(2 * freedom)


def test_same_seed_same_draws():
    row = np.zeros(1000, np.float32)

    def run(seed):
        sampler = make(StreamConfig(seed=seed, top_k=0, top_p=1), row.size)
        return [sampler.sample(row.copy()).token for _ in range(20)]

    assert run(5) == run(5)
    assert run(5) != run(6)
    assert run(None) != run(None)


@pytest.mark.parametrize("temperature", [0, 1])
def test_banned_tokens_are_never_chosen(temperature):
    row = np.array([9, 1, 8, 0, 7], np.float32)
    config = StreamConfig(temperature=temperature, ignore_eos=True, logit_bias={4: -1e308}, seed=1)
    sampler = make(config, row.size)
    assert {sampler.sample(row.copy()).token for _ in range(100)} <= {1, 3}


def test_a_huge_bias_decides():
    config = StreamConfig(logit_bias={3: 1e308}, seed=1, logprobs=1)
    sample = make(config, 5).sample(np.zeros(5, np.float32))
    assert sample.token == 3
    assert sample.logprob == pytest.approx(math.log(1 / 5), abs=1e-6)  # of the row as the model gave it


def test_bias_for_a_token_out_of_the_vocabulary():
    with pytest.raises(InvalidRequestError, match=r"logit_bias is 5; allowed: token ids, 0 to 4"):
        make(StreamConfig(logit_bias={5: 1.0}), 5)


def test_penalties_forget_what_left_the_window():
    config = StreamConfig(temperature=0, presence_penalty=2, penalty_last_n=2)
    sampler = make(config, 3, prompt=[0])
    row = np.array([3.0, 2.5, 2.0], np.float32)
    assert [sampler.sample(row.copy()).token for _ in range(6)] == [1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize("repeat", [1e-300, 1e300])
def test_extreme_penalties_make_no_nan(repeat):
    row = np.array([0.0, 1.0, -1.0, -np.inf], np.float32)
    sampler = make(StreamConfig(repeat_penalty=repeat, seed=1), 4, prompt=[0, 1, 2, 3])
    assert sampler.sample(row).token in {0, 1, 2}


@pytest.mark.parametrize("others", [{"temperature": 0}, {"seed": 4}, {"temperature": 0, "logprobs": 2}])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_failing_row_leaves_the_others_alone(others, bad):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (3, 130)).astype(np.float32)
    config = StreamConfig(**others, repeat_penalty=1.2)
    alone = [make(config, 130, [7]).sample(row.copy()) for row in logits]
    logits[1, :] = bad if bad == -np.inf else logits[1, :]
    logits[1, 129] = bad
    first, second, third = sample_rows(logits, [make(config, 130, [7]) for _ in range(3)])
    assert (first, third) == (alone[0], alone[2])
    assert isinstance(second, ValueError)
    assert "-inf" in str(second) or "not finite" in str(second)


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"seed": 9}])
def test_rows_together_are_the_rows_alone(settings):
    rng = np.random.default_rng(0)
    steps = rng.normal(0, 2, (5, 4, 300)).astype(np.float32)
    config = StreamConfig(**settings, frequency_penalty=1, logit_bias={5: 3.0})
    together = [make(config, 300, [1, 2]) for _ in range(4)]
    alone = [make(config, 300, [1, 2]) for _ in range(4)]
    for logits in steps:
        expected = [sampler.sample(row.copy()) for sampler, row in zip(alone, logits, strict=True)]
        assert sample_rows(logits.copy(), together) == expected
        assert all(isinstance(sample, Sample) for sample in expected)


def test_rows_of_all_kinds_together_are_the_rows_alone():
    rng = np.random.default_rng(0)
    kinds = [
        {"temperature": 0},
        {"temperature": 0, "repeat_penalty": 1.3},
        {"temperature": 0, "logprobs": 3},
        {},
        {"top_k": 7, "temperature": 0.5, "presence_penalty": 1},
        {"top_k": 0, "top_p": 1},
        {"top_k": 0, "top_p": 0.8},
        {"top_k": 0, "top_p": 1, "min_p": 0.1},
        {"logprobs": 2, "logit_bias": {9: 3.0}},
    ]
    configs = [StreamConfig(seed=seed, **kind) for seed, kind in enumerate(kinds)]
    together = [make(config, 5000, [1, 2]) for config in configs]
    alone = [make(config, 5000, [1, 2]) for config in configs]
    for _ in range(20):
        logits = rng.normal(0, 2, (len(kinds), 5000)).astype(np.float32)
        expected = [sampler.sample(row.copy()) for sampler, row in zip(alone, logits, strict=True)]
        assert sample_rows(logits.copy(), together) == expected


@pytest.mark.parametrize("settings", [{}, {"top_k": 0, "top_p": 1}, {"top_k": 0, "top_p": 0.9}], ids=str)
@pytest.mark.parametrize("at", [0, 40_000, 50_256])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_logit_that_is_no_number_is_found_wherever_it_is(bad, at, settings):
    row = np.random.default_rng(0).normal(0, 2, 50_257).astype(np.float32)
    row[at] = bad
    with pytest.raises(ValueError, match="not finite"):
        make(StreamConfig(seed=1, **settings), row.size).sample(row)
