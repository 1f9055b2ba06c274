"""Whatever is guessed, streams are what they would be without: token for token, end for end, cell for cell."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from harness import UNHURRIED, Gate, Scripted, ids, read, scripted, started, wait_until, within
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace import GenerationError, StreamConfig
from headrace.engine.runner import NoRoomError, Slice, verified
from headrace.engine.speculation.planner import MAX_DRAFTS
from headrace.engine.tuning.cost import CostModel
from headrace.llama.sampler import Sampler
from headrace.values.events import Sample

GUESSING = UNHURRIED.replace(speculation="auto", buffer_size=1000)
TEXT = "the cat sat on the mat, and the dog sat on the cat. "


@pytest.fixture(autouse=True)
def rows_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step costs the same, so that all guesses pay that have the least chance."""

    def decode_time(_: CostModel, __: int) -> float:
        return 1e-6

    monkeypatch.setattr(CostModel, "decode_time", decode_time)


def drafts(made: Scripted) -> list[int]:
    """How many tokens were guessed in each slice, where there were any."""
    return [len(part.drafts) for step in made.steps for part in step if part.drafts]


def test_a_copy_takes_few_steps() -> None:
    with scripted(TEXT, config=GUESSING, step_target_ms=10_000) as made:
        stream = made.model.generate_stream(TEXT)
        tokens = within(lambda: list(stream))
        result = within(stream.result)
        metrics = made.model.metrics
        assert len(made.steps) < len(TEXT) / 3
    assert result.text == "".join(token.text for token in tokens) == TEXT
    assert [token.index for token in tokens] == list(range(len(TEXT) + 1))
    assert result.usage.completion_tokens == len(TEXT) + 1
    assert result.metrics.drafted_tokens == metrics.drafted_tokens == sum(drafts(made))
    # Each step that samples brings a token, and one more for each guess that came true.
    assert result.metrics.accepted_tokens == metrics.accepted_tokens == len(TEXT) + 1 - len(made.steps)
    assert metrics.prefill_tokens == len(TEXT)


WRITTEN = st.text("ab<", min_size=1, max_size=24)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(WRITTEN, WRITTEN), min_size=1, max_size=4, unique_by=lambda pair: pair[0]),
    st.lists(st.text("ab<", min_size=1, max_size=4), max_size=2),
    st.integers(1, 30),
)
def test_streams_are_the_same_as_without(pairs: list[tuple[str, str]], stops: list[str], most: int) -> None:
    """The texts have so few letters that guesses are right, wrong, and cut short by an end at every place."""
    answers = {tuple(ids(prompt)): ids(prompt[::-1] + answer) for prompt, answer in pairs}
    ended: list[list[tuple[str, str, list[int], int]]] = []
    with scripted(lambda prompt: answers[prompt], config=GUESSING) as made:
        for speculation in ("off", "auto"):
            with made.hold():
                streams = [
                    made.model.generate_stream(
                        prompt, speculation=speculation, stop_sequences=stops, max_tokens=most, ignore_eos=False
                    )
                    for prompt, _ in pairs
                ]
            ended.append([])
            for stream in streams:
                tokens = within(list, stream)
                result = within(stream.result)
                assert result.text == "".join(token.text for token in tokens)
                assert [token.index for token in tokens] == list(range(result.tokens_used))
                assert result.metrics.accepted_tokens <= result.metrics.drafted_tokens
                ended[-1].append(
                    (result.text, result.finish_reason, [token.id for token in tokens], result.tokens_used)
                )
            made.settle()
    assert ended[0] == ended[1]


@pytest.mark.parametrize("most", range(1, len(TEXT) + 3))
def test_no_more_tokens_than_were_asked_for(most: int) -> None:
    with scripted(TEXT, config=GUESSING) as made:
        result = within(made.model.generate, TEXT, max_tokens=most)
        assert result.text == TEXT[:most]
        assert result.usage.completion_tokens == min(most, len(TEXT) + 1)
        for step in made.steps:
            for part in step:
                assert part.start + 1 + len(part.drafts) <= len(TEXT) + most, "a guess that nobody can use"


def test_a_sequence_is_never_longer_than_the_context() -> None:
    with scripted(TEXT * 3, config=GUESSING, num_cells=2 * len(TEXT)) as made:
        result = within(made.model.generate, TEXT)
        assert result.finish_reason == "length"
        assert result.usage.total_tokens == 2 * len(TEXT) + 1
        assert drafts(made)


@pytest.mark.parametrize("count", range(1, 30, 3))
def test_cancelling_in_the_midst(count: int) -> None:
    gate = Gate()
    with scripted(TEXT * 20, config=GUESSING, before_step=gate) as made:
        stream, other = made.model.generate_stream(TEXT), made.model.generate_stream(TEXT + "x")
        gate.step(count)
        gate.wait()
        stream.cancel()
        gate.open()
        result = within(stream.result)
        assert result.finish_reason == "cancelled"
        assert result.text == (TEXT * 20)[: result.usage.completion_tokens]
        assert within(other.result).text == TEXT * 20
        assert drafts(made)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_a_readers_buffer_is_never_overfull(size: int) -> None:
    with scripted(TEXT * 3, config=GUESSING) as made:
        stream = made.model.generate_stream(TEXT, buffer_size=size)
        channel = stream._channel
        text = ""
        while True:
            wait_until(lambda: channel.is_paused or channel.end is not None)
            assert len(channel) <= size
            if (token := next(stream, None)) is None:
                break
            text += token.text
        assert text == TEXT * 3
        assert bool(drafts(made)) == (size > 1), "where one token fits, there is nothing to guess"


def test_guesses_evict_nothing() -> None:
    first, second = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJ", "123412341234"
    with scripted(lambda prompt: ids("1234" * 2), config=GUESSING, num_cells=len(first) + len(second) + 8) as made:
        within(made.model.generate, first, max_tokens=1)
        within(made.model.generate, second, max_tokens=8)
        assert drafts(made)
        again = within(made.model.generate, first, max_tokens=1)
        assert again.usage.cached_tokens == len(first) - 1


def test_under_pressure_nobody_gives_way_to_a_guess() -> None:
    prompts = [TEXT[at:] + TEXT[:at] for at in range(0, 40, 10)]
    with scripted(lambda prompt: list(prompt) * 2, config=GUESSING, num_cells=4 * len(TEXT)) as made:
        with made.hold():
            streams = [made.model.generate_stream(prompt) for prompt in prompts]
        for prompt, stream in zip(prompts, streams, strict=True):
            assert within(stream.result).text == prompt * 2
        assert made.model.metrics.preemptions
        assert drafts(made)


@pytest.mark.parametrize("error", [NoRoomError, RuntimeError])
def test_a_step_that_fails_because_of_guesses(error: type[Exception]) -> None:
    """Memory that is full for guesses has room without them; a batch that fails as a whole is run again, apart."""

    def before_step(slices: Sequence[Slice]) -> None:
        if any(part.drafts for part in slices) and (error is NoRoomError or len(slices) > 1):
            raise error("no")

    with scripted(lambda prompt: list(prompt), config=GUESSING, before_step=before_step) as made:
        within(made.model.generate, "what is cached stays")
        with made.hold():
            streams = [made.model.generate_stream(TEXT + name) for name in "xyz"]
        assert [within(stream.result).text for stream in streams] == [TEXT + name for name in "xyz"]
        assert made.model.metrics.preemptions == 0
        assert within(made.model.generate, "what is cached stays").usage.cached_tokens == 19
        assert bool(drafts(made)) == (error is RuntimeError)


@pytest.mark.parametrize("at", range(20, 50, 4))
def test_what_was_sampled_before_a_failure_arrives(at: int) -> None:
    count = 0

    def on_sample(_: Slice, __: Sample) -> None:
        nonlocal count
        count += 1
        if count == at + 1:
            raise ValueError("this one")

    with scripted(TEXT, config=GUESSING, on_sample=on_sample) as made:
        text, error = read(made.model.generate_stream(TEXT))
        assert text == TEXT[:at]
        assert isinstance(error, GenerationError)
        assert within(made.model.generate, TEXT).text == TEXT


def test_a_recurrent_state_guesses_nothing() -> None:
    with scripted(TEXT, config=GUESSING, can_drop_partial=False) as made:
        assert within(made.model.generate, TEXT).text == TEXT
        assert not drafts(made)


@pytest.mark.parametrize(
    ("overrides", "guesses"),
    [
        ({}, True),
        ({"speculation": "on"}, True),
        ({"speculation": "off"}, False),
        ({"seed": 1}, False),
        ({"seed": 1, "speculation": "on"}, True),
    ],
    ids=str,
)
def test_who_guesses(overrides: dict[str, object], guesses: bool) -> None:
    with scripted(TEXT, config=GUESSING) as made:
        assert within(made.model.generate, TEXT, **overrides).text == TEXT
        assert bool(drafts(made)) == guesses


def test_nobody_guesses_while_a_prompt_is_read() -> None:
    gate = Gate()
    with scripted(lambda prompt: list(prompt) * 2, config=GUESSING, before_step=gate, step_target_ms=1) as made:
        running = made.model.generate_stream(TEXT)
        gate.step(6)
        arriving = made.model.generate_stream(TEXT.upper() * 5)
        gate.open()
        assert within(running.result).text == TEXT * 2
        assert within(arriving.result).text == TEXT.upper() * 10
        assert drafts(made)
        for step in made.steps:
            assert not any(part.drafts for part in step) or all(len(part.tokens) == 1 for part in step)


def test_the_cache_keeps_what_was_accepted() -> None:
    with scripted(TEXT * 2, config=GUESSING) as made:
        within(made.model.generate, TEXT)
        again = within(made.model.generate, TEXT * 3, max_tokens=1)
        assert again.usage.cached_tokens == 3 * len(TEXT) - 1


def test_many_streams_at_once() -> None:
    with scripted(lambda prompt: list(prompt) * 3, config=GUESSING, max_queue=100) as made:
        streams = [made.model.generate_stream(TEXT[at:] + TEXT[:at]) for at in range(len(TEXT))]
        readers = [started(stream.result) for stream in streams]
        for at, reader in enumerate(readers):
            assert reader.result(30).text == (TEXT[at:] + TEXT[:at]) * 3
        assert max(drafts(made)) <= MAX_DRAFTS
        assert all(sum(len(part.drafts) for part in step) <= MAX_DRAFTS for step in made.steps)


# What is sampled where there are guesses.


def test_a_guess_changes_no_distribution() -> None:
    """Three tokens of a model that knows what was before, guessed as badly as well: chi-square of what comes out."""
    size, rounds = 5, 8_000
    random = np.random.default_rng(3)
    table = random.normal(0, 1.5, (size, size)).astype(np.float32)  # the logits behind each token
    config = StreamConfig(temperature=0.8, top_k=4, top_p=0.95)
    probabilities = np.stack([reference(row, config) for row in table])
    expected = {
        (a, b, c): probabilities[0, a] * probabilities[a, b] * probabilities[b, c]
        for a, b, c in product(range(size), repeat=3)
    }
    for guess in ([1, 2], [int(table[0].argmax()), int(table[table[0].argmax()].argmax())], []):
        sampler = Sampler(config.replace(seed=11), n_vocab=size, eog_tokens=frozenset(), prompt=[0])
        counts: dict[tuple[int, ...], int] = {}
        for _ in range(rounds):
            text = [0]
            while len(text) < 4:
                rest = guess[len(text) - 1 : 3]
                rows = iter(table[[text[-1], *rest]])
                for sample in verified(rest, (sampler.sample(row.copy()) for row in rows)):
                    assert isinstance(sample, Sample)
                    text.append(sample.token)
            key = tuple(text[1:4])
            counts[key] = counts.get(key, 0) + 1
        assert all(expected[key] > 0 for key in counts)
        # Pearson's statistic says nothing about what is hardly expected at all: that counts as one.
        often = [key for key, share in expected.items() if share * rounds >= 5]
        pairs = [(counts.get(key, 0), rounds * expected[key]) for key in often]
        pairs.append((rounds - sum(pair[0] for pair in pairs), rounds - sum(pair[1] for pair in pairs)))
        statistic = sum((count - mean) ** 2 / mean for count, mean in pairs)
        # With n degrees of freedom, n + 5 * sqrt(2 n) is exceeded about once in ten thousand times.
        freedom = len(pairs) - 1
        assert statistic < freedom + 5 * (2 * freedom) ** 0.5, guess


def reference(row: np.ndarray, config: StreamConfig) -> np.ndarray:
    """The distribution that a sampler draws from, by the definition of its filters."""
    order = np.argsort(-row, kind="stable")[: config.top_k]
    share = np.exp(row[order].astype(np.float64))
    share /= share.sum()
    kept = order[: int(np.searchsorted(np.cumsum(share), config.top_p)) + 1]
    result = np.zeros(len(row))
    result[kept] = np.exp(row[kept].astype(np.float64) / config.temperature)
    return result / result.sum()


def test_a_seeded_sampler_draws_the_same_tokens_whatever_is_guessed() -> None:
    random = np.random.default_rng(5)
    table = random.normal(0, 1, (8, 8)).astype(np.float32)
    config = StreamConfig(seed=4, repeat_penalty=1.3, presence_penalty=0.5, logprobs=2)

    def write(guess: Sequence[int]) -> list[Sample]:
        sampler = Sampler(config, n_vocab=8, eog_tokens=frozenset(), prompt=[0])
        text, samples = [0], list[Sample]()
        while len(samples) < 40:
            rest = guess[len(samples) : len(samples) + 3]
            rows = iter(table[[text[-1], *rest]])
            for sample in verified(rest, (sampler.sample(row.copy()) for row in rows)):
                assert isinstance(sample, Sample)
                samples.append(sample)
                text.append(sample.token)
        return samples[:40]

    alone = write([])
    right = [sample.token for sample in alone]
    assert write(right) == alone
    assert write([token if at % 3 else (token + 1) % 8 for at, token in enumerate(right)]) == alone
    assert write([7] * 40) == alone


def test_only_what_follows_a_right_guess_is_sampled() -> None:
    def run(guess: list[int], chosen: list[Sample | Exception]) -> int:
        left = iter(chosen)
        taken = verified(guess, left)
        assert [*taken, *left] == chosen
        return len(taken)

    samples: list[Sample | Exception] = [Sample(1), Sample(2), Sample(3)]
    assert [run(guess, samples) for guess in ([], [9], [1], [1, 9], [1, 2], [9, 2])] == [1, 1, 2, 2, 3, 1]
    assert run([1, 2], [Sample(1), ValueError("no"), Sample(3)]) == 2
