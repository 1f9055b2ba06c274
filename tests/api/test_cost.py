"""What a stream costs is known after every token, however it ends."""

from __future__ import annotations

import pytest
from harness import UNHURRIED, Gate, echo, ids, scripted, within

from headrace import Context, InvalidRequestError, Pricing

PRICING = Pricing(prompt=1_000_000, cached=100_000, completion=10_000_000, currency="EUR")


@pytest.mark.parametrize(
    ("pricing", "expected"),
    [
        (Pricing(), 0.0),
        (Pricing(prompt=2.0), 2.0 * 10 / 1e6),
        (Pricing(prompt=2.0, cached=0.5), (2.0 * 7 + 0.5 * 3) / 1e6),
        (Pricing(prompt=2.0, cached=0), 2.0 * 7 / 1e6),
        (Pricing(completion=4), 4.0 * 5 / 1e6),
        (Pricing(1, 2, 3), (7 + 6 + 15) / 1e6),
    ],
    ids=str,
)
def test_prices_are_per_million_tokens(pricing: Pricing, expected: float) -> None:
    assert pricing.cost(10, 3, 5) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prompt", -1),
        ("prompt", None),
        ("prompt", "1"),
        ("completion", float("nan")),
        ("completion", float("inf")),
        ("cached", -0.1),
        ("currency", " "),
        ("currency", None),
        ("currency", 5),
    ],
)
def test_prices_that_are_none(name: str, value: object) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        Pricing(**{name: value})  # pyright: ignore[reportArgumentType]
    assert caught.value.field == f"pricing.{name}"


@pytest.mark.parametrize("value", [1.0, {"prompt": 1}, "free"])
def test_a_setting_that_is_no_pricing(value: object) -> None:
    with scripted() as made, pytest.raises(InvalidRequestError) as caught:
        made.model.generate("p", pricing=value)
    assert caught.value.field == "pricing"


def test_without_prices_there_is_no_cost() -> None:
    with scripted("abc") as made:
        usage = within(made.model.generate, "p").usage
    assert (usage.cost, usage.currency) == (None, None)


def test_the_models_prices_count_and_a_streams_own_before_them() -> None:
    with scripted("ab", config=UNHURRIED.replace(pricing=PRICING)) as made:
        usage = within(made.model.generate, "xyz").usage
        assert (usage.cost, usage.currency) == (3 + 30, "EUR")
        usage = within(made.model.generate, "xyz", pricing=Pricing(completion=1_000_000)).usage
        assert (usage.cost, usage.currency) == (3, "USD")
        # A config of one's own says nothing of prices, so that the model's stay.
        usage = within(made.model.generate, "uvw", UNHURRIED).usage
        assert (usage.cost, usage.currency) == (33, "EUR")
        with Context(made.model, max_tokens=1) as context:
            assert within(context.generate, "rst").usage.cost == 13
        with Context(made.model, pricing=Pricing(prompt=2_000_000)) as context:
            assert within(context.generate, "opq").usage.cost == 6


def test_the_cost_is_right_after_every_token() -> None:
    gate = Gate()
    with scripted("abcdef", before_step=gate) as made:
        stream = made.model.generate_stream("xyz", pricing=PRICING)
        assert stream.usage.cost == 3
        gate.wait()
        for count in range(1, 6):
            gate.pass_one()
            within(stream.__next__)
            gate.wait()  # the engine stands before the next step, so that the counts stand still
            usage = stream.usage
            assert (usage.completion_tokens, usage.cost) == (count, 3 + 10 * count)
        gate.open()
        assert within(stream.result).usage.cost == 3 + 70


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_cancelled_stream_costs_what_was_sampled(count: int) -> None:
    gate = Gate()
    with scripted("abcdef", before_step=gate) as made:
        stream = made.model.generate_stream("xyz", pricing=PRICING)
        gate.step(count)
        gate.wait()
        stream.cancel()
        gate.open()
        result = within(stream.result)
    assert result.finish_reason == "cancelled"
    assert result.usage.completion_tokens >= count
    assert result.usage.cost == 3 + 10 * result.usage.completion_tokens
    assert stream.usage == result.usage


def test_cached_tokens_have_a_price_of_their_own() -> None:
    prompt = "a long prompt that is asked again"
    with scripted(echo) as made:
        first = within(made.model.generate, prompt, pricing=PRICING, max_tokens=2).usage
        assert first.cost == len(prompt) + 20
        usage = within(made.model.generate, prompt, pricing=PRICING, max_tokens=2).usage
        assert usage.cached_tokens > 0
        computed = usage.prompt_tokens - usage.cached_tokens
        assert usage.cost == pytest.approx(computed + 0.1 * usage.cached_tokens + 20)
        same = within(made.model.generate, prompt, pricing=Pricing(prompt=1_000_000), max_tokens=2).usage
        assert same.cached_tokens > 0
        assert same.cost == len(prompt)


def test_a_thought_is_paid_for() -> None:
    with scripted(ids("<think>a</think>b"), chat_template="{{ messages[-1].content }}{# </think> #}") as made:
        usage = within(made.model.chat, [{"role": "user", "content": "p"}], pricing=PRICING, thinking="hide").usage
    assert usage.completion_tokens == len("<think>a</think>b") + 1
    assert usage.cost == 1 + 10 * usage.completion_tokens
