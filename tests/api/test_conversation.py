"""A conversation remembers what was said and shown, within its budget."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import Any

import pytest
from harness import (
    BYTES,
    Gate,
    Scripted,
    ids,
    run_async,
    scripted,
    started,
    texts,
    within,
)

from headrace import (
    AsyncTokenStream,
    Context,
    ContextOverflowError,
    ConversationManager,
    EngineClosedError,
    GenerationError,
    InvalidRequestError,
    QueueFullError,
    StreamConfig,
    StreamTimeoutError,
    TokenStream,
)

TEMPLATE = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}<assistant>"
REPLY = "abcdefghij" * 3


class Replies:
    """A script that gives one reply after another, the last one again and again, and keeps the prompts."""

    def __init__(self, *replies: str) -> None:
        self._replies = list(replies) or [REPLY]
        self.prompts: list[str] = []

    def __call__(self, prompt: tuple[int, ...]) -> Sequence[int]:
        self.prompts.append(b"".join(BYTES[token] for token in prompt).decode())
        return ids(self._replies[min(len(self.prompts), len(self._replies)) - 1])


@contextmanager
def talking(*replies: str, **settings: Any) -> Iterator[tuple[Scripted, Replies]]:
    """A model that replies, and what it is told."""
    script = Replies(*replies)
    with scripted(script, chat_template=TEMPLATE, **settings) as made:
        yield made, script


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


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


# Replies that are cut off. Each of these shows some tokens of a reply, and leaves it.


def by_break(stream: TokenStream, count: int) -> str:
    shown = ""
    for token in stream:
        shown += token.text
        if len(shown) == count:
            break
    return shown


def by_close(stream: TokenStream, count: int) -> str:
    shown = "".join(str(next(stream)) for _ in range(count))
    stream.close()
    return shown


def by_leaving_a_with(stream: TokenStream, count: int) -> str:
    with stream:
        return "".join(str(next(stream)) for _ in range(count))


def by_dropping(stream: TokenStream, count: int) -> str:
    return "".join(str(next(stream)) for _ in range(count))


def by_read(stream: TokenStream, count: int) -> str:
    shown = ""
    while len(shown) < count:
        shown += "".join(map(str, stream.read(count - len(shown))))
    return shown


def by_a_cycle(stream: TokenStream, count: int) -> str:
    stream.itself = stream  # pyright: ignore
    return by_dropping(stream, count)


def by_an_exception(stream: TokenStream, count: int) -> str:
    shown = ""

    def read() -> None:
        nonlocal shown
        for token in stream:
            shown += token.text
            if len(shown) == count:
                raise KeyError

    with pytest.raises(KeyError):
        read()
    return shown


def by_cancel(stream: TokenStream, count: int) -> str:
    """Whoever cancels may read on what is there already."""
    shown = "".join(str(next(stream)) for _ in range(count))
    stream.cancel()
    return shown + "".join(map(str, stream))


LEAVING = [by_break, by_close, by_leaving_a_with, by_dropping, by_read, by_a_cycle, by_an_exception, by_cancel]


@pytest.mark.parametrize("leave", LEAVING)
@pytest.mark.parametrize("count", [1, 5, len(REPLY) - 1])
def test_what_was_shown_is_what_is_remembered(leave: Callable[[TokenStream, int], str], count: int) -> None:
    gate = Gate()
    with talking(before_step=gate) as (made, script):
        conversation = ConversationManager(made.model)
        stream = conversation.send("one", buffer_size=1)
        reading = started(leave, stream, count)
        del stream
        gate.step(count)
        gate.open()
        shown = reading.result(30)
        del reading
        gc.collect()
        assert len(shown) >= count
        assert conversation.get_messages() == [user("one"), assistant(shown, incomplete=True)]
        texts(conversation.send("two"))
        assert script.prompts[1] == f"<user>one<assistant>{shown}<user>two<assistant>"
        assert conversation.get_messages()[2:] == [user("two"), assistant(REPLY)]


async def by_async_break(stream: AsyncTokenStream, count: int) -> str:
    shown = ""
    async for token in stream:
        shown += token.text
        if len(shown) == count:
            break
    return shown


async def by_aclose(stream: AsyncTokenStream, count: int) -> str:
    shown = "".join([str(await anext(stream)) for _ in range(count)])
    await stream.aclose()
    return shown


async def by_an_async_exception(stream: AsyncTokenStream, count: int) -> str:
    shown = ""
    with suppress(KeyError):
        async for token in stream:
            shown += token.text
            if len(shown) == count:
                raise KeyError
    return shown


async def by_a_cancelled_task(stream: AsyncTokenStream, count: int) -> str:
    shown, reached = "", asyncio.Event()

    async def read() -> None:
        nonlocal shown
        async for token in stream:
            shown += token.text
            if len(shown) == count:
                reached.set()
                await asyncio.Event().wait()

    task = asyncio.create_task(read())
    await reached.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return shown


ASYNC_LEAVING = [by_async_break, by_aclose, by_an_async_exception, by_a_cancelled_task]


@pytest.mark.parametrize("leave", ASYNC_LEAVING)
@pytest.mark.parametrize("count", [1, 5, len(REPLY) - 1])
def test_so_it_is_with_tasks(leave: Callable[[AsyncTokenStream, int], Awaitable[str]], count: int) -> None:
    async def main() -> None:
        assert await leave(conversation.asend("one", buffer_size=1), count) == REPLY[:count]
        gc.collect()
        assert conversation.get_messages() == [user("one"), assistant(REPLY[:count], incomplete=True)]
        assert (await conversation.asend("two").result()).text == REPLY

    with talking() as (made, script):
        conversation = ConversationManager(made.asynchronous)
        run_async(main())
        assert script.prompts[1] == f"<user>one<assistant>{REPLY[:count]}<user>two<assistant>"


def test_who_has_read_everything_has_the_whole_reply() -> None:
    with talking("abc") as (made, _):
        conversation = ConversationManager(made.model)
        with conversation.send("hi") as stream:
            within(stream.wait_end)
            assert [next(stream).text for _ in range(4)] == ["a", "b", "c", ""]
        assert conversation.get_messages()[1] == assistant("abc")
        with conversation.send("hi") as stream:
            within(stream.wait_end)
            assert [next(stream).text for _ in range(3)] == ["a", "b", "c"]  # that it ends here, he does not know
        assert conversation.get_messages()[3] == assistant("abc", incomplete=True)


def test_the_result_shows_everything() -> None:
    with talking() as (made, _):
        conversation = ConversationManager(made.model)
        stream = conversation.send("hi", buffer_size=2)
        next(stream)
        assert within(stream.result).text == REPLY
        assert conversation.get_messages()[1] == assistant(REPLY)
        assert len(list(stream)) == len(REPLY)  # what is read afterwards is not said twice
        assert conversation.get_messages()[1:] == [assistant(REPLY)]


def test_the_result_after_a_break_shows_no_more() -> None:
    with talking() as (made, _):
        conversation = ConversationManager(made.model)
        stream = conversation.send("hi", buffer_size=8)
        assert by_break(stream, 3) == REPLY[:3]
        assert len(within(stream.result).text) >= 3
        assert conversation.get_messages()[1] == assistant(REPLY[:3], incomplete=True)


def test_several_readers_see_what_the_first_of_them_sees() -> None:
    with talking() as (made, _):
        conversation = ConversationManager(made.model)
        first, second = conversation.send("hi", buffer_size=8).tee(2)
        assert by_close(second, 5) == REPLY[:5]
        assert conversation.get_messages()[1] == assistant(REPLY[:5], incomplete=True)  # so far
        assert by_close(first, 3) == REPLY[:3]
        del first, second
        texts(conversation.send("on"))
        assert conversation.get_messages()[1] == assistant(REPLY[:5], incomplete=True)
        readers = conversation.send("both").tee(2)
        within(readers[0].close)
        assert texts(readers[1]) == REPLY
        assert conversation.get_messages()[-1] == assistant(REPLY)


def test_a_character_in_halves_is_not_shown() -> None:
    with talking("äöü") as (made, _):
        conversation = ConversationManager(made.model)
        with conversation.send("hi") as stream:
            assert "".join(next(stream).text for _ in range(3)) == "ä"
        assert conversation.get_messages()[1] == assistant("ä", incomplete=True)


# Replies that fail.


@pytest.mark.parametrize("collect", [False, True])
def test_a_timeout_keeps_what_was_shown(collect: bool) -> None:
    with talking() as (made, script):
        conversation = ConversationManager(made.model)
        stream = conversation.send("one", buffer_size=4, stall_timeout_ms=1)
        within(stream.wait_end)
        with pytest.raises(StreamTimeoutError):
            within(stream.result) if collect else within(by_cancel, stream, 10_000)
        assert conversation.get_messages() == [user("one"), assistant(REPLY[:4], incomplete=True)]
        texts(conversation.send("two"))
        assert script.prompts[1] == f"<user>one<assistant>{REPLY[:4]}<user>two<assistant>"


@pytest.mark.parametrize("count", [0, 1, 7])
@pytest.mark.parametrize("collect", [False, True])
def test_a_failure_keeps_what_was_shown(count: int, collect: bool) -> None:
    num_samples = 0

    def fail(*_: object) -> None:
        nonlocal num_samples
        num_samples += 1
        if num_samples == count + 1:
            raise RuntimeError("out of order")

    with talking(on_sample=fail) as (made, script):
        conversation = ConversationManager(made.model)
        stream = conversation.send("one")
        with pytest.raises(GenerationError):
            within(stream.result) if collect else within(by_cancel, stream, 10_000)
        kept = [user("one"), assistant(REPLY[:count], incomplete=True)] if count else []
        assert conversation.get_messages() == kept
        assert texts(conversation.send("two")) == REPLY
        assert script.prompts[1] == conversation.build_prompt().removesuffix(f"{REPLY}<assistant>")


def test_nothing_shown_is_nothing_said() -> None:
    gate = Gate()
    with talking("ä", REPLY, before_step=gate) as (made, script):
        conversation = ConversationManager(made.model)
        stream = conversation.send("one")
        gate.wait()
        assert conversation.get_messages() == [user("one")]
        stream.cancel()
        gate.open()
        assert texts(stream) == ""  # half a character at most
        assert (conversation.get_messages(), stream.finish_reason) == ([], "cancelled")
        conversation.send("two").close()
        conversation.send("three")
        gc.collect()
        assert conversation.get_messages() == []
        texts(conversation.send("four"))
        assert script.prompts[-1] == "<user>four<assistant>"


def test_what_cannot_be_started_was_not_said() -> None:
    gate = Gate()
    with talking(before_step=gate, max_streams=1, max_queue=0) as (made, _):
        conversation = ConversationManager(made.model)
        with made.model.generate_stream("busy", buffer_size=1):
            gate.wait()
            with pytest.raises(QueueFullError):
                conversation.send("one")
            assert conversation.get_messages() == []

            async def main() -> None:
                with pytest.raises(QueueFullError):
                    async for _ in conversation.asend("one"):
                        pass

            run_async(main())
            assert conversation.get_messages() == []
        gate.open()
        assert texts(conversation.send("two")) == REPLY


def test_a_closed_model_ends_a_reply() -> None:
    with talking() as (made, _):
        conversation = ConversationManager(made.model)
        stream = conversation.send("hi", buffer_size=2)
        next(stream)
        made.is_consistent = False
        within(made.model.close)
        shown = REPLY[0] + texts(stream)
        assert conversation.get_messages()[1] == assistant(shown, incomplete=True)
        with pytest.raises(EngineClosedError):
            conversation.send("more")
        assert len(conversation.get_messages()) == 2


# One at a time.


def test_a_second_message_waits_for_the_first_reply() -> None:
    with talking() as (made, _):
        conversation = ConversationManager(made.model)
        stream = conversation.send("one", buffer_size=4)
        next(stream)
        for say in (
            conversation.send,
            conversation.asend,
            conversation.add_user_message,
            conversation.add_assistant_message,
        ):
            with pytest.raises(InvalidRequestError, match="is being read"):
                say("two")
        assert conversation.get_messages() == [user("one"), assistant(REPLY[0], incomplete=True)]
        assert conversation.get_stats()["total_messages"] == 2
        assert REPLY[0] + texts(stream) == REPLY
        texts(conversation.send("two"))
        assert conversation.get_messages() == [user("one"), assistant(REPLY), user("two"), assistant(REPLY)]


def test_a_cancelled_reply_makes_way() -> None:
    with talking() as (made, script):
        conversation = ConversationManager(made.model)
        stream = conversation.send("one", buffer_size=8)
        assert "".join(str(next(stream)) for _ in range(3)) == REPLY[:3]
        within(made.model.cancel_generation)
        assert texts(conversation.send("two")) == REPLY
        assert list(stream) == []  # it shows no more than is remembered
        assert script.prompts[1] == f"<user>one<assistant>{REPLY[:3]}<user>two<assistant>"


def test_a_forgotten_reply_stays_forgotten() -> None:
    with talking() as (made, script):
        conversation = ConversationManager(made.model, system_prompt="be")
        stream = conversation.send("one")
        next(stream)
        conversation.clear_history()
        assert conversation.get_messages() == []
        assert REPLY[0] + texts(stream) == REPLY
        assert conversation.get_messages() == []
        texts(conversation.send("two"))
        assert script.prompts[1] == "<system>be<user>two<assistant>"


def test_others_may_look_at_any_time() -> None:
    with talking("x" * 400) as (made, _):
        conversation = ConversationManager(made.model, max_context_tokens=4000)
        over = []

        def look() -> int:
            count = 0
            while not over:
                messages = conversation.get_messages()
                for number, message in enumerate(messages):
                    assert message["role"] == ("user", "assistant")[number % 2]
                assert set(messages[-1]["content"]) <= set("hix") if messages else True
                assert conversation.get_stats()["total_messages"] >= len(messages)
                assert ConversationManager.from_json(conversation.to_json()).to_json()
                count += 1
            return count

        lookers = [started(look) for _ in range(3)]
        for _ in range(4):
            texts(conversation.send("hi"))
        over.append(True)
        assert all(looker.result(30) for looker in lookers)
        assert len(conversation.get_messages()) == 8


def test_many_conversations_at_once() -> None:
    def talk(name: str) -> list[str]:
        conversation = ConversationManager(made.model, system_prompt=name)
        return [texts(conversation.send(f"{name}{number}")) for number in range(4)]

    with scripted(lambda prompt: prompt, chat_template=TEMPLATE, num_cells=20_000) as made:
        talks = {name: started(talk, name) for name in "abcdef"}
        for name, future in talks.items():
            prompt = f"<system>{name}"
            for number, reply in enumerate(future.result(30)):
                prompt += f"<user>{name}{number}<assistant>"
                assert reply == prompt
                prompt += reply


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
