"""Lets a model and its tools talk: asks it, runs what it calls, tells it what came of that, and asks again."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Self, TypeVar

from headrace.chat.template import Message, checked_messages
from headrace.chat.tool import Tool, result_text
from headrace.values.checks import as_int
from headrace.values.results import GenerationResult, ToolCall

__all__ = ["ToolRun", "run_tools", "run_tools_async"]

_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class ToolRun:
    """What became of a conversation with tools.

    Attributes:
        result: the last answer of the model. Its `finish_reason` is "tool_calls" where calls are left to the caller:
            after so many rounds, or since a tool was called that only the caller can run.
        messages: the conversation, from the first message given to the last answer, as `chat` takes it.
        rounds: how often calls were run.
    """

    result: GenerationResult
    messages: list[dict[str, Any]]
    rounds: int

    @property
    def text(self) -> str:
        """The text of the last answer."""
        return self.result.text

    def __str__(self) -> str:
        return self.text


def run_tools(
    chat: Callable[[list[dict[str, Any]]], GenerationResult],
    messages: Sequence[Mapping[str, Any] | Message],
    tools: Sequence[Tool],
    *,
    max_rounds: int = 5,
) -> ToolRun:
    """Ask, run the calls, and ask again, until there is an answer without calls.

    The calls of one answer run at once, sync functions in threads, async ones on an event loop of this run; each sees
    the caller's context variables. An exception in a tool, arguments that do not fit and a name that is unknown become
    the call's result, as {"error": "..."}. A tool without a function can only be run by the caller: where one is
    called, nothing of that answer is run, and the run ends.

    Args:
        chat: answers a conversation; called on this thread.
        messages: the conversation so far.
        tools: what the model may call.
        max_rounds: how often calls are run at most, at least 1.

    Raises:
        InvalidRequestError: messages or rounds that are none.
        BaseException: what `chat` raises, and what a tool raises that is no Exception, as KeyboardInterrupt. What runs
            beside it is cancelled; a sync function cannot be, and its result is dropped.
    """
    run = _Run(messages, tools, max_rounds)
    with _LoopThread() as loop:
        while True:
            result = chat(list(run.messages))
            calls = run.calls_of(result)
            if not calls:
                return run.ended(result)
            try:
                answers = loop.run(_answers(calls))
            except _PassedOnError as passed_on:
                raise passed_on.error from None
            run.take(result, answers)


async def run_tools_async(
    chat: Callable[[list[dict[str, Any]]], Awaitable[GenerationResult]],
    messages: Sequence[Mapping[str, Any] | Message],
    tools: Sequence[Tool],
    *,
    max_rounds: int = 5,
) -> ToolRun:
    """The same on the running event loop, which it never blocks; async tools run on it. See `run_tools`."""
    run = _Run(messages, tools, max_rounds)
    while True:
        result = await chat(list(run.messages))
        calls = run.calls_of(result)
        if not calls:
            return run.ended(result)
        try:
            answers = await _answers(calls)
        except _PassedOnError as passed_on:
            raise passed_on.error from None
        run.take(result, answers)


class _Call(NamedTuple):
    """A call, and what runs it; None where there is no such tool."""

    call: ToolCall
    tool: Tool | None


class _PassedOnError(Exception):
    """Carries what is no Exception, as KeyboardInterrupt, which would end an event loop on its way through it."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(repr(error))
        self.error = error


class _Run:
    """The conversation, which both faces share."""

    def __init__(
        self, messages: Sequence[Mapping[str, Any] | Message], tools: Sequence[Tool], max_rounds: object
    ) -> None:
        self.messages = checked_messages(messages)
        self._tools = {tool.name: tool for tool in tools}
        self._max_rounds = as_int("max_rounds", max_rounds, 1)
        self._rounds = 0

    def calls_of(self, result: GenerationResult) -> list[_Call]:
        """What is to be run now; nothing where the run ends with this result."""
        if result.finish_reason != "tool_calls" or self._rounds == self._max_rounds:
            return []
        calls = [_Call(call, self._tools.get(call.name)) for call in _complete(result)]
        is_ours = all(call.tool is None or call.tool.function is not None for call in calls)
        return calls if is_ours else []

    def take(self, result: GenerationResult, answers: Sequence[str]) -> None:
        """Go on with what was called, and what came of it."""
        self._rounds += 1
        self._say(result)
        self.messages += [
            {"role": "tool", "tool_call_id": call.id, "name": call.name, "content": answer}
            for call, answer in zip(_complete(result), answers, strict=True)
        ]

    def ended(self, result: GenerationResult) -> ToolRun:
        """The run, as this result ends it."""
        self._say(result)
        return ToolRun(result, self.messages, self._rounds)

    def _say(self, result: GenerationResult) -> None:
        message: dict[str, Any] = {"role": "assistant", "content": result.text}
        if result.thinking:
            # Templates that want to see a thought again, as long as the turn lasts, know it by this name.
            message["reasoning_content"] = result.thinking
        if calls := _complete(result):
            message["tool_calls"] = [call.as_openai() for call in calls]
        self.messages.append(message)


def _complete(result: GenerationResult) -> list[ToolCall]:
    return [call for call in result.tool_calls if call.is_complete]


async def _answers(calls: Sequence[_Call]) -> list[str]:
    """Run calls at once: what came of each, in their order."""
    # Threads of their own, since a pool that others use may be full of what waits for these.
    threads = ThreadPoolExecutor(len(calls), thread_name_prefix="headrace-tool")
    tasks = [asyncio.ensure_future(_answer(call, threads)) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        threads.shutdown(wait=False)


async def _answer(call: _Call, threads: ThreadPoolExecutor) -> str:
    tool, arguments = call.tool, call.call.arguments
    try:
        if tool is None:
            raise LookupError(f"there is no tool {call.call.name!r}")
        value = tool.run(arguments) if tool.is_async else await _in_thread(threads, tool, arguments)
        if inspect.isawaitable(value):
            value = await value
        return result_text(value)
    except _PassedOnError:
        raise
    except Exception as error:  # a tool may raise anything
        return result_text(error)
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError) and _is_cancelled():
            raise
        raise _PassedOnError(error) from None


def _is_cancelled() -> bool:
    """Whether it is this task that was cancelled, and not something that its tool has waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _in_thread(threads: ThreadPoolExecutor, tool: Tool, arguments: str) -> Any:
    """What came of the call, as text already, unless it has to be awaited first."""

    def run() -> Any:
        try:
            value = tool.run(arguments)
            return value if inspect.isawaitable(value) else result_text(value)
        except Exception as error:  # a tool may raise anything; StopIteration, for one, no future could carry
            return result_text(error)
        except BaseException as error:
            raise _PassedOnError(error) from None

    return await asyncio.get_running_loop().run_in_executor(threads, contextvars.copy_context().run, run)


class _LoopThread:
    """An event loop on a thread of its own, made when first needed: a loop may be running on the caller's thread."""

    def __init__(self) -> None:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="headrace-tools", daemon=True)
        self._loop: Future[asyncio.AbstractEventLoop] = Future()

    def run(self, coroutine: Coroutine[Any, Any, _R]) -> _R:
        """What a coroutine returns; where this thread is interrupted, leaving the `with` cancels it."""
        if self._thread.ident is None:
            self._thread.start()
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop.result()).result()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        self._loop.set_result(asyncio.get_running_loop())
        await self._stop.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.ident is not None:
            self._loop.result().call_soon_threadsafe(self._stop.set)
            self._thread.join()
