"""The cost of answers: where prices come from, and that each token is charged once."""

from __future__ import annotations

from typing import Any

import pytest
from harness import UNHURRIED, run_async

from headrace import Pricing
from server.harness import Server, checked, running

PRICES = {"price_prompt": 1_000_000, "price_cached": 250_000, "price_completion": 3_000_000, "currency": "EUR"}
MILLION = 1_000_000


async def usage_of(server: Server, path: str, *, stream: bool, **body: Any) -> dict[str, Any]:
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    answer = checked(await (server.chat(**body) if path == "chat" else server.complete(**body)))
    assert answer.status == 200, answer.body
    return answer.chunks[-1]["usage"] if stream else answer.json["usage"]


@pytest.mark.parametrize("stream", [False, True])
def test_each_token_is_charged_once(stream: bool) -> None:
    async def run() -> None:
        async with running("abc", PRICES) as server:
            usage = await usage_of(server, "chat", stream=stream)
            assert (usage["prompt_tokens"], usage["completion_tokens"]) == (8, 4)
            assert usage["prompt_tokens_details"]["cached_tokens"] == 0
            assert usage["cost"] == pytest.approx(8 + 4 * 3)
            assert usage["cost_currency"] == "EUR"

            usage = await usage_of(server, "chat", stream=stream)
            assert usage["prompt_tokens_details"]["cached_tokens"] == 7
            assert usage["cost"] == pytest.approx(1 + 7 / 4 + 4 * 3)

            usage = await usage_of(server, "chat", stream=stream, n=3)
            assert usage["cost"] == pytest.approx(1 + 7 / 4 + 3 * 4 * 3), "the prompt is charged once, as it is counted"

            usage = await usage_of(server, "completion", stream=stream, prompt=["one", "three"], n=2, max_tokens=2)
            assert usage["prompt_tokens_details"]["cached_tokens"] == 0
            assert usage["cost"] == pytest.approx(3 + 5 + 4 * 2 * 3)

    run_async(run())


@pytest.mark.parametrize(
    ("settings", "cost", "currency"),
    [
        ({"price_prompt": MILLION}, 8, "USD"),
        ({"price_completion": MILLION}, 4, "USD"),
        ({"price_cached": MILLION}, 0, "USD"),
        ({"currency": "CHF"}, 0, "CHF"),
    ],
)
def test_any_price_is_one(settings: dict[str, Any], cost: float, currency: str) -> None:
    async def run() -> None:
        async with running("abc", settings) as server:
            usage = await usage_of(server, "chat", stream=False)
            assert (usage["cost"], usage["cost_currency"]) == (cost, currency)

    run_async(run())


@pytest.mark.parametrize("stream", [False, True])
def test_without_prices_nothing_is_said_of_costs(stream: bool) -> None:
    async def run() -> None:
        async with running("abc") as server:
            usage = await usage_of(server, "chat", stream=stream)
            assert "cost" not in usage
            assert "cost_currency" not in usage

    run_async(run())


def test_the_models_own_prices_count_where_the_server_has_none() -> None:
    config = UNHURRIED.replace(pricing=Pricing(prompt=MILLION, currency="GBP"))

    async def run() -> None:
        async with running("abc", config=config) as server:
            usage = await usage_of(server, "chat", stream=False)
            assert (usage["cost"], usage["cost_currency"]) == (8, "GBP")
        async with running("abc", {"price_prompt": 2 * MILLION}, config=config) as server:
            usage = await usage_of(server, "chat", stream=False)
            assert (usage["cost"], usage["cost_currency"]) == (16, "USD")

    run_async(run())
