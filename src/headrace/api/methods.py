"""`SyncMethods` and `AsyncMethods`: the methods of models and contexts, such as `generate`, `chat` and `tokenize`."""

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
    """The methods that never wait, and so are the same for threads and for tasks."""

    def __init__(self, core: Core, caller: Caller) -> None:
        self._core = core
        self._caller = caller

    @property
    def name(self) -> str:
        """The model's name."""
        return self._core.name

    @property
    def metrics(self) -> EngineMetrics:
        """A snapshot of the engine's counts and times, over all its streams."""
        return self._core.engine.metrics()

    def cancel_generation(self) -> None:
        """Cancel every stream started from this object, and no other. Any thread or task may call this."""
        self._caller.cancel_generation()

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids that `generate` makes of a text, with the beginning-of-text token if the model has one.

        Raises:
            InvalidRequestError: it is no text, or text that cannot be tokenized.
        """
        return self._core.prompts.tokenize(_checked_str("text", text))

    def detokenize(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, without special tokens; U+FFFD stands for bytes that are no UTF-8.

        Raises:
            InvalidRequestError: an id that the model does not have.
        """
        tokens = as_token_ids("ids", ids)
        self._core.vocabulary.check_tokens(tokens)
        return self._core.vocabulary.detokenize(tokens).decode("utf-8", "replace")

    def count_tokens(self, text_or_messages: str | Messages, **options: Any) -> int:
        """Return the number of tokens that a text, or messages in the chat template, have as a prompt.

        Args:
            text_or_messages: the text, or the messages.
            options: for messages only, see `apply_chat_template`.
        """
        if isinstance(text_or_messages, str) and not options:
            return len(self.tokenize(text_or_messages))
        conversation, chosen = self._caller.rendering(text_or_messages, options)
        return self._core.prompts.count_chat(conversation, chosen)

    def apply_chat_template(self, messages: Messages, **options: Any) -> str:
        """Return the prompt that the model's own chat template writes for a conversation, ready for the answer.

        Args:
            messages: the conversation.
            options: `tools`, `tool_choice`, `continue_final_message` and `template_kwargs`, as for `chat`.

        Raises:
            InvalidRequestError: messages that cannot be used, or a model without a chat template.
        """
        conversation, chosen = self._caller.rendering(messages, options)
        return "".join(segment.text for segment in self._core.prompts.render(conversation, chosen))

    def check_integrity(self) -> None:
        """Raise AssertionError if an invariant of the engine does not hold; for tests."""
        self._core.engine.check_integrity()


class SyncMethods(Methods):
    """The methods of `Model` and `Context`."""

    def generate(self, prompt: Prompt, config: StreamConfig | None = None, **overrides: Any) -> GenerationResult:
        """Continue a prompt to the end of the generation.

        Args:
            prompt: text, or token ids.
            config: the settings; None takes this object's defaults.
            overrides: fields of StreamConfig, and `system_prompt`: with one, the prompt is answered as a chat's first
                message.

        Raises:
            InvalidRequestError: a value that cannot be used.
            ContextOverflowError: the prompt does not fit into the context.
            QueueFullError: too many streams are waiting already.
            StreamTimeoutError: a deadline passed; `.partial` has the result so far.
            GenerationError: the engine failed this stream.
            EngineClosedError: the model was closed.
            TypeError: an unknown setting.
        """
        return self._collect(self._caller.start(self._caller.job(prompt, config, overrides)))

    def generate_stream(self, prompt: Prompt, config: StreamConfig | None = None, **overrides: Any) -> TokenStream:
        """Start generating, and return a stream of the tokens; see `generate`."""
        return self._caller.start(self._caller.job(prompt, config, overrides))

    def generate_stream_with_metrics(
        self, prompt: Prompt, config: StreamConfig | None = None, **overrides: Any
    ) -> StreamResult[TokenStream, GenerationResult]:
        """Return the stream, a function that waits for its result, and one that cancels it; see `generate`.

        The stream ends with an extra Token whose `is_last` is True.
        """
        stream = self._caller.start(self._caller.job(prompt, config, overrides), closing_token=True)
        return StreamResult(stream, stream.result, stream.cancel)

    def generate_streaming(
        self, prompt: Prompt, max_tokens: int, callback: Callable[[Token], object], **overrides: Any
    ) -> GenerationResult:
        """Generate, and call `callback` with each token until it returns False. See `generate`.

        The result's text is the text that the callback got. Its usage also counts tokens that were sampled meanwhile.
        """
        return self._follow(self.generate_stream(prompt, max_tokens=max_tokens, **overrides), callback)

    def chat(self, messages: Messages, config: StreamConfig | None = None, **overrides: Any) -> GenerationResult:
        """Generate the answer to a conversation, in the model's own chat template; see `generate`.

        Args:
            messages: `Message`s, or mappings with `role` and `content`.
            config: the settings; None takes this object's defaults.
            overrides: fields of StreamConfig, `system_prompt`, and:
                tools: the tools that the model may call: functions, Pydantic models, or mappings in OpenAI's form.
                tool_choice: "auto" (the default), "none", "required", or one of the tools.
                parallel_tool_calls: whether one answer may hold several tool calls; True by default.
                continue_final_message: whether the answer continues the last message, which is an assistant's.
                template_kwargs: more variables for the chat template, such as `{"enable_thinking": False}`.
        """
        return self._collect(self._caller.start(self._caller.chat_job(messages, config, overrides)))

    def chat_stream(self, messages: Messages, config: StreamConfig | None = None, **overrides: Any) -> TokenStream:
        """Start generating the answer to a conversation, and return a stream of the tokens; see `chat`."""
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
        """Chat with tools: run the model's tool calls, give it the results, and repeat until an answer has no calls.

        The calls of one answer run at the same time: functions in threads, async functions on an event loop of this
        run. An error in a tool becomes its result, which the model reads. A `tool_choice` that forces a call holds for
        the first answer only; after that the model chooses.

        Args:
            messages: the conversation so far, see `chat`.
            tools: functions, Pydantic models, or mappings in OpenAI's form. A mapping has no function to run, so the
                run ends when such a tool is called.
            config: the settings of each answer.
            max_rounds: rounds of tool calls at most, at least 1; after those the run ends with the next calls not run.
            callback: called with each token of each answer; if it returns False, the run ends.
            overrides: see `chat`.

        Raises:
            InvalidRequestError: see `chat`; for a bad tool, the field names the place, as `tools[2].function.name`.
            GenerationError, StreamTimeoutError, QueueFullError: one of the answers failed.
        """
        from headrace.chat.tool_loop import run_tools
        from headrace.chat.tools import tools_of

        offered, tool_choices = tools_of(tools), _tool_choices(overrides)

        def answer(turns: list[dict[str, Any]]) -> GenerationResult:
            stream = self.chat_stream(turns, config, tools=offered, tool_choice=next(tool_choices), **overrides)
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
                    return _result_of_shown(stream.result(), shown)
        return stream.result()

    def _collect(self, stream: TokenStream) -> GenerationResult:
        try:
            return stream.result()
        except BaseException:
            stream.close()  # after a KeyboardInterrupt
            raise


class AsyncMethods(Methods):
    """The methods of `AsyncModel`, and of a `Context` on one."""

    async def generate(self, prompt: Prompt, config: StreamConfig | None = None, **overrides: Any) -> GenerationResult:
        """Continue a prompt to the end of the generation; see `Model.generate`."""
        return await self._collect(self._caller.start_async(self._caller.job(prompt, config, overrides)))

    def generate_stream(self, prompt: Prompt, config: StreamConfig | None = None, **overrides: Any) -> AsyncTokenStream:
        """Start generating, and return a stream of the tokens; see `Model.generate`.

        Errors in the settings, and a prompt that is neither text nor token ids, are raised here. Errors that only the
        model can find, and QueueFullError, are raised with the first token.
        """
        return self._caller.start_async(self._caller.job(prompt, config, overrides))

    def generate_stream_with_metrics(
        self, prompt: Prompt, config: StreamConfig | None = None, **overrides: Any
    ) -> StreamResult[AsyncTokenStream, Awaitable[GenerationResult]]:
        """Return the stream, a function that waits for its result, and one that cancels it; see `generate`.

        The stream ends with an extra Token whose `is_last` is True.
        """
        stream = self._caller.start_async(self._caller.job(prompt, config, overrides), closing_token=True)
        return StreamResult(stream, stream.result, stream.cancel)

    async def generate_streaming(
        self,
        prompt: Prompt,
        max_tokens: int,
        callback: Callable[[Token], object | Awaitable[object]],
        **overrides: Any,
    ) -> GenerationResult:
        """Generate, and call `callback` with each token, awaiting it if it is async; see `Model.generate_streaming`."""
        return await self._follow(self.generate_stream(prompt, max_tokens=max_tokens, **overrides), callback)

    async def chat(self, messages: Messages, config: StreamConfig | None = None, **overrides: Any) -> GenerationResult:
        """Generate the answer to a conversation; see `Model.chat`."""
        return await self._collect(self._caller.start_async(self._caller.chat_job(messages, config, overrides)))

    def chat_stream(self, messages: Messages, config: StreamConfig | None = None, **overrides: Any) -> AsyncTokenStream:
        """Start generating the answer to a conversation, and return a stream of the tokens; see `Model.chat`."""
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
        from headrace.chat.tools import tools_of

        # In a thread, because describing a function as a tool takes milliseconds.
        offered, tool_choices = await asyncio.to_thread(tools_of, tools), _tool_choices(overrides)

        async def answer(turns: list[dict[str, Any]]) -> GenerationResult:
            stream = self.chat_stream(turns, config, tools=offered, tool_choice=next(tool_choices), **overrides)
            return await (self._collect(stream) if callback is None else self._follow(stream, callback))

        return await run_tools_async(answer, messages, offered, max_rounds=max_rounds)

    async def _follow(
        self, stream: AsyncTokenStream, callback: Callable[[Token], object | Awaitable[object]]
    ) -> GenerationResult:
        shown: list[Part] = []
        async with stream:
            async for token in stream:
                shown += token.parts
                returned = callback(token)
                if inspect.isawaitable(returned):
                    returned = await returned
                if returned is False:
                    stream.cancel()
                    return _result_of_shown(await stream.result(), shown)
        return await stream.result()

    async def _collect(self, stream: AsyncTokenStream) -> GenerationResult:
        try:
            return await stream.result()
        except BaseException:
            await stream.aclose()  # after the task was cancelled
            raise


def _tool_choices(overrides: dict[str, Any]) -> Iterator[Any]:
    """The tool_choice of each answer of a run. Only the first answer is forced to call a tool, or no run would end."""
    first = overrides.pop("tool_choice", None)
    return itertools.chain([first], itertools.repeat("none" if first == "none" else None))


def _result_of_shown(result: GenerationResult, parts: list[Part]) -> GenerationResult:
    """The result of a stream that its callback stopped: only the parts that the callback was shown."""
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
