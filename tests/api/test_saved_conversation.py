"""Conversations as JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from harness import texts, within

from api.conversations import REPLY, assistant, by_break, talking, user
from headrace import (
    ConversationManager,
    InvalidRequestError,
)

# JSON.


def test_a_conversation_can_be_kept() -> None:
    with talking("<think>hm</think>ön", REPLY) as (made, script):
        conversation = ConversationManager(made.model, max_messages=6, max_context_tokens=500, system_prompt="be")
        texts(conversation.send("first"))
        for _ in range(2):
            within(conversation.send("one", thinking_tags=("<think>", "</think>")).result)
        by_break(conversation.send("two"), 4)
        text = conversation.to_json()
        again = ConversationManager.from_json(text, made.model)
        assert again.to_json() == text
        assert again.get_messages() == conversation.get_messages()
        assert again.get_stats() == conversation.get_stats()
        assert again.get_stats()["trimmed_messages"] > 0
        texts(again.send("three"))
        texts(conversation.send("three"))
        assert script.prompts[-1] == script.prompts[-2]
        assert ConversationManager.from_json(text).system_prompt == "be"


def test_a_reply_that_is_being_read_is_kept_as_far_as_it_was_shown() -> None:
    with talking() as (made, _):
        conversation = ConversationManager(made.model)
        stream = conversation.send("one")
        assert json.loads(conversation.to_json())["messages"] == []  # or two messages of the user would follow
        next(stream)
        kept = ConversationManager.from_json(conversation.to_json())
        assert kept.get_messages() == [user("one"), assistant(REPLY[0], incomplete=True)]
        texts(stream)
        assert json.loads(conversation.to_json())["messages"] == [user("one"), assistant(REPLY)]


GOOD = ConversationManager(system_prompt="be").to_json()


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("version", {"version": 2}),
        ("version", {"version": None}),
        ("text.more", {"more": 1}),
        ("max_messages", {"max_messages": 0}),
        ("max_context_tokens", {"max_context_tokens": "many"}),
        ("system_prompt", {"system_prompt": ""}),
        ("trimmed_messages", {"trimmed_messages": -1}),
        ("messages", {"messages": {}}),
        ("messages[0]", {"messages": ["hi"]}),
        ("messages[0]", {"messages": [{"role": "user"}]}),
        ("messages[0].role", {"messages": [{"role": "system", "content": "hi"}]}),
        ("messages[0].role", {"messages": [{"role": ["user"], "content": "hi"}]}),
        ("messages[0].content", {"messages": [user("")]}),
        ("messages[0].content", {"messages": [assistant("\0")]}),
        ("messages[0].content", {"messages": [{"role": "assistant", "content": None}]}),
        ("messages[0].thinking", {"messages": [{**user("hi"), "thinking": "hm"}]}),
        ("messages[1].thinking", {"messages": [user("hi"), assistant("", thinking=3)]}),
        ("messages[0].incomplete", {"messages": [assistant("", incomplete=False)]}),
        ("messages[0].name", {"messages": [{**user("hi"), "name": "me"}]}),
        ("messages[0].tool_calls", {"messages": [assistant("", tool_calls={})]}),
        ("messages[0].tool_calls[0]", {"messages": [assistant("", tool_calls=[{"id": "1"}])]}),
        (
            "messages[0].tool_calls[0].function.arguments",
            {
                "messages": [
                    assistant(
                        "", tool_calls=[{"id": "1", "type": "function", "function": {"name": "f", "arguments": {}}}]
                    )
                ]
            },
        ),
    ],
)
def test_what_is_wrong_is_named(field: str, change: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        ConversationManager.from_json(json.dumps({**json.loads(GOOD), **change}))
    assert caught.value.field == field


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", "[" * 100_000, None, 7])
def test_what_is_no_conversation_is_refused(text: Any) -> None:
    with pytest.raises(InvalidRequestError, match="text"):
        ConversationManager.from_json(text)
