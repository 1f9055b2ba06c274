"""`run_tools` and `run_tools_async`: ask a model, run the tools that it calls, and ask again with their results."""

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
    """The outcome of a conversation with tools.

    Attributes:
        result: the model's last answer. Its `finish_reason` is "tool_calls" if it has calls that were not run: because
            `max_rounds` was reached, or because one of the tools can only be run by the caller.
        messages: the conversation, from the first message given to the last answer, in the form that `chat` takes.
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
    """Ask the model, run its calls, and ask again, until it answers without calls.

    The calls of one answer run concurrently: sync functions in threads, async ones on an event loop of this run. Each
    sees the caller's context variables. If a tool raises an exception, its arguments do not fit, or its name is not
    known, the call's result is {"error": "..."}. A tool without a function can only be run by the caller: if the model
    calls one, no call of that answer is run, and the run ends.

    Args:
        chat: answers a conversation; called on this thread.
        messages: the conversation so far.
        tools: what the model may call.
        max_rounds: the largest number of answers whose calls are run, at least 1.

    Raises:
        InvalidRequestError: `messages` or `max_rounds` cannot be used.
        BaseException: whatever `chat` raises, and what a tool raises that is no Exception, as KeyboardInterrupt. The
            other calls are cancelled then; a sync function cannot be cancelled, and its result is dropped.
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
            run.add_round(result, answers)


async def run_tools_async(
    chat: Callable[[list[dict[str, Any]]], Awaitable[GenerationResult]],
    messages: Sequence[Mapping[str, Any] | Message],
    tools: Sequence[Tool],
    *,
    max_rounds: int = 5,
) -> ToolRun:
    """Do the same on the running event loop, without blocking it; async tools run on that loop. See `run_tools`."""
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
        run.add_round(result, answers)


class _Call(NamedTuple):
    """A call and its tool; None if there is no tool of that name."""

    call: ToolCall
    tool: Tool | None


class _PassedOnError(Exception):
    """Carries a BaseException such as KeyboardInterrupt out of an event loop, which it would otherwise end."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(repr(error))
        self.error = error


class _Run:
    """The conversation of a run: what `run_tools` and `run_tools_async` share."""

    def __init__(
        self, messages: Sequence[Mapping[str, Any] | Message], tools: Sequence[Tool], max_rounds: object
    ) -> None:
        self.messages = checked_messages(messages)
        self._tools = {tool.name: tool for tool in tools}
        self._max_rounds = as_int("max_rounds", max_rounds, 1)
        self._rounds = 0

    def calls_of(self, result: GenerationResult) -> list[_Call]:
        """Returns the calls to run; none if the run ends with this result."""
        if result.finish_reason != "tool_calls" or self._rounds == self._max_rounds:
            return []
        calls = [_Call(call, self._tools.get(call.name)) for call in _complete(result)]
        can_run = all(call.tool is None or call.tool.function is not None for call in calls)
        return calls if can_run else []

    def add_round(self, result: GenerationResult, answers: Sequence[str]) -> None:
        """Add the model's calls and the texts of their results to the conversation."""
        self._rounds += 1
        self._add_answer(result)
        self.messages += [
            {"role": "tool", "tool_call_id": call.id, "name": call.name, "content": answer}
            for call, answer in zip(_complete(result), answers, strict=True)
        ]

    def ended(self, result: GenerationResult) -> ToolRun:
        """Returns the outcome of a run that ends with this result."""
        self._add_answer(result)
        return ToolRun(result, self.messages, self._rounds)

    def _add_answer(self, result: GenerationResult) -> None:
        message: dict[str, Any] = {"role": "assistant", "content": result.text}
        if result.thinking:
            # The name that templates use which show the model its thoughts again until its turn ends.
            message["reasoning_content"] = result.thinking
        if calls := _complete(result):
            message["tool_calls"] = [call.as_openai() for call in calls]
        self.messages.append(message)


def _complete(result: GenerationResult) -> list[ToolCall]:
    return [call for call in result.tool_calls if call.is_complete]


async def _answers(calls: Sequence[_Call]) -> list[str]:
    """Run calls concurrently and return the texts of their results, in order."""
    # A pool of its own, since a shared one could be full of threads that wait for these calls.
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
    """Whether this task was cancelled, and not a future that its tool has awaited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _in_thread(threads: ThreadPoolExecutor, tool: Tool, arguments: str) -> Any:
    """Run a sync tool in a thread. Returns the text of its result, or an awaitable that the tool has returned."""

    def run() -> Any:
        try:
            value = tool.run(arguments)
            return value if inspect.isawaitable(value) else result_text(value)
        except Exception as error:  # a tool may raise anything, even StopIteration, which a future cannot carry
            return result_text(error)
        except BaseException as error:
            raise _PassedOnError(error) from None

    return await asyncio.get_running_loop().run_in_executor(threads, contextvars.copy_context().run, run)


class _LoopThread:
    """An event loop on its own thread, because the caller's thread may run one already. Started when first needed."""

    def __init__(self) -> None:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="headrace-tools", daemon=True)
        self._loop: Future[asyncio.AbstractEventLoop] = Future()

    def run(self, coroutine: Coroutine[Any, Any, _R]) -> _R:
        """Returns a coroutine's result. If this thread is interrupted, leaving the `with` cancels the coroutine."""
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
