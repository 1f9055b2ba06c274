"""Calls are run at once and in order, whatever goes wrong in one of them, and the model hears what came of each."""

from __future__ import annotations

import asyncio
import contextvars
import json
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from harness import PATIENCE, run_async, started, within

from headrace.chat.template import Message
from headrace.chat.tool_loop import ToolRun, run_tools, run_tools_async
from headrace.chat.tools import tools_of
from headrace.values.errors import InvalidRequestError
from headrace.values.results import FinishReason, GenerationResult, ToolCall

QUESTION = [{"role": "user", "content": "What now?"}]


def calling(
    *calls: tuple[str, dict[str, Any]] | ToolCall, finish_reason: FinishReason = "tool_calls", **more: Any
) -> GenerationResult:
    """An answer that asks for calls."""
    made = [
        call if isinstance(call, ToolCall) else ToolCall(f"call_{i}", call[0], json.dumps(call[1]))
        for i, call in enumerate(calls)
    ]
    return GenerationResult(more.pop("text", ""), finish_reason, tool_calls=tuple(made), **more)


ANSWER = GenerationResult("So it is.", "stop")


class Model:
    """Gives the answers of a script, and keeps what it was asked."""

    def __init__(self, *answers: GenerationResult) -> None:
        self._answers = list(answers)
        self.asked: list[list[dict[str, Any]]] = []

    def chat(self, messages: list[dict[str, Any]]) -> GenerationResult:
        self.asked.append(messages)
        return self._answers.pop(0)

    async def chat_async(self, messages: list[dict[str, Any]]) -> GenerationResult:
        await asyncio.sleep(0)
        return self.chat(messages)


Runner = Callable[..., ToolRun]


def run_sync(model: Model, tools: Sequence[Any], messages: Any = QUESTION, **settings: Any) -> ToolRun:
    return within(lambda: run_tools(model.chat, messages, tools_of(list(tools)), **settings))


def run_on_a_loop(model: Model, tools: Sequence[Any], messages: Any = QUESTION, **settings: Any) -> ToolRun:
    return run_async(run_tools_async(model.chat_async, messages, tools_of(list(tools)), **settings))


both = pytest.mark.parametrize("run", [run_sync, run_on_a_loop])


def answers_of(model: Model) -> list[str]:
    """What the model was told of its calls, when it was asked last."""
    return [message["content"] for message in model.asked[-1] if message["role"] == "tool"]


def add(a: int, b: int) -> int:
    """Add."""
    return a + b


async def double(a: int) -> dict[str, int]:
    await asyncio.sleep(0)
    return {"doubled": 2 * a}


@both
def test_a_round(run: Runner) -> None:
    model = Model(calling(("add", {"a": 1, "b": 2}), ("double", {"a": 4}), text="Let me see.", thinking="Hm."), ANSWER)
    ran = run(model, [add, double])
    conversation = [
        *QUESTION,
        {
            "role": "assistant",
            "content": "Let me see.",
            "reasoning_content": "Hm.",
            "tool_calls": [
                {"id": "call_0", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}},
                {"id": "call_1", "type": "function", "function": {"name": "double", "arguments": '{"a": 4}'}},
            ],
        },
        {"role": "tool", "tool_call_id": "call_0", "name": "add", "content": "3"},
        {"role": "tool", "tool_call_id": "call_1", "name": "double", "content": '{"doubled":8}'},
    ]
    assert model.asked == [QUESTION, conversation]
    assert ran == ToolRun(ANSWER, [*conversation, {"role": "assistant", "content": "So it is."}], 1)
    assert ran.text == str(ran) == "So it is."


@both
def test_no_calls(run: Runner) -> None:
    model = Model(ANSWER)
    ran = run(model, [add], [Message("user", "Hello")])
    assert (ran.rounds, ran.result, model.asked) == (0, ANSWER, [[{"role": "user", "content": "Hello"}]])
    assert run(Model(ANSWER), []).result is ANSWER


@both
def test_the_callers_messages_stay_as_they_are(run: Runner) -> None:
    messages = [{"role": "user", "content": "a", "extra": {"x": [1]}}]
    ran = run(Model(calling(("add", {"a": 1, "b": 2})), ANSWER), [add], messages)
    ran.messages[0]["extra"]["x"].append(2)
    assert messages == [{"role": "user", "content": "a", "extra": {"x": [1]}}]


@both
def test_rounds_end(run: Runner) -> None:
    again = calling(("add", {"a": 1, "b": 2}))
    model = Model(*[again] * 4)
    ran = run(model, [add], max_rounds=3)
    assert (ran.rounds, ran.result, len(model.asked)) == (3, again, 4)
    assert [message["role"] for message in ran.messages] == ["user", *["assistant", "tool"] * 3, "assistant"]
    assert ran.messages[-1]["tool_calls"][0]["id"] == "call_0"


@both
@pytest.mark.parametrize("max_rounds", [0, -1, 1.5, True, None])
def test_rounds_are_checked(run: Runner, max_rounds: object) -> None:
    with pytest.raises(InvalidRequestError, match="max_rounds"):
        run(Model(ANSWER), [add], max_rounds=max_rounds)


@both
def test_messages_are_checked(run: Runner) -> None:
    with pytest.raises(InvalidRequestError, match="role"):
        run(Model(ANSWER), [add], [{"role": "nobody", "content": "a"}])


@both
@pytest.mark.parametrize("finish_reason", ["length", "cancelled", "stop_sequence"])
def test_an_answer_that_was_cut_is_the_last(run: Runner, finish_reason: FinishReason) -> None:
    cut = ToolCall("b", "add", '{"a": 1', is_complete=False)
    whole = ToolCall("a", "add", '{"a": 1, "b": 2}')
    ran = run(Model(calling(whole, cut, finish_reason=finish_reason)), [add])
    assert ran.rounds == 0
    assert [call["id"] for call in ran.messages[-1]["tool_calls"]] == ["a"]
    assert "tool_calls" not in run(Model(calling(cut, finish_reason=finish_reason)), [add]).messages[-1]


@both
def test_a_tool_without_a_function_is_left_to_the_caller(run: Runner) -> None:
    runs: list[int] = []

    def seen(a: int) -> None:
        runs.append(a)

    theirs = {"type": "function", "function": {"name": "theirs"}}
    both_called = calling(("seen", {"a": 2}), ("theirs", {}))
    ran = run(Model(calling(("seen", {"a": 1})), both_called), [seen, theirs])
    assert (ran.result, ran.rounds, runs) == (both_called, 1, [1])
    assert len(ran.messages[-1]["tool_calls"]) == 2


class Refusal(Exception):
    pass


@both
def test_what_goes_wrong_in_a_call_is_its_result(run: Runner) -> None:
    def fails() -> None:
        raise Refusal("no")

    async def fails_later() -> None:
        await asyncio.sleep(0)
        raise Refusal("not now")

    def stops() -> None:
        raise StopIteration("enough")

    def shapeless() -> object:
        return object()

    calls = [("fails", {}), ("fails_later", {}), ("stops", {}), ("shapeless", {}), ("add", {"a": "x"}), ("nobody", {})]
    model = Model(calling(*calls, ("add", {"a": 1, "b": 1})), ANSWER)
    run(model, [fails, fails_later, stops, shapeless, add])
    told = [json.loads(text) for text in answers_of(model)]
    assert told[:3] == [{"error": "Refusal: no"}, {"error": "Refusal: not now"}, {"error": "StopIteration: enough"}]
    assert "serialize" in told[3]["error"]
    assert told[4]["error"].startswith("InvalidRequestError: the arguments of add do not fit: a: ")
    assert "nobody" in told[5]["error"]
    assert told[6] == 2


@both
def test_calls_run_at_once_and_their_results_keep_their_order(run: Runner) -> None:
    """Each waits for all the others, in threads and on the loop: one after another they would wait for ever."""
    together = threading.Barrier(4)

    def sync(name: str) -> str:
        together.wait(PATIENCE)
        return name

    async def asynchronous(name: str) -> str:
        await asyncio.get_running_loop().run_in_executor(None, together.wait, PATIENCE)
        return name

    calls = [
        ("sync", {"name": "a"}),
        ("asynchronous", {"name": "b"}),
        ("sync", {"name": "c"}),
        ("asynchronous", {"name": "d"}),
    ]
    model = Model(calling(*calls), ANSWER)
    run(model, [sync, asynchronous])
    assert answers_of(model) == ["a", "b", "c", "d"]


@both
def test_async_tools_share_a_loop_over_the_rounds(run: Runner) -> None:
    """As a client that keeps connections does."""
    lock: list[asyncio.Queue[int]] = []
    loops: list[object] = []

    async def use() -> int:
        loops.append(asyncio.get_running_loop())
        if not lock:
            lock.append(asyncio.Queue())
        lock[0].put_nowait(1)
        return await lock[0].get()

    model = Model(calling(("use", {}), ("use", {})), calling(("use", {})), ANSWER)
    run(model, [use])
    assert answers_of(model) == ["1", "1", "1"]
    assert len(set(loops)) == 1


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")


@both
def test_tools_see_the_callers_context(run: Runner) -> None:
    def sync() -> str:
        value = VARIABLE.get()
        VARIABLE.set("changed")
        return value

    async def asynchronous() -> str:
        return VARIABLE.get()

    model = Model(calling(("sync", {}), ("asynchronous", {}), ("sync", {})), ANSWER)
    context = contextvars.copy_context()
    context.run(VARIABLE.set, "mine")
    # `run` goes to another thread; the context that counts is the one in which the run starts there.
    tools = tools_of([sync, asynchronous])
    if run is run_sync:
        within(context.run, run_tools, model.chat, QUESTION, tools)
    else:
        within(context.run, lambda: run_async(run_tools_async(model.chat_async, QUESTION, tools)))
    assert answers_of(model) == ["mine", "mine", "mine"]
    assert context.run(VARIABLE.get) == "mine"


@both
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError, GeneratorExit])
@pytest.mark.parametrize("is_async", [False, True])
def test_what_is_no_exception_goes_through_and_cancels_the_rest(
    run: Runner, error: type[BaseException], is_async: bool
) -> None:
    waiting = threading.Event()
    cancelled: list[str] = []

    def interrupts() -> None:
        waiting.wait(PATIENCE)
        raise error

    async def interrupts_async() -> None:
        while not waiting.is_set():
            await asyncio.sleep(0)
        raise error

    async def waits() -> None:
        waiting.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            cancelled.append("waits")
            raise

    name = "interrupts_async" if is_async else "interrupts"
    with pytest.raises(error):
        run(Model(calling((name, {}), ("waits", {}))), [interrupts, interrupts_async, waits])
    assert cancelled == ["waits"]


def test_a_task_that_is_cancelled_cancels_its_tools() -> None:
    begun, cancelled, gate = threading.Event(), threading.Event(), threading.Event()

    async def waits() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    def stuck() -> None:
        gate.wait(PATIENCE)

    async def main() -> None:
        model = Model(calling(("waits", {}), ("stuck", {})), ANSWER)
        task = asyncio.create_task(run_tools_async(model.chat_async, QUESTION, tools_of([waits, stuck])))
        await asyncio.to_thread(begun.wait, PATIENCE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert cancelled.is_set()
        assert not gate.is_set()  # nobody waited for the thread
        assert len(model.asked) == 1

    try:
        run_async(main())
    finally:
        gate.set()


def test_a_deadline_around_the_run_works() -> None:
    async def waits() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        deadline = asyncio.timeout(None)

        async def chat(messages: list[dict[str, Any]]) -> GenerationResult:
            asyncio.get_running_loop().call_soon(deadline.reschedule, 0)
            return calling(("waits", {}))

        with pytest.raises(TimeoutError):
            async with deadline:
                await run_tools_async(chat, QUESTION, tools_of([waits]))

    run_async(main())


def test_an_interrupt_of_the_caller_cancels_the_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ctrl-C does, which raises in the thread that waits."""
    from headrace.chat import tool_loop

    ended = threading.Event()
    begun = threading.Event()

    async def waits() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    real = asyncio.run_coroutine_threadsafe

    class Interrupted:
        def __init__(self, future: Any) -> None:
            self.future = future

        def result(self) -> None:
            assert begun.wait(PATIENCE)
            raise KeyboardInterrupt

    monkeypatch.setattr(tool_loop.asyncio, "run_coroutine_threadsafe", lambda *args: Interrupted(real(*args)))
    with pytest.raises(KeyboardInterrupt):
        run_sync(Model(calling(("waits", {}))), [waits])
    assert ended.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name == "headrace-tools"]


def test_the_sync_face_works_inside_a_running_loop() -> None:
    """As in a notebook."""

    async def main() -> ToolRun:
        return run_tools(Model(calling(("double", {"a": 1})), ANSWER).chat, QUESTION, tools_of([double]))

    assert run_async(main()).rounds == 1


def test_the_loop_goes_on_while_sync_tools_run() -> None:
    gate = threading.Event()

    def waits() -> str:
        assert gate.wait(PATIENCE)
        return "done"

    async def main() -> None:
        model = Model(calling(("waits", {})), ANSWER)
        task = asyncio.create_task(run_tools_async(model.chat_async, QUESTION, tools_of([waits])))
        while len(model.asked) < 1:
            await asyncio.sleep(0)
        gate.set()  # only a loop that is not blocked gets here
        assert (await task).rounds == 1

    run_async(main())


@both
def test_an_error_of_the_model_goes_through(run: Runner) -> None:
    class Failing(Model):
        def chat(self, messages: list[dict[str, Any]]) -> GenerationResult:
            raise Refusal

    with pytest.raises(Refusal):
        run(Failing(), [add])


def test_no_thread_stays_behind() -> None:
    before = set(threading.enumerate())
    run_sync(Model(calling(("double", {"a": 1}), ("add", {"a": 1, "b": 2})), ANSWER), [add, double])
    left = [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("headrace-tool")]
    for thread in left:  # the pool's threads end by themselves
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_many_calls_do_not_wait_for_each_other() -> None:
    """More than a default pool has threads."""
    together = threading.Barrier(40)

    def meet() -> int:
        return min(0, together.wait(PATIENCE))

    future = started(run_sync, Model(calling(*[("meet", {})] * 40), ANSWER), [meet])
    assert future.result(PATIENCE).rounds == 1


@both
def test_an_awaitable_from_a_sync_function_is_awaited(run: Runner) -> None:
    def wrapped(a: int) -> Awaitable[dict[str, int]]:
        return double(a)

    model = Model(calling(("wrapped", {"a": 3})), ANSWER)
    run(model, [wrapped])
    assert answers_of(model) == ['{"doubled":6}']
