"""`Budget`: which turns of a conversation are trimmed, and when."""

from __future__ import annotations

from itertools import pairwise

import pytest
from harness import run_async, texts, within

from api.conversations import assistant, talking, user
from headrace import (
    ContextOverflowError,
    ConversationManager,
)

# The budget.


def test_a_prompt_and_its_reply_fit_together() -> None:
    with talking("r" * 100, num_cells=2000) as (made, script):
        conversation = ConversationManager(made.model, max_context_tokens=200, system_prompt="be")
        trimmed = 0
        for number in range(12):
            result = within(conversation.send(f"question {number}", max_tokens=60).result)
            assert (result.text, result.finish_reason) == ("r" * 60, "length")
            assert result.usage.prompt_tokens == len(script.prompts[-1]) <= 140
            assert script.prompts[-1].startswith("<system>be<user>question ")
            assert script.prompts[-1].endswith(f"<user>question {number}<assistant>")
            messages = conversation.get_messages()
            trimmed = conversation.get_stats()["trimmed_messages"]
            assert trimmed + len(messages) == 2 * (number + 1)
            assert trimmed % 2 == 0
            assert messages[0]["role"] == "user"
        assert trimmed > 0


def test_a_reply_ends_where_the_budget_does() -> None:
    with talking("r" * 1000) as (made, _):
        conversation = ConversationManager(made.model, max_context_tokens=100)
        result = within(conversation.send("hi", max_tokens=5000).result)
        assert (result.finish_reason, result.usage.total_tokens) == ("length", 100)
        # Half of the budget is kept free, however long the reply may be.
        assert within(conversation.send("and?", max_tokens=5000).result).usage.total_tokens == 100
        assert len(conversation.get_messages()) == 2


def test_the_budget_is_never_more_than_the_context() -> None:
    with talking("r" * 1000, num_cells=120) as (made, _):
        conversation = ConversationManager(made.model)
        for _ in range(3):
            assert within(conversation.send("hi").result).usage.total_tokens == 120
        with pytest.raises(ContextOverflowError, match="larger n_ctx"):
            conversation.send("x" * 110)


@pytest.mark.parametrize("is_sync", [True, False])
def test_a_message_that_is_too_long_changes_nothing(is_sync: bool) -> None:
    async def send_async() -> None:
        await conversation.asend(text).result()

    def send() -> None:
        conversation.send(text)

    with talking("reply") as (made, _):
        conversation = ConversationManager(made.model, max_context_tokens=100, system_prompt="be")
        for number in range(2):
            texts(conversation.send(f"question {number}"))
        before, stats = conversation.get_messages(), conversation.get_stats()
        size = len("<system>be<user><assistant>")
        text = "x" * (100 - size)
        with pytest.raises(ContextOverflowError, match="max_context_tokens") as caught:
            within(send) if is_sync else run_async(send_async())
        assert (caught.value.prompt_tokens, caught.value.n_ctx) == (100, 99)
        assert (conversation.get_messages(), conversation.get_stats()) == (before, stats)
        text = text[:-1]  # now there is room for one token of a reply
        result = within(conversation.send(text).result)
        assert (result.text, result.finish_reason) == ("r", "length")
        assert conversation.get_messages() == [user(text), assistant("r")]
        assert conversation.get_stats()["trimmed_messages"] == 4


def test_a_text_of_megabytes_is_refused_at_once() -> None:
    with talking() as (made, _):
        conversation = ConversationManager(made.model, max_context_tokens=100)
        for say in (conversation.send, conversation.add_user_message):
            with pytest.raises(ContextOverflowError):
                within(say, "x" * 3_000_000)
        assert conversation.get_messages() == []


def test_trimming_goes_in_large_steps() -> None:
    """After each trimming all is read anew, so it must not happen at every turn."""
    with talking("r" * 10, num_cells=8000) as (made, script):
        conversation = ConversationManager(made.model, max_context_tokens=300, max_messages=1000)
        within(conversation.send("question 00").result)
        anew = [0]
        for number in range(1, 40):
            trimmed = conversation.get_stats()["trimmed_messages"]
            usage = within(conversation.send(f"question {number:02}", max_tokens=20).result).usage
            assert usage.total_tokens <= 300
            if conversation.get_stats()["trimmed_messages"] > trimmed:
                anew.append(number)
            else:
                assert usage.prompt_tokens - usage.cached_tokens == len(f"<user>question {number:02}<assistant>")
        assert len(anew) > 5
        assert all(later - sooner >= 3 for sooner, later in pairwise(anew))
        # Of the seven turns that fit, three went, and the newest came.
        assert min(prompt.count("<user>") for prompt in script.prompts[20:]) == 5


def test_the_number_of_messages_counts_the_reply_to_come() -> None:
    with talking("reply") as (made, _):
        conversation = ConversationManager(made.model, max_messages=6)
        for number in range(10):
            stream = conversation.send(str(number))
            assert len(conversation.get_messages()) <= 5
            texts(stream)
            assert len(conversation.get_messages()) <= 6
            assert conversation.get_messages()[-2:] == [user(str(number)), assistant("reply")]
            assert conversation.get_stats()["trimmed_messages"] == 2 * (number + 1) - len(conversation.get_messages())


def test_what_is_taken_back_has_trimmed_nothing() -> None:
    with talking("reply") as (made, _):
        conversation = ConversationManager(made.model, max_messages=4)
        for number in range(2):
            texts(conversation.send(str(number)))
        before, stats = conversation.get_messages(), conversation.get_stats()
        with made.hold():
            stream = conversation.send("more")
            assert conversation.get_stats()["trimmed_messages"] == 2
            stream.cancel()
            del stream
        assert (conversation.get_messages(), conversation.get_stats()) == (before, stats)
