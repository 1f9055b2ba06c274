"""Conversations with a real model: its template, its tokens, its cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from harness import run_async

from headrace import Context, ConversationManager, GenerationResult, Model, TokenStream

from .conftest import GREEDY
from .waits import until_idle

QUESTIONS = [
    "Name a fruit.",
    "Name another one.",
    "Which of the two is sweeter?",
    "Write 1234 and 🍏 in Greek.",
    "Why?",
]


@pytest.fixture(scope="module")
def own_model() -> Iterator[Model]:
    with Model.load("smollm2", n_ctx=4096, n_threads=1, config=GREEDY) as model:
        yield model


@pytest.fixture
def model(own_model: Model) -> Iterator[Model]:
    yield own_model
    until_idle(own_model)


def computed(result: GenerationResult) -> int:
    """How much of a prompt and its reply lies in the cache: all but the token that was sampled last."""
    return result.usage.prompt_tokens + result.usage.completion_tokens - 1


def sent(conversation: ConversationManager) -> list[dict[str, Any]]:
    """What the next prompt begins with."""
    system = conversation.system_prompt
    return [*([{"role": "system", "content": system}] if system else []), *conversation.get_messages()]


def prompt_of(stream: TokenStream) -> tuple[int, ...]:
    return stream._observer.prompt  # pyright: ignore


def test_the_budget_counts_as_the_model_does(model: Model) -> None:
    conversation = ConversationManager(model, system_prompt="Be brief.")
    assert conversation.estimate_token_count() == model.count_tokens("Be brief.")
    conversation.add_user_message("Name a fruit.")
    assert conversation.estimate_token_count() == model.count_tokens(sent(conversation))
    assert conversation.build_prompt() == model.apply_chat_template(sent(conversation))
    expected = model.count_tokens(sent(conversation))
    conversation.clear_history()
    assert conversation.send("Name a fruit.").result().usage.prompt_tokens == expected
    assert conversation.get_stats()["estimated_tokens"] == model.count_tokens(sent(conversation))


def test_all_of_the_history_is_cached(model: Model) -> None:
    conversation = ConversationManager(model, system_prompt="You answer questions about fruit.")
    known = 0
    for question in QUESTIONS:
        history = model.count_tokens(sent(conversation)) if conversation.get_messages() else 0
        result = conversation.send(question).result()
        assert result.usage.cached_tokens >= known
        # The prompt for the history ends as each prompt does, so this many tokens of it are in the next one.
        ending = model.count_tokens(sent(conversation)) - model.count_tokens(sent(conversation)[:-1])
        assert result.usage.cached_tokens >= history - ending or not history
        known = computed(result)


def test_the_history_is_cached_whatever_became_of_the_reply(model: Model) -> None:
    conversation = ConversationManager(model, system_prompt="You know everything about cancelling.")
    known = 0
    for number, question in enumerate(QUESTIONS):
        with conversation.send(question, max_tokens=100, ignore_eos=True, buffer_size=4) as stream:
            shown = [next(stream) for _ in range(5 + number)]
        assert stream.usage.cached_tokens >= known
        assert conversation.get_messages()[-1] == {
            "role": "assistant",
            "content": "".join(map(str, shown)),
            "incomplete": True,
        }
        assert "incomplete" not in conversation.build_prompt()
        known = stream.usage.prompt_tokens + len(shown) - 1


def test_two_conversations_side_by_side(model: Model) -> None:
    parties = [
        ConversationManager(face, system_prompt=f"You are the {name} of two.")
        for name, face in (("first", model), ("second", Context(model)))
    ]
    known = [0, 0]
    for question in QUESTIONS:
        streams = [conversation.send(question) for conversation in parties]
        results = [stream.result() for stream in streams]
        for number, result in enumerate(results):
            assert result.usage.cached_tokens >= known[number]
            known[number] = computed(result)
    for conversation, stream in zip(parties, streams, strict=True):
        assert model.detokenize(prompt_of(stream)).count("Name a fruit.") == 1
        assert conversation.get_messages()[0::2] == [{"role": "user", "content": question} for question in QUESTIONS]


def test_a_reply_comes_back_in_its_own_tokens(model: Model) -> None:
    """What a model writes letter by letter, the tokenizer would read in longer tokens."""
    letters = {model.tokenize(letter)[-1]: 100.0 for letter in "theinorsa "}
    conversation = ConversationManager(model, system_prompt="You spell.")
    known = 0
    for question in QUESTIONS[:3]:
        stream = conversation.send(question, logit_bias=letters, temperature=1.0, ignore_eos=True)
        result = stream.result()
        assert result.usage.cached_tokens >= known
        assert known or result.usage.prompt_tokens == model.count_tokens(sent(conversation)[:-1])
        assert not known or result.usage.prompt_tokens > model.count_tokens(sent(conversation)[:-1])
        said = model._core.vocabulary.detokenize(prompt_of(stream), special=True).decode()
        assert said == model.apply_chat_template(sent(conversation)[:-1])
        known = computed(result)


def test_trimming_keeps_the_budget_and_most_of_the_cache(model: Model) -> None:
    conversation = ConversationManager(model, max_context_tokens=150, system_prompt="Count.")
    known = num_anew = 0
    for number in range(8):
        trimmed = conversation.get_stats()["trimmed_messages"]
        result = conversation.send(f"What comes after {number}, and why?", max_tokens=8, ignore_eos=True).result()
        assert result.usage.total_tokens <= 150
        assert result.finish_reason == "length"
        assert conversation.build_prompt().count("Count.") == 1
        assert conversation.get_messages()[-2]["content"].startswith(f"What comes after {number},")
        if conversation.get_stats()["trimmed_messages"] == trimmed:
            assert result.usage.cached_tokens >= known
        else:
            num_anew += 1
        known = computed(result)
    assert 1 <= num_anew <= 3


def test_with_tasks(model: Model) -> None:
    async def main() -> None:
        conversation = ConversationManager(model.as_async(), system_prompt="You are patient.")
        known = 0
        for question in QUESTIONS[:3]:
            stream = conversation.asend(question)
            text = "".join([token.text async for token in stream])
            result = await stream.result()
            assert conversation.get_messages()[-1] == {"role": "assistant", "content": text}
            assert result.usage.cached_tokens >= known
            known = computed(result)

    run_async(main())
