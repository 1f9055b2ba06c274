"""What a conversation remembers of a reply that is cut off, fails, or is still being read."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from harness import Gate, run_async, scripted, started, texts, within

from api.conversations import REPLY, TEMPLATE, assistant, by_break, talking, user
from headrace import (
    AsyncTokenStream,
    ConversationManager,
    EngineClosedError,
    GenerationError,
    InvalidRequestError,
    QueueFullError,
    StreamTimeoutError,
    TokenStream,
)


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
