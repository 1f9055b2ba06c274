"""A smaller model that guesses: streams stay what they are, and it is asked only as far as it pays."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import pytest
from harness import UNHURRIED, ids, scripted, within
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.engine.channel import Channel
from headrace.engine.metrics import StreamStats
from headrace.engine.sequence import Sequence as EngineSequence
from headrace.engine.sequence import State
from headrace.engine.speculation.planner import MAX_DRAFTS, Speculation
from headrace.engine.tuning.cost import CostModel
from headrace.values.config import StreamConfig
from headrace.values.request import Request

GUESSING = UNHURRIED.replace(speculation="auto", buffer_size=1000)
ANSWER = "All of this was never said before: quick, zany fox jumps."


class FakeDrafter:
    """Knows what will come, or believes so: a text's continuation by its first token."""

    def __init__(self, answers: dict[int, list[int]], *, cost: float = 0.0, reading: float = 0.0) -> None:
        self.answers = answers
        self.cost = cost
        self.seconds_per_read_token = reading
        self.held: dict[Hashable, int] = {}
        self.num_guesses = 0
        self.is_warm = self.is_closed = False

    def warm_up(self) -> None:
        self.is_warm = True

    def seconds(self, num_texts: int) -> float:
        return self.cost

    def behind(self, key: Hashable, tokens: list[int]) -> int:
        return len(tokens) - self.held.get(key, 0)

    def read(self, key: Hashable, tokens: list[int], seconds: float) -> None:
        self.held[key] = min(len(tokens) - 1, self.held.get(key, 0) + 16)

    def guess(self, texts: Sequence[tuple[Hashable, list[int]]], count: int) -> list[list[int]]:
        self.num_guesses += 1
        guesses: list[list[int]] = []
        for key, tokens in texts:
            self.held[key] = len(tokens)
            answer = self.answers[tokens[0]]
            at = tokens[0] - 1  # how long the prompt is
            guesses.append([*answer, 0, *[1] * count][len(tokens) - at :][:count])
        return guesses

    def forget(self, key: Hashable) -> None:
        self.held.pop(key, None)

    def close(self) -> None:
        self.is_closed = True


def prompt_of(length: int) -> list[int]:
    """So many tokens, of which the first says how many."""
    return [length + 1, *range(200, 199 + length)]


@pytest.fixture(autouse=True)
def rows_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode_time(_: CostModel, __: int) -> float:
        return 1e-3

    monkeypatch.setattr(CostModel, "decode_time", decode_time)


def test_one_that_is_right_saves_steps() -> None:
    drafter = FakeDrafter({6: ids(ANSWER)})
    with scripted(ANSWER, config=GUESSING, drafter=drafter) as made:
        assert drafter.is_warm
        result = within(made.model.generate, prompt_of(5))
        assert result.text == ANSWER
        assert result.metrics.accepted_tokens == len(ANSWER) + 1 - len(made.steps) > len(ANSWER) / 2
        seeded = within(made.model.generate, prompt_of(5), seed=1)
        assert (seeded.text, seeded.metrics.drafted_tokens) == (ANSWER, 0)
    assert drafter.is_closed


def test_one_that_is_wrong_is_not_asked_for_long() -> None:
    drafter = FakeDrafter({6: ids("?" * 2000)})
    with scripted("".join(chr(33 + at % 89) for at in range(900)), config=GUESSING, drafter=drafter) as made:
        result = within(made.model.generate, prompt_of(5), max_tokens=900)
        assert result.usage.completion_tokens == 900
        assert drafter.num_guesses < 100


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.text("ab<", min_size=1, max_size=20), st.text("ab<", max_size=20)), min_size=1, max_size=3),
    st.lists(st.text("ab<", min_size=1, max_size=3), max_size=1),
    st.integers(1, 25),
)
def test_streams_are_the_same_as_without(pairs: list[tuple[str, str]], stops: list[str], most: int) -> None:
    """What is written, and what the drafter believes, agree here and there."""
    written = {at + 2: ids(answer) for at, (answer, _) in enumerate(pairs)}
    drafter = FakeDrafter({at + 2: ids(belief) for at, (_, belief) in enumerate(pairs)})
    ended: list[list[tuple[str, str, int]]] = []
    with scripted(lambda prompt: written[prompt[0]], config=GUESSING, drafter=drafter) as made:
        for speculation in ("off", "auto"):
            with made.hold():
                streams = [
                    made.model.generate_stream(
                        prompt_of(at + 1), speculation=speculation, stop_sequences=stops, max_tokens=most
                    )
                    for at in range(len(pairs))
                ]
            results = [within(stream.result) for stream in streams]
            ended.append([(result.text, result.finish_reason, result.tokens_used) for result in results])
    assert ended[0] == ended[1]


def sequence(length: int, max_tokens: int = 1000) -> EngineSequence:
    config = StreamConfig(buffer_size=1000, max_tokens=max_tokens)
    return EngineSequence(Request("a", tuple(prompt_of(length)), config), Channel(1000), None, StreamStats(0.0))


def test_a_dear_drafter_is_not_asked() -> None:
    for cost, asked in ((0.0, True), (0.1, True), (2.0, False)):
        drafter = FakeDrafter({6: ids("x" * 500)}, cost=cost)
        speculation = Speculation(lambda n: 1 + 0.01 * n, 1000, drafter)
        plan = speculation.plan([sequence(5)], 100)
        assert bool(plan) == bool(drafter.num_guesses) == asked
        assert (speculation.seconds > 0) == asked


def test_a_long_prompt_is_read_bit_by_bit_and_only_where_that_pays() -> None:
    drafter = FakeDrafter({151: ids("x" * 500)}, reading=0.1)
    speculation = Speculation(lambda n: 1 + 0.01 * n, 1000, drafter)
    patient, brief = sequence(150), sequence(150, max_tokens=10)
    assert not any(speculation.plan([brief], 100) for _ in range(20))
    assert not drafter.held
    plans = [speculation.plan([patient], 100) for _ in range(20)]
    assert not plans[0]
    assert plans[-1]
    assert drafter.held[patient] > 100


def test_those_that_have_ended_are_forgotten() -> None:
    drafter = FakeDrafter({6: ids("x" * 500)})
    speculation = Speculation(lambda n: 1 + 0.01 * n, 1000, drafter)
    first, second = sequence(5), sequence(5)
    assert len(speculation.plan([first], 100)[0]) <= MAX_DRAFTS
    first.state = State.FINISHED
    assert speculation.plan([second], 3)
    assert list(drafter.held) == [second]
