"""What can be asked of models and contexts, for threads and for tasks."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import itertools
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from headrace.api.caller import Caller
from headrace.api.core import Core
from headrace.api.stream import AsyncTokenStream, StreamResult, TokenStream
from headrace.chat.prompts import Messages, Prompt
from headrace.values.accumulator import Accumulator
from headrace.values.checks import as_token_ids
from headrace.values.config import StreamConfig
from headrace.values.errors import InvalidRequestError
from headrace.values.results import EngineMetrics, GenerationResult, Part, Token

if TYPE_CHECKING:
    from headrace.chat.tool_loop import ToolRun

__all__ = ["AsyncMethods", "Methods", "SyncMethods"]


class Methods:
    """What needs no waiting, and is the same on both faces."""

    def __init__(self, core: Core, caller: Caller) -> None:
        self._core = core
        self._caller = caller

    @property
    def name(self) -> str:
        """What the model is called."""
        return self._core.name

    @property
    def metrics(self) -> EngineMetrics:
        """A snapshot of the engine, all its streams together."""
        return self._core.engine.metrics()

    def cancel_generation(self) -> None:
        """Cancel every stream started from this object, and no other. From any thread or task."""
        self._caller.cancel_generation()

    def tokenize(self, text: str) -> list[int]:
        """The token ids of a text as `generate` feeds them, with the model's beginning-of-text token if it has one.

        Raises:
            InvalidRequestError: text that no tokenizer can take.
        """
        return self._core.prompts.tokenize(_checked_str("text", text))

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of token ids, control tokens left out; U+FFFD for bytes that are no UTF-8.

        Raises:
            InvalidRequestError: an id that the model does not have.
        """
        tokens = as_token_ids("ids", ids)
        self._core.vocabulary.check_tokens(tokens)
        return self._core.vocabulary.detokenize(tokens).decode("utf-8", "replace")

    def count_tokens(self, text_or_messages: str | Messages, **options: Any) -> int:
        """How many tokens a text, or a conversation under the chat template, has as a prompt.

        Args:
            text_or_messages: which.
            options: of a conversation, see `apply_chat_template`.
        """
        if isinstance(text_or_messages, str) and not options:
            return len(self.tokenize(text_or_messages))
        conversation, chosen = self._caller.rendering(text_or_messages, options)
        return self._core.prompts.count_chat(conversation, chosen)

    def apply_chat_template(self, messages: Messages, **options: Any) -> str:
        """The conversation as the model's own chat template writes it, ready for the answer.

        Args:
            messages: the conversation.
            options: `tools`, `tool_choice`, `continue_final_message` and `template_kwargs`, as `chat` takes them.

        Raises:
            InvalidRequestError: messages that are none, or a model without a chat template.
        """
        conversation, chosen = self._caller.rendering(messages, options)
        return "".join(segment.text for segment in self._core.prompts.render(conversation, chosen))

    def check_integrity(self) -> None:
        """Raise AssertionError where an invariant of the engine does not hold; for tests."""
        self._core.engine.check_integrity()


class SyncMethods(Methods):
    """The calls of `Model` and `Context`."""

    def generate(self, prompt: Prompt, config: StreamConfig | None = None, **overrides: Any) -> GenerationResult:
        """Generate to the end.

        Args:
            prompt: text, or token ids.
            config: the settings; None takes this object's defaults.
            overrides: fields of StreamConfig, and `system_prompt`, which makes the prompt a chat's first message.

        Raises:
            InvalidRequestError: a value that cannot be used; ContextOverflowError, a prompt that does not fit.
            QueueFullError: too many streams wait already.
            StreamTimeoutError: a deadline passed; `.partial` has what there is.
            GenerationError: the engine failed this stream.
            EngineClosedError: the model was closed.
            TypeError: an unknown setting.
        """
        return self._collect(self._caller.start(self._caller.job(prompt, config, overrides)))

    def generate_stream(self, prompt: Prompt, config: StreamConfig | None = None, **overrides: Any) -> TokenStream:
        """Start generating and hand out the tokens as they are read; see `generate`."""
        return self._caller.start(self._caller.job(prompt, config, overrides))

    def generate_stream_with_metrics(
        self, prompt: Prompt, config: StreamConfig | None = None, **overrides: Any
    ) -> StreamResult[TokenStream, GenerationResult]:
        """The same with what waits for the result and what cancels; the stream ends with an extra Token, `is_last`."""
        stream = self._caller.start(self._caller.job(prompt, config, overrides), closing_token=True)
        return StreamResult(stream, stream.result, stream.cancel)

    def generate_streaming(
        self, prompt: Prompt, max_tokens: int, callback: Callable[[Token], object], **overrides: Any
    ) -> GenerationResult:
        """Call `callback` with each token; where it returns False, stop. See `generate`.

        The result's text is what the callback was given; its usage counts what was sampled ahead of it, too.
        """
        return self._follow(self.generate_stream(prompt, max_tokens=max_tokens, **overrides), callback)

    def chat(self, messages: Messages, config: StreamConfig | None = None, **overrides: Any) -> GenerationResult:
        """Generate the answer to a conversation, in the model's own chat template; see `generate`.

        Args:
            messages: `Message`s, or mappings with `role` and `content`.
            config: the settings; None takes this object's defaults.
            overrides: fields of StreamConfig, `system_prompt`, and:
                tools: what the model may call: functions, Pydantic models, or OpenAI's mappings.
                tool_choice: "auto" (by default), "none", "required", or one of the tools.
                parallel_tool_calls: whether one answer may hold several calls; True by default.
                continue_final_message: whether the answer goes on with the last message, an assistant's.
                template_kwargs: more variables for the chat template, as `{"enable_thinking": False}`.
        """
        return self._collect(self._caller.start(self._caller.chat_job(messages, config, overrides)))

    def chat_stream(self, messages: Messages, config: StreamConfig | None = None, **overrides: Any) -> TokenStream:
        """The same, streamed."""
        return self._caller.start(self._caller.chat_job(messages, config, overrides))

    def run_tools(
        self,
        messages: Messages,
        tools: Sequence[Any],
        config: StreamConfig | None = None,
        *,
        max_rounds: int = 5,
        callback: Callable[[Token], object] | None = None,
        **overrides: Any,
    ) -> ToolRun:
        """Chat with tools: run what the model calls, tell it the results, and go on until it answers without calls.

        The calls of one answer run at once: functions in threads, async functions on an event loop of this run. What
        goes wrong in a tool is its result, which the model reads. A `tool_choice` that forces a call holds for the
        first answer; from then on the model chooses.

        Args:
            messages: the conversation so far, see `chat`.
            tools: functions, Pydantic models, or OpenAI's mappings; what was given as a mapping only the caller can
                run, so the run ends where such a tool is called.
            config: the settings of each answer.
            max_rounds: how often calls are run at most, at least 1; then the run ends with the calls not run.
            callback: called with each token of each answer; where it returns False, the run ends.
            overrides: see `chat`.

        Raises:
            InvalidRequestError: as `chat` does; the field of a bad tool names its place, as `tools[2].function.name`.
            GenerationError, StreamTimeoutError, QueueFullError: one of the answers failed.
        """
        from headrace.chat.tool_loop import run_tools
        from headrace.chat.toolbox import tools_of

        offered, choose = tools_of(tools), _choices(overrides)

        def answer(turns: list[dict[str, Any]]) -> GenerationResult:
            stream = self.chat_stream(turns, config, tools=offered, tool_choice=next(choose), **overrides)
            return self._collect(stream) if callback is None else self._follow(stream, callback)

        return run_tools(answer, messages, offered, max_rounds=max_rounds)

    def _follow(self, stream: TokenStream, callback: Callable[[Token], object]) -> GenerationResult:
        """Call `callback` with each token, until it returns False."""
        shown: list[Part] = []
        with stream:
            for token in stream:
                shown += token.parts
                if callback(token) is False:
                    stream.cancel()
                    return _cut(stream.result(), shown)
        return stream.result()

    def _collect(self, stream: TokenStream) -> GenerationResult:
        try:
            return stream.result()
        except BaseException:
            stream.close()  # for a KeyboardInterrupt
            raise


class AsyncMethods(Methods):
    """The calls of `AsyncModel`, and of a `Context` on one."""

    async def generate(self, prompt: Prompt, config: StreamConfig | None = None, **overrides: Any) -> GenerationResult:
        """Generate to the end; see `Model.generate`."""
        return await self._collect(self._caller.start_async(self._caller.job(prompt, config, overrides)))

    def generate_stream(self, prompt: Prompt, config: StreamConfig | None = None, **overrides: Any) -> AsyncTokenStream:
        """Start generating and hand out the tokens as they are read; see `Model.generate`.

        Settings are checked here, and that the prompt is text or whole numbers; what only the model can tell of it, and
        a full queue, comes with the first token.
        """
        return self._caller.start_async(self._caller.job(prompt, config, overrides))

    def generate_stream_with_metrics(
        self, prompt: Prompt, config: StreamConfig | None = None, **overrides: Any
    ) -> StreamResult[AsyncTokenStream, Awaitable[GenerationResult]]:
        """The same with what waits for the result and what cancels; the stream ends with an extra Token, `is_last`."""
        stream = self._caller.start_async(self._caller.job(prompt, config, overrides), closing_token=True)
        return StreamResult(stream, stream.result, stream.cancel)

    async def generate_streaming(
        self,
        prompt: Prompt,
        max_tokens: int,
        callback: Callable[[Token], object | Awaitable[object]],
        **overrides: Any,
    ) -> GenerationResult:
        """Call, and where it is one await, `callback` with each token; see `Model.generate_streaming`."""
        return await self._follow(self.generate_stream(prompt, max_tokens=max_tokens, **overrides), callback)

    async def chat(self, messages: Messages, config: StreamConfig | None = None, **overrides: Any) -> GenerationResult:
        """Generate the answer to a conversation; see `Model.chat`."""
        return await self._collect(self._caller.start_async(self._caller.chat_job(messages, config, overrides)))

    def chat_stream(self, messages: Messages, config: StreamConfig | None = None, **overrides: Any) -> AsyncTokenStream:
        """The same, streamed."""
        return self._caller.start_async(self._caller.chat_job(messages, config, overrides))

    async def run_tools(
        self,
        messages: Messages,
        tools: Sequence[Any],
        config: StreamConfig | None = None,
        *,
        max_rounds: int = 5,
        callback: Callable[[Token], object | Awaitable[object]] | None = None,
        **overrides: Any,
    ) -> ToolRun:
        """Chat with tools; see `Model.run_tools`. Async functions run as tasks of this event loop."""
        from headrace.chat.tool_loop import run_tools_async
        from headrace.chat.toolbox import tools_of

        # To describe functions takes milliseconds each.
        offered, choose = await asyncio.to_thread(tools_of, tools), _choices(overrides)

        async def answer(turns: list[dict[str, Any]]) -> GenerationResult:
            stream = self.chat_stream(turns, config, tools=offered, tool_choice=next(choose), **overrides)
            return await (self._collect(stream) if callback is None else self._follow(stream, callback))

        return await run_tools_async(answer, messages, offered, max_rounds=max_rounds)

    async def _follow(
        self, stream: AsyncTokenStream, callback: Callable[[Token], object | Awaitable[object]]
    ) -> GenerationResult:
        shown: list[Part] = []
        async with stream:
            async for token in stream:
                shown += token.parts
                answer = callback(token)
                if inspect.isawaitable(answer):
                    answer = await answer
                if answer is False:
                    stream.cancel()
                    return _cut(await stream.result(), shown)
        return await stream.result()

    async def _collect(self, stream: AsyncTokenStream) -> GenerationResult:
        try:
            return await stream.result()
        except BaseException:
            await stream.aclose()  # for a task that was cancelled
            raise


def _choices(overrides: dict[str, Any]) -> Iterator[Any]:
    """The tool_choice of each answer of a run: a call is forced once, or the run would never end."""
    first = overrides.pop("tool_choice", None)
    return itertools.chain([first], itertools.repeat("none" if first == "none" else None))


def _cut(result: GenerationResult, parts: list[Part]) -> GenerationResult:
    """The result of a stream that its reader stopped, whatever had been sampled ahead of him."""
    shown = Accumulator(parts)
    return dataclasses.replace(
        result,
        text=shown.text,
        thinking=None if result.thinking is None else shown.thinking,
        tool_calls=shown.tool_calls,
        parsed=None,
        finish_reason="cancelled",
        stop_sequence=None,
    )


def _checked_str(field: str, text: object) -> str:
    if not isinstance(text, str):
        raise InvalidRequestError(field, text, "text")
    return text
