"""`ConversationManager`: the history, replies, thinking and tool calls."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from harness import BYTES, ids, run_async, scripted, texts, within

from api.conversations import REPLY, TEMPLATE, assistant, by_break, talking, user
from headrace import (
    Context,
    ContextOverflowError,
    ConversationManager,
    InvalidRequestError,
    StreamConfig,
)


def rounds(conversation: ConversationManager, *numbers: int) -> None:
    """Add whole turns by hand."""
    for number in numbers:
        conversation.add_user_message(f"question {number}")
        conversation.add_assistant_message(f"answer {number}")


# Without a model.


def test_a_history_by_hand() -> None:
    conversation = ConversationManager(system_prompt="be brief")
    assert conversation.get_messages() == []
    rounds(conversation, 1)
    conversation.add_user_message("and?")
    assert conversation.get_messages() == [user("question 1"), assistant("answer 1"), user("and?")]
    assert conversation.build_prompt() == (
        "System: be brief\n\nUser: question 1\n\nAssistant: answer 1\n\nUser: and?\n\nAssistant:"
    )
    assert conversation.get_stats() == {
        "total_messages": 3,
        "user_messages": 2,
        "assistant_messages": 1,
        "estimated_tokens": 20,
        "has_system_prompt": True,
        "trimmed_messages": 0,
    }
    assert conversation.estimate_token_count() == 20 == -(-len(conversation.build_prompt()) // 4)


def test_messages_are_copies() -> None:
    conversation = ConversationManager()
    conversation.add_user_message("hi")
    conversation.get_messages()[0]["content"] = "something else"
    conversation.get_messages().clear()
    assert conversation.get_messages() == [user("hi")]


def test_clearing_keeps_the_system_prompt_and_reset_does_not() -> None:
    conversation = ConversationManager(max_messages=2, system_prompt="be brief")
    rounds(conversation, 1, 2)
    conversation.clear_history()
    assert conversation.get_messages() == []
    assert conversation.get_stats()["trimmed_messages"] == 0
    assert (conversation.system_prompt, conversation.build_prompt()) == ("be brief", "System: be brief\n\nAssistant:")
    conversation.add_user_message("hi")
    conversation.reset()
    assert (conversation.get_messages(), conversation.system_prompt) == ([], None)
    assert (conversation.build_prompt(), conversation.estimate_token_count()) == ("", 0)
    assert not conversation.get_stats()["has_system_prompt"]


def test_too_many_messages_cost_the_oldest_turns() -> None:
    conversation = ConversationManager(max_messages=4, system_prompt="be brief")
    rounds(conversation, 1, 2)
    assert conversation.get_stats()["trimmed_messages"] == 0
    conversation.add_user_message("question 3")
    assert conversation.get_messages() == [user("question 2"), assistant("answer 2"), user("question 3")]
    assert conversation.get_stats()["trimmed_messages"] == 2
    conversation.add_assistant_message("answer 3")
    rounds(conversation, 4, 5)
    assert [message["content"][-1] for message in conversation.get_messages()] == ["4", "4", "5", "5"]
    assert conversation.get_stats()["trimmed_messages"] == 6
    assert conversation.build_prompt().startswith("System: be brief")


def test_a_turn_goes_whole_however_many_messages_answer_it() -> None:
    conversation = ConversationManager(max_messages=5)
    conversation.add_assistant_message("welcome")
    conversation.add_user_message("question 1")
    for number in range(3):
        conversation.add_assistant_message(f"part {number}")
    assert len(conversation.get_messages()) == 5
    conversation.add_assistant_message("part 3")  # the greeting goes first
    assert conversation.get_messages()[0] == user("question 1")
    conversation.add_assistant_message("part 4")  # the newest message of the user stays, whatever answers it
    assert conversation.get_messages()[0] == user("question 1")
    conversation.add_user_message("question 2")
    assert conversation.get_messages() == [user("question 2")]
    assert conversation.get_stats()["trimmed_messages"] == 7


def test_without_a_model_a_quarter_of_the_characters_is_the_budget() -> None:
    conversation = ConversationManager(max_context_tokens=60, system_prompt="s" * 40)
    rounds(conversation, 1, 2, 3)
    assert conversation.estimate_token_count() <= 60
    assert conversation.get_messages()[-1] == assistant("answer 3")
    trimmed = conversation.get_stats()["trimmed_messages"]
    assert trimmed == 6 - len(conversation.get_messages()) > 0
    before = conversation.get_messages()
    with pytest.raises(ContextOverflowError, match="max_context_tokens"):
        conversation.add_user_message("x" * 200)
    assert (conversation.get_messages(), conversation.get_stats()["trimmed_messages"]) == (before, trimmed)


def test_without_a_model_nothing_can_be_sent() -> None:
    for send in (ConversationManager().send, ConversationManager().asend):
        with pytest.raises(InvalidRequestError, match=r"^model is None; allowed: a Model"):
            send("hi")


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("model", {"model": "smollm2"}),
        ("max_messages", {"max_messages": 1}),
        ("max_messages", {"max_messages": "20"}),
        ("max_context_tokens", {"max_context_tokens": 1}),
        ("max_context_tokens", {"max_context_tokens": 2.5}),
        ("system_prompt", {"system_prompt": " "}),
        ("system_prompt", {"system_prompt": 7}),
    ],
)
def test_settings_are_checked(field: str, settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        ConversationManager(**settings)
    assert caught.value.field == field


@pytest.mark.parametrize("content", ["", " \n", "a\0b", "\ud800", None, b"hi", ["hi"]])
def test_what_the_user_says_is_checked(content: Any) -> None:
    with talking() as (made, _):
        conversation = ConversationManager(made.model)
        for say in (conversation.add_user_message, conversation.send, conversation.asend):
            with pytest.raises(InvalidRequestError):
                say(content)
        assert conversation.get_messages() == []


@pytest.mark.parametrize("content", ["a\0b", "\ud800", None, b"hi"])
def test_what_is_answered_is_checked(content: Any) -> None:
    conversation = ConversationManager()
    with pytest.raises(InvalidRequestError):
        conversation.add_assistant_message(content)
    conversation.add_assistant_message("")  # as models do
    assert conversation.get_messages() == [assistant("")]


# Replies.


def test_the_history_is_sent_and_the_reply_remembered() -> None:
    with talking("first", "second") as (made, script):
        conversation = ConversationManager(made.model, system_prompt="be")
        assert texts(conversation.send("one")) == "first"
        assert within(conversation.send("two").result).text == "second"
        assert script.prompts == [
            "<system>be<user>one<assistant>",
            "<system>be<user>one<assistant>first<user>two<assistant>",
        ]
        assert conversation.get_messages() == [user("one"), assistant("first"), user("two"), assistant("second")]
        assert conversation.build_prompt() == script.prompts[1].replace(
            "two<assistant>", "two<assistant>second<assistant>"
        )
        assert conversation.estimate_token_count() == len(conversation.build_prompt())


def test_a_system_prompt_for_one_reply() -> None:
    with talking() as (made, script):
        conversation = ConversationManager(made.model, system_prompt="be")
        texts(conversation.send("one", system_prompt="do"))
        texts(conversation.send("two", system_prompt=None))
        assert [prompt[:12] for prompt in script.prompts] == ["<system>do<u", "<user>one<as"]
        assert conversation.system_prompt == "be"


def test_any_face_of_a_model_will_do() -> None:
    async def talk(conversation: ConversationManager) -> None:
        async for _ in conversation.asend("two"):
            pass
        assert (await conversation.asend("three").result()).text == REPLY

    with talking() as (made, script):
        with Context(made.model, system_prompt="of the context") as context:
            faces: list[Any] = [made.model, made.asynchronous, context, Context(made.asynchronous, max_tokens=1000)]
            for face in faces:
                conversation = ConversationManager(face)
                assert texts(conversation.send("one")) == REPLY
                run_async(talk(conversation))
                assert [message["content"] for message in conversation.get_messages()[::2]] == ["one", "two", "three"]
                assert conversation.get_messages()[1::2] == [assistant(REPLY)] * 3
        assert script.prompts[6].startswith("<system>of the context<user>one")


def test_settings_go_with_what_is_said() -> None:
    with talking() as (made, _):
        conversation = ConversationManager(made.model)
        result = within(conversation.send("hi", StreamConfig(max_tokens=20, timeout_ms=0), max_tokens=7).result)
        assert (result.text, result.finish_reason) == (REPLY[:7], "length")
        assert conversation.get_messages()[1] == assistant(REPLY[:7])  # it ended by itself: nothing is missing
        with pytest.raises(TypeError):
            conversation.send("hi", no_such_setting=1)
        with pytest.raises(InvalidRequestError, match="temperature"):
            conversation.asend("hi", temperature=-1)
        assert len(conversation.get_messages()) == 2


def test_an_empty_reply_is_one() -> None:
    with talking("") as (made, script):
        conversation = ConversationManager(made.model)
        texts(conversation.send("hi"))
        texts(conversation.send("hi?"))
        assert conversation.get_messages()[:2] == [user("hi"), assistant("")]
        assert script.prompts[1] == "<user>hi<assistant><user>hi?<assistant>"


# The tokens of the history.


def test_a_reply_is_sent_back_in_the_tokens_it_was_written_in() -> None:
    """The tokenizer would write "ab" as one token; the model has written two."""
    pieces = {**BYTES, 300: b"ab", 301: b"cab"}
    written = [*ids("c"), *ids("a"), *ids("b"), 300, *ids("!")]
    with scripted(written, pieces=pieces, chat_template=TEMPLATE) as made:
        assert made.model.tokenize("cabab!") != written
        for number, leave in enumerate((texts, lambda stream: within(stream.result).text)):
            conversation = ConversationManager(made.model, system_prompt=f"by {number}")
            known = 0
            for turn in range(4):
                stream = conversation.send(f"turn {turn}")
                assert leave(stream) == "cabab!"
                assert stream.usage.cached_tokens == known or not turn
                known = stream.usage.prompt_tokens + len(written)  # all but the end has been computed


def test_two_conversations_share_nothing_but_the_model() -> None:
    with scripted(echoing, chat_template=TEMPLATE, num_cells=20_000) as made:
        one, two = (ConversationManager(made.model, system_prompt=name) for name in ("one", "two"))
        known = {one: 0, two: 0}
        for turn in range(4):
            streams = {conversation: conversation.send(f"turn {turn}") for conversation in (one, two)}
            for conversation, stream in streams.items():
                usage = within(stream.result).usage
                assert usage.cached_tokens >= known[conversation]
                known[conversation] = usage.prompt_tokens + usage.completion_tokens - 1
        assert one.get_messages()[0::2] == two.get_messages()[0::2]
        assert one.get_messages()[1]["content"] == "(<system>one<user>turn 0<assistant>)"
        assert two.get_messages()[1]["content"] == "(<system>two<user>turn 0<assistant>)"


def echoing(prompt: tuple[int, ...]) -> Sequence[int]:
    return [*ids("("), *prompt[-60:], *ids(")")]


# Thoughts and tools.


def test_a_thought_is_kept_and_not_sent_back() -> None:
    with talking("<think>let me see</think>An answer.") as (made, script):
        conversation = ConversationManager(made.model)
        tags = {"thinking_tags": ("<think>", "</think>")}
        result = within(conversation.send("one", **tags).result)
        assert (result.text, result.thinking) == ("An answer.", "let me see")
        assert conversation.get_messages()[1] == assistant("An answer.", thinking="let me see")
        by_break(conversation.send("two", **tags), 3)
        assert (
            conversation.get_messages()[3]["thinking"]
            == "let me see"[: len(conversation.get_messages()[3]["thinking"])]
        )
        assert conversation.get_messages()[3]["incomplete"]
        assert script.prompts[1] == "<user>one<assistant>An answer.<user>two<assistant>"
        within(conversation.send("three", thinking="hide", **tags).result)
        assert conversation.get_messages()[5] == assistant("An answer.")


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a place.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    },
}


CALL = '<tool_call>\n{"name": "weather", "arguments": {"place": "Ulm"}}\n</tool_call>'


def test_a_tool_call_is_remembered() -> None:
    with talking(CALL, "It rains.") as (made, script):
        conversation = ConversationManager(made.model)
        result = within(conversation.send("one", tools=[WEATHER]).result)
        assert result.finish_reason == "tool_calls"
        (call,) = result.tool_calls
        function = {"name": "weather", "arguments": call.arguments}
        assert json.loads(call.arguments) == {"place": "Ulm"}
        expected = assistant("", tool_calls=[{"id": call.id, "type": "function", "function": function}])
        assert conversation.get_messages()[1] == expected
        texts(conversation.send("two"))
        assert '"name": "weather"' in script.prompts[1]
        assert ConversationManager.from_json(conversation.to_json()).get_messages() == conversation.get_messages()


@pytest.mark.parametrize("count", range(1, len(CALL)))
def test_a_call_that_was_cut_off_is_not_sent_back(count: int) -> None:
    with talking(CALL, "It rains.") as (made, script):
        conversation = ConversationManager(made.model)
        with conversation.send("one", tools=[WEATHER]) as stream:
            for _ in range(count):
                next(stream)
        messages = conversation.get_messages()
        if messages:
            assert messages[1]["incomplete"] is True
            assert all(call["incomplete"] for call in messages[1]["tool_calls"])
        texts(conversation.send("two"))
        assert "weather" not in script.prompts[1]
        assert ConversationManager.from_json(conversation.to_json()).get_messages() == conversation.get_messages()
