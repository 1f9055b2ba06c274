"""Corners in which a stream, or the whole engine, once was lost."""

from __future__ import annotations

import asyncio
import signal
from threading import Semaphore
from types import FrameType

import pytest
from harness import PATIENCE, Gate, ids, run_async, scripted, started, wait_until, within

from headrace import Context, QueueFullError
from headrace.engine.kv.cache import KVCache
from headrace.engine.scripted import ScriptedRunner

TEMPLATE = "{% for message in messages %}{{ message.role }}{{ message.content }}{% endfor %}"
LONG = "abcdefghij" * 50


def test_the_longest_deadline_harms_nobody() -> None:
    with scripted("hello") as made:
        paused = made.model.generate_stream("b", buffer_size=1)
        for field in ("timeout_ms", "queue_timeout_ms", "first_token_timeout_ms", "stall_timeout_ms"):
            assert made.model.generate("a", **{field: 1e11}).text == "hello"  # type: ignore[arg-type]
        made.settle()  # it has slept with that deadline ahead
        assert within(paused.result).text == "hello"


def test_result_with_an_endless_timeout() -> None:
    with scripted("hello") as made:
        for timeout in (float("inf"), 1e12):
            assert within(made.model.generate_stream("a").result, timeout).text == "hello"


def test_result_does_not_wait_for_a_reader_who_waits_for_it() -> None:
    """The loop's own body asks on another thread: nothing is read until that has its answer."""
    with scripted(LONG) as made:
        stream = made.model.generate_stream("a", buffer_size=1)
        iterator = iter(stream)
        next(iterator)
        assert within(stream.result).text == LONG
        assert "".join(token.text for token in iterator) == LONG[1:]


def test_the_same_in_tasks() -> None:
    async def main() -> None:
        text = ""
        async for token in stream:
            text += token.text
            if token.index == 1:
                result = await asyncio.wait_for(stream.result(), PATIENCE)
                (again,) = await asyncio.gather(stream.result())
                assert result.text == again.text == LONG
        assert text == LONG

    with scripted(LONG) as made:
        stream = made.asynchronous.generate_stream("a", buffer_size=1)
        run_async(main())


def test_cancel_generation_from_a_signal_handler() -> None:
    """The handler interrupts the very call that it makes."""
    calls = 0

    def handler(_number: int, _frame: FrameType | None) -> None:
        nonlocal calls
        calls += 1
        made.model.cancel_generation()

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with scripted(LONG, max_queue=200) as made:
            streams = [made.model.generate_stream("a", buffer_size=1) for _ in range(100)]
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
            while calls < 20:
                made.model.cancel_generation()
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert {within(stream.result).finish_reason for stream in streams} == {"cancelled"}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_what_the_caller_does_to_his_lists_afterwards_changes_nothing() -> None:
    async def main() -> None:
        busy = [made.core.workers.submit(release.acquire) for _ in range(2)]  # nobody makes a prompt yet
        prompt = ids("abc")
        messages = [{"role": "user", "content": "a"}]
        streams = model.generate_stream(prompt), model.chat_stream(messages)
        prompt.clear()
        messages.append({"role": "assistant", "content": "zzzz"})
        for _ in busy:
            release.release()
        for stream, length in zip(streams, (3, len("usera")), strict=True):
            await stream.result()
            assert stream.usage.prompt_tokens == length

    release = Semaphore(0)
    with scripted("x", chat_template=TEMPLATE) as made:
        model = made.asynchronous
        run_async(main())


def test_an_async_stream_that_is_cancelled_before_it_has_a_prompt_ends_at_once() -> None:
    async def main() -> None:
        busy = [made.core.workers.submit(release.acquire) for _ in range(2)]
        stream = model.generate_stream("a" * 5000)  # longer than the context, but nobody will find out
        stream.cancel()
        result = await stream.result()
        assert (result.finish_reason, result.text) == ("cancelled", "")
        assert stream.metrics == result.metrics
        for _ in busy:
            release.release()

    release = Semaphore(0)
    with scripted("x") as made:
        model = made.asynchronous
        run_async(main())


def test_a_refused_stream_that_was_cancelled_does_not_raise() -> None:
    async def main() -> None:
        busy = [made.core.workers.submit(release.acquire) for _ in range(2)]
        stream = model.generate_stream("b")
        other = model.generate_stream("c")
        stream.cancel()
        for _ in busy:
            release.release()
        assert (await stream.result()).finish_reason == "cancelled"
        with pytest.raises(QueueFullError):
            await other.result()

    gate, release = Gate(), Semaphore(0)
    with scripted("x", before_step=gate, max_streams=1, max_queue=0) as made:
        model = made.asynchronous
        running = made.model.generate_stream("a")
        gate.wait()
        run_async(main())
        gate.open()
        assert within(running.result).text == "x"


def test_close_ends_streams_whose_prompts_are_still_being_made() -> None:
    async def main() -> None:
        busy = [made.core.workers.submit(release.acquire) for _ in range(2)]
        streams = [model.generate_stream("a") for _ in range(4)]
        closing = asyncio.ensure_future(model.close())
        await asyncio.to_thread(wait_until, lambda: made.engine.is_closed)
        for _ in busy:
            release.release()
        await closing
        assert [(await stream.result()).finish_reason for stream in streams] == ["cancelled"] * 4

    release = Semaphore(0)
    with scripted("x") as made:
        model = made.asynchronous
        run_async(main())


def test_a_stream_that_is_leaving_keeps_nobody_out() -> None:
    gate = Gate()
    with scripted("xyz", before_step=gate, max_streams=1, max_queue=0) as made:
        first = made.model.generate_stream("a")
        gate.wait()
        with pytest.raises(QueueFullError):
            made.model.generate_stream("b")
        first.cancel()
        second = made.model.generate_stream("b")  # it waits for the step that is running, and for no more
        gate.open()
        assert within(second.result).text == "xyz"
        assert within(first.result).finish_reason == "cancelled"


def test_a_context_counts_its_own_system_prompt() -> None:
    with scripted("x", chat_template=TEMPLATE) as made:
        messages = [{"role": "user", "content": "a"}]
        context = Context(made.model, system_prompt="sys")
        assert context.apply_chat_template(messages) == "systemsysusera"
        assert context.count_tokens(messages) == context.chat(messages).usage.prompt_tokens == len("systemsysusera")
        assert context.chat(messages, system_prompt=None).usage.prompt_tokens == len("usera")
        assert context.generate("a", system_prompt=None).usage.prompt_tokens == 1


def test_polling_leaves_nothing_behind() -> None:
    async def poll() -> None:
        stream = made.asynchronous.generate_stream("b")
        for _ in range(50):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(stream), 0.001)
            with pytest.raises(TimeoutError):
                await stream.result(0.001)
        assert len(stream._channel._waiters) + len(stream._channel._end_waiters) <= 2

    gate = Gate()
    with scripted("x", before_step=gate) as made:
        stream = made.model.generate_stream("a")
        gate.wait()
        for _ in range(100):
            with pytest.raises(TimeoutError):
                within(stream.result, 0)
        assert not stream._channel._end_waiters
        run_async(poll())
        gate.open()
        assert within(stream.result).text == "x"


def test_reading_after_a_poll_that_gave_up_loses_no_token() -> None:
    gate = Gate()
    with scripted("xyz", before_step=gate) as made:
        stream = made.model.generate_stream("a")
        gate.wait()
        with pytest.raises(TimeoutError):
            stream._channel.get(0)
        reading = started(lambda: "".join(token.text for token in stream))
        gate.open()
        assert reading.result(PATIENCE) == "xyz"


class TestSeededStreams:
    """A seeded stream that starts alone lies in the memory as it would in an empty one."""

    def test_others_prefixes_go(self) -> None:
        with scripted("xyz") as made:
            made.model.generate("abcdef", max_tokens=2)
            made.model.generate("ghij", seed=1)
            assert made.engine.metrics().kv_cached == len("ghijxyz")

    def test_a_seed_is_a_seed_without_sampling_too(self) -> None:
        with scripted("xyz") as made:
            made.model.generate("abcdef", max_tokens=1)
            made.model.generate("ghij", temperature=0)
            assert made.engine.metrics().kv_cached == len("abcdef") + len("ghijxyz")
            made.model.generate("ghij", seed=1, temperature=0)
            assert made.engine.metrics().kv_cached == len("ghijxyz")

    @pytest.mark.parametrize("answer", ["xyz", "xyz" * 20])
    def test_its_own_history_stays(self, answer: str) -> None:
        with scripted(answer) as made:
            prompt = "abc" * 30
            first = made.model.generate(prompt, seed=1)
            second = made.model.generate(prompt + answer + "def", seed=1)
            assert (first.usage.cached_tokens, second.usage.cached_tokens) == (0, 64), "whole pieces of it"

    def test_the_same_prompt_is_computed_in_the_same_pieces_again(self) -> None:
        with scripted("xyz") as made:
            for _ in range(2):
                made.steps.clear()
                made.model.generate("abc" * 33, seed=1)
                assert len(made.steps[-4][0].tokens) == 99 - 96, "what gives the first token"

    def test_a_prefix_that_lies_elsewhere_does_not(self) -> None:
        with scripted("xyz") as made:
            made.model.generate("abc" * 20)  # in the first cells
            made.model.generate("def" * 20)  # behind them
            assert made.model.generate("def" * 20 + "g", seed=1).usage.cached_tokens == 0
            assert made.model.generate("def" * 20 + "gh", seed=1).usage.cached_tokens == 32

    def test_beside_others_it_takes_what_there_is(self) -> None:
        gate = Gate()
        with scripted("xyz", before_step=gate) as made:
            first = made.model.generate_stream("a" * 20 + "b")
            gate.step()
            gate.wait()
            second = made.model.generate_stream("a" * 20 + "c", seed=1)
            gate.open()
            assert within(second.result).usage.cached_tokens == 20
            assert within(first.result).text == "xyz"


def test_rows_that_run_out_do_not_take_the_prefix_that_is_wanted() -> None:
    """The least recently used row is the very one whose prefix the new sequence will share."""
    with scripted("x", max_streams=1, num_rows=3) as made:
        made.model.generate("abc" * 10)
        made.model.generate("def" * 10)
        made.model.generate("ghi" * 10)
        made.model.generate("def" * 10)
        assert made.model.generate("ghi" * 10 + "j").usage.cached_tokens == 30


def test_a_match_of_an_active_row_is_touched_by_nobody() -> None:
    runner = ScriptedRunner({})
    kv = KVCache(runner, num_cells=16, num_rows=4)
    row = kv.acquire()
    kv.touch(kv.match([1, 2], 2))
    kv.release(row)
    kv.check_integrity()
