"""The prefix cache saves computing and changes nothing."""

from __future__ import annotations

from headrace import Model

from .ties import assert_greedy, read
from .waits import prompt_of


def prefilled(model: Model) -> int:
    model.check_integrity()  # waits until the last step is accounted for
    return model.metrics.prefill_tokens


def test_the_cache_gives_the_same_text(model: Model) -> None:
    prompt = prompt_of(model, 60, "Zweimal dasselbe:")
    first, cold = read(model.generate_stream(prompt, max_tokens=20))
    second, warm = read(model.generate_stream(prompt, max_tokens=20))
    assert cold.usage.cached_tokens == 0
    assert warm.usage.cached_tokens == len(prompt) - 1  # the last one gives the logits
    assert warm.usage.prompt_tokens == len(prompt)
    assert_greedy(model, prompt, [token.id for token in first])
    assert_greedy(model, prompt, [token.id for token in second])


def test_a_longer_prompt_takes_what_is_there(model: Model) -> None:
    prompt = prompt_of(model, 50, "Anfang:")
    tokens, _ = read(model.generate_stream(prompt, max_tokens=4, ignore_eos=True))
    ids = [token.id for token in tokens]
    longer = [*prompt, *ids[:3], *model.tokenize(" and that is why I think")]
    before = prefilled(model)
    more, result = read(model.generate_stream(longer, max_tokens=12))
    # Of what was generated the KV is there as well, but for the last token's.
    assert result.usage.cached_tokens == len(prompt) + 3
    assert prefilled(model) - before == len(longer) - result.usage.cached_tokens
    assert_greedy(model, longer, [token.id for token in more])


def test_a_prompt_that_parts_from_another_takes_the_common_beginning(model: Model) -> None:
    prompt = prompt_of(model, 40, "Gabelung:")
    other = [*prompt[:25], *model.tokenize("Now for something completely different:")]
    assert prompt[25] != other[25]
    model.generate(prompt, max_tokens=2)
    tokens, result = read(model.generate_stream(other, max_tokens=12))
    assert result.usage.cached_tokens == 25
    assert_greedy(model, other, [token.id for token in tokens])


def test_prompts_that_arrive_together_compute_their_prefix_once(model: Model) -> None:
    prefix = prompt_of(model, 120, "Freunde:")
    prompts = [[*prefix, *model.tokenize(f" Friend {number} says")] for number in range(4)]
    before = prefilled(model)
    streams = [model.generate_stream(prompt, max_tokens=6) for prompt in prompts]
    generated = [read(stream) for stream in streams]
    computed = prefilled(model) - before
    assert computed <= len(prefix) + sum(len(prompt) - len(prefix) + 2 for prompt in prompts)
    assert [result.usage.cached_tokens >= len(prefix) for _, result in generated] == [False, True, True, True]
    for prompt, (tokens, _) in zip(prompts, generated, strict=True):
        assert_greedy(model, prompt, [token.id for token in tokens])


def test_the_second_turn_of_a_chat_has_its_history_cached(model: Model) -> None:
    messages = [{"role": "user", "content": "Name a fruit."}]
    first = model.chat(messages, max_tokens=24)
    assert first.usage.prompt_tokens == model.count_tokens(messages)
    history = first.usage.prompt_tokens
    messages += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "Name another one."}]
    second = model.chat(messages, max_tokens=24)
    assert second.usage.prompt_tokens == model.count_tokens(messages)
    # Everything up to the answer at least; the answer's own text may be split into other tokens when it is read back.
    assert second.usage.cached_tokens >= history


def test_a_cancelled_turn_leaves_a_valid_prefix(model: Model) -> None:
    prompt = prompt_of(model, 40, "Kurz:")
    with model.generate_stream(prompt, max_tokens=200, ignore_eos=True) as stream:
        ids = [next(stream).id for _ in range(5)]
    assert stream.result().finish_reason == "cancelled"
    again = [*prompt, *ids]
    tokens, result = read(model.generate_stream(again, max_tokens=12, ignore_eos=True))
    assert result.usage.cached_tokens == len(again) - 1
    assert_greedy(model, again, [token.id for token in tokens], ignore_eos=True)
