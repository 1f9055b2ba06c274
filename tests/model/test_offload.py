"""KV of real models that was offloaded: what goes on with it goes on as if it had never left."""

from __future__ import annotations

import threading

import pytest
from cases import sampled
from harness import wait_until

from headrace import Model

from .conftest import GREEDY
from .ties import assert_greedy, read
from .waits import prompt_of, until_idle


@pytest.mark.parametrize("ref", sampled(["gemma3-270m", "smollm2"], 2))
def test_a_text_that_others_have_driven_out_goes_on(ref: str) -> None:
    with Model.load(ref, n_ctx=2048, n_threads=1, max_streams=4, config=GREEDY) as model:
        prompts = [prompt_of(model, 200 + number, f"Nummer {number}:") for number in range(5)]
        texts = [
            (prompt, [token.id for token in model.generate_stream(prompt, max_tokens=12, ignore_eos=True)])
            for prompt in prompts
        ]
        metrics = model.metrics
        assert metrics.kv_used + metrics.kv_cached < 5 * 200, "most of it is offloaded"
        model.check_integrity()
        generated = list[tuple[list[int], list[int]]]()

        def go_on(prompt: list[int], ids: list[int]) -> None:
            more = [*prompt, *ids]
            tokens, result = read(model.generate_stream(more, max_tokens=16, ignore_eos=True))
            assert result.usage.cached_tokens == len(more) - 1
            generated.append((more, [token.id for token in tokens]))

        threads = [threading.Thread(target=go_on, args=text) for text in texts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(generated) == 5
        until_idle(model)
        model.check_integrity()
        for more, ids in generated:
            model._core.engine.clear_cache()
            assert_greedy(model, more, ids, ignore_eos=True)


def test_a_text_longer_than_the_window_goes_on() -> None:
    """What a model with sliding windows has left behind cannot be offloaded; it stays, or is computed again."""
    with Model.load("gemma3-270m", n_ctx=2048, n_threads=1, max_streams=4, config=GREEDY) as model:
        long = prompt_of(model, 900, "Es war einmal:")
        ids = [token.id for token in model.generate_stream(long, max_tokens=8, ignore_eos=True)]
        for number in range(4):
            model.generate(prompt_of(model, 400, f"Nummer {number}:"), max_tokens=4, ignore_eos=True)
        more = [*long, *ids]
        tokens, _ = read(model.generate_stream(more, max_tokens=12, ignore_eos=True))
        until_idle(model)
        model.check_integrity()
        model._core.engine.clear_cache()
        assert_greedy(model, more, [token.id for token in tokens], ignore_eos=True)


@pytest.mark.parametrize("number", sampled(range(3), 3))
def test_a_seed_brings_the_same_after_others_have_read_the_prompt(number: int) -> None:
    """What others compute is computed in other pieces, whose last bits differ."""
    with Model.load("smollm2", n_ctx=2048, n_threads=1) as model:
        prompt = model.tokenize(f"Tale {number}. " + f"Once upon a time there was a king {number}. " * 25)

        def seeded() -> list[tuple[int, float | None]]:
            stream = model.generate_stream(
                prompt, seed=number, temperature=1.1, max_tokens=12, ignore_eos=True, logprobs=1
            )
            return [(token.id, token.logprob) for token in stream]

        model._core.engine.clear_cache()
        expected = seeded()
        assert seeded() == expected
        model._core.engine.clear_cache()
        model.generate("Something else. " * 20, max_tokens=3)
        wait_until(lambda: not model._core.engine._scheduler.kv.can_copy_ahead)
        model.generate(prompt, temperature=0, max_tokens=1)
        assert seeded() == expected
