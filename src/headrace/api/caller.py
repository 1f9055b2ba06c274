"""`Caller`: starts and cancels streams on a `Core`, with the defaults of one model, context or server request."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any, TypeVar

from headrace.api.chat_options import CHAT_OPTIONS, chat_options
from headrace.api.core import Core
from headrace.api.job import Job
from headrace.api.observer import Observer
from headrace.api.stream import AsyncTokenStream, TokenStream
from headrace.chat.options import ChatOptions
from headrace.chat.prompts import Messages, Prepared, Prompt, check_text
from headrace.chat.template import checked_messages
from headrace.values.checks import as_token_ids
from headrace.values.config import StreamConfig, checked_config
from headrace.values.errors import EngineClosedError, InvalidRequestError
from headrace.values.request import LastTokens

__all__ = ["Caller"]

_Stream = TypeVar("_Stream", TokenStream, AsyncTokenStream)

# Stands for a system prompt that was not given, so that the caller's own is used. None means: no system prompt at all.
_CALLERS_OWN: Any = object()


class Caller:
    """One user of a core, with its own defaults, streams, and flow in the fair queue.

    Args:
        core: the model and its engine.
        defaults: the settings of the caller's streams, unless they are overridden.
        system_prompt: the system prompt of the caller's chats.
        flow: the flow of its requests in the fair queue; None for a flow of its own.

    Attributes:
        last_tokens: the tokens of this caller's most recently ended stream.
    """

    def __init__(
        self, core: Core, defaults: StreamConfig, system_prompt: str | None = None, *, flow: Hashable = None
    ) -> None:
        self.core = core
        self.defaults = defaults
        self.system_prompt = _checked_system_prompt(system_prompt)
        self.last_tokens = LastTokens()
        # Without a lock, because signal handlers and garbage collections cancel streams at any point of a thread.
        self._streams: dict[str, weakref.ref[TokenStream | AsyncTokenStream]] = {}
        self._flow = id(self) if flow is None else flow
        self._is_closed = False

    def job(self, prompt: Prompt, config: StreamConfig | None, overrides: Mapping[str, Any]) -> Job:
        """Return the job of `generate`: continue the prompt or, if there is a system prompt, answer it as a chat."""
        settings, system_prompt = self._settings(config, overrides)
        if system_prompt is _CALLERS_OWN:
            system_prompt = self.system_prompt
        schema, parse = _schema_of(settings)
        prompts = self.core.prompts
        if system_prompt is None:
            given = prompt if isinstance(prompt, str) else _checked_ids(prompt)
            return Job(settings, partial(prompts.prepare, given, settings, schema), parse)
        if not isinstance(prompt, str):
            raise InvalidRequestError("system_prompt", system_prompt, "None, because the prompt is given as token ids")
        check_text("prompt", prompt)
        messages = [{"role": "system", "content": system_prompt}, {"role": "user", "content": prompt}]
        return Job(settings, partial(prompts.prepare_chat, messages, settings, schema=schema), parse)

    def chat_job(self, messages: Messages, config: StreamConfig | None, overrides: Mapping[str, Any]) -> Job:
        """Return the job of `chat`: answer the messages."""
        options, others = chat_options(overrides)
        settings, system_prompt = self._settings(config, others)
        schema, parse = _schema_of(settings)
        conversation, prompts = self.conversation(messages, system_prompt), self.core.prompts

        def prepare() -> Prepared:
            return prompts.prepare_chat(conversation, settings, options(), schema)

        return Job(settings, prepare, parse)

    def rendering(self, messages: Messages, options: Mapping[str, Any]) -> tuple[list[Any], ChatOptions]:
        """Return the messages and the chat options from which `Prompts` renders a prompt.

        Raises:
            TypeError: an option that is not one of `CHAT_OPTIONS`.
            InvalidRequestError: see `conversation`.
        """
        chosen, others = chat_options(options)
        if others:
            raise TypeError(f"unknown option {next(iter(others))!r}; allowed: {', '.join(CHAT_OPTIONS)}")
        return self.conversation(messages), chosen()

    def conversation(self, messages: Messages, system_prompt: object = _CALLERS_OWN) -> list[Any]:
        """Return a checked copy of the messages, behind the given system prompt or this caller's own, if any.

        Raises:
            InvalidRequestError: messages that cannot be used; a system prompt beside a system message.
        """
        checked = checked_messages(messages)
        if any(message["role"] == "system" for message in checked):
            if system_prompt not in (_CALLERS_OWN, None):
                raise InvalidRequestError(
                    "system_prompt", system_prompt, "None, because the messages have a system message of their own"
                )
            return checked
        if system_prompt is _CALLERS_OWN:
            system_prompt = self.system_prompt
        return checked if system_prompt is None else [{"role": "system", "content": system_prompt}, *checked]

    def start(self, job: Job, *, closing_token: bool = False, observer: Observer | None = None) -> TokenStream:
        """Start a stream. Errors of the start are raised here."""
        stream = self._new_stream(TokenStream, job, closing_token=closing_token, observer=observer)
        stream.submit(job.prepare())
        return stream

    def start_async(
        self, job: Job, *, closing_token: bool = False, observer: Observer | None = None
    ) -> AsyncTokenStream:
        """Start a stream without blocking. Errors of the start are raised when the stream is read."""
        stream = self._new_stream(AsyncTokenStream, job, closing_token=closing_token, observer=observer)
        try:
            self.core.workers.submit(stream.submit_later, job.prepare)
        except RuntimeError as error:  # the pool was shut down: the model or the interpreter is closing
            raise EngineClosedError("the model was closed; load it again") from error
        return stream

    async def open(self, job: Job, *, id: str) -> AsyncTokenStream:
        """Start a stream, and wait without blocking until the engine accepts it. Errors of the start are raised here.

        Args:
            job: the stream to start.
            id: the stream's id; no other live stream of the engine may have it.
        """
        stream = self._new_stream(AsyncTokenStream, job, id=id)
        try:
            stream.submit(await asyncio.get_running_loop().run_in_executor(self.core.workers, job.prepare))
        except BaseException as error:
            await stream.aclose()
            if self.core.engine.is_closed and isinstance(error, RuntimeError):  # the pool was shut down
                self.core.engine.check_open()
            raise
        return stream

    def cancel_generation(self) -> None:
        """Cancel every stream that this caller started, and no other."""
        for reference in list(self._streams.values()):
            stream = reference()
            if stream is not None:
                stream.cancel()

    def close(self) -> None:
        """Cancel every stream that this caller started, and start no more. The core stays open."""
        self._is_closed = True
        self.cancel_generation()

    def _settings(self, config: StreamConfig | None, overrides: Mapping[str, Any]) -> tuple[StreamConfig, object]:
        if self._is_closed:
            raise EngineClosedError("this context was closed; make a new one")
        self.core.engine.check_open()
        changes = dict(overrides)
        system_prompt = changes.pop("system_prompt", _CALLERS_OWN)
        if system_prompt is not _CALLERS_OWN:
            system_prompt = _checked_system_prompt(system_prompt)
        return checked_config(config, self.defaults).replace(**changes), system_prompt

    def _new_stream(
        self,
        stream_type: type[_Stream],
        job: Job,
        *,
        id: str | None = None,
        closing_token: bool = False,
        observer: Observer | None = None,
    ) -> _Stream:
        core, streams = self.core, self._streams
        id = core.new_id() if id is None else id
        stream = stream_type(
            core.engine,
            core,
            job.config,
            id=id,
            model=core.name,
            flow=self._flow,
            closing_token=closing_token,
            parse=job.parse,
            pricing=core.config.pricing,
            observer=observer,
            last_tokens=self.last_tokens,
        )
        streams[id] = weakref.ref(stream, lambda _: streams.pop(id, None))
        return stream


def _schema_of(config: StreamConfig) -> tuple[object, Callable[[str], object] | None]:
    """Returns the JSON schema of the output, and the function that makes an object of the output; or two Nones."""
    if config.json_schema is None:
        return None, None
    from headrace.structured.schema import Schema

    schema = Schema.of("json_schema", config.json_schema)
    return schema.json, schema.parse


def _checked_ids(prompt: object) -> list[int]:
    ids = as_token_ids("prompt", prompt)
    if not ids:
        raise InvalidRequestError("prompt", prompt, "text or token ids, at least one token")
    return ids


def _checked_system_prompt(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidRequestError("system_prompt", value, "text, or None")
    check_text("system_prompt", value)
    return value
