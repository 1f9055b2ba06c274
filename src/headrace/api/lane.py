"""What the sync and the async face share: a loaded model with its engine, and lanes on it."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import itertools
import os
import secrets
import threading
import warnings
import weakref
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from headrace.api.observer import Observer
from headrace.api.stream import AsyncTokenStream, TokenStream
from headrace.chat.prompts import ChatOptions, Messages, Prepared, Prompt, Prompts, check_text
from headrace.chat.template import checked_messages
from headrace.engine.loop import Engine
from headrace.engine.tuning.calibration import CostFile
from headrace.engine.tuning.threads import available_cores, processor, thread_counts
from headrace.llama.kv_types import KVType, checked_kv_type
from headrace.values.checks import as_float, as_int, as_token_ids
from headrace.values.config import StreamConfig
from headrace.values.errors import EngineClosedError, InvalidRequestError, ModelNotFoundError
from headrace.values.pricing import Pricing
from headrace.values.request import Trail
from headrace.values.vocabulary import Vocabulary

if TYPE_CHECKING:
    from headrace.llama.model import LlamaModel

__all__ = ["Core", "Job", "Lane", "checked_config", "load_core"]

_Face = TypeVar("_Face", TokenStream, AsyncTokenStream)

_CHAT_OPTIONS = ("tools", "tool_choice", "parallel_tool_calls", "continue_final_message", "template_kwargs")
# What a chat template gets from elsewhere.
_NOT_IN_TEMPLATE_KWARGS = (
    "add_generation_prompt",
    "bos_token",
    "continue_final_message",
    "eos_token",
    "messages",
    "self",
    "tools",
)
# Stands for "not said": None says that there shall be no system prompt.
_LANES_OWN: Any = object()
# The default of n_ctx takes at most this share of the memory that is free.
_KV_SHARE = 0.5


class Job(NamedTuple):
    """A stream to be: its settings, and how to make its prompt, which is better not done on an event loop.

    Attributes:
        config: the settings.
        prepare: makes the prompt.
        parse: makes an object of an output that is complete; None where it is only text.
    """

    config: StreamConfig
    prepare: Callable[[], Prepared]
    parse: Callable[[str], object] | None = None

    def times(self, count: int) -> list[Job]:
        """So many choices for one prompt, which is made once; each has a seed of its own, or all would be the same."""
        if count == 1:
            return [self]
        config, prepare = self.config, _Shared(self.prepare)
        seeds = [None if config.seed is None else (config.seed + choice) % 2**64 for choice in range(count)]
        configs = [config if seed is None else config.replace(seed=seed) for seed in seeds]
        return [Job(config, prepare, self.parse) for config in configs]


class _Shared:
    """A prompt of several streams, made when the first of them asks for it."""

    def __init__(self, prepare: Callable[[], Prepared]) -> None:
        self._prepare = prepare
        self._lock = threading.Lock()
        self._prepared: Prepared | None = None

    def __call__(self) -> Prepared:
        with self._lock:
            if self._prepared is None:
                self._prepared = self._prepare()
            return self._prepared


class Core:
    """A loaded model and its engine, shared by both faces and all contexts. Closed once, by any of them.

    Args:
        vocabulary: turns text into tokens; closed with the core.
        engine: what generates; closed with the core.
        name: what to call the model.
        config: the defaults of every stream.

    Attributes:
        prompts: makes prompts for the model.
    """

    def __init__(self, vocabulary: Vocabulary, engine: Engine, *, name: str, config: StreamConfig) -> None:
        self.vocabulary = vocabulary
        self.engine = engine
        self.name = name
        self.config = config
        self.prompts = Prompts(vocabulary, engine.max_length, name)
        self._ids = itertools.count(1)
        self._prefix = secrets.token_hex(4)
        # Prompts of async streams are made here, so that neither the event loop nor the engine does it.
        self.workers = ThreadPoolExecutor(2, thread_name_prefix="headrace-prompt")

    def new_id(self) -> str:
        """An id that no other stream has."""
        return f"{self._prefix}-{next(self._ids)}"

    def close(self) -> None:
        """End every stream as "cancelled" and free the model. Any number of times, from any thread."""
        try:
            self.engine.close()
        finally:  # also where Ctrl-C cuts the waiting short
            self.workers.shutdown(wait=False)
            self.vocabulary.close()

    def __del__(self) -> None:
        if hasattr(self, "workers") and not self.engine.is_closed:
            warnings.warn(f"the model {self.name!r} was not closed", ResourceWarning, stacklevel=1)
            self.engine.close_soon()  # whoever drops the last reference must not wait for a step


class Lane:
    """One user of a core: own defaults, own streams to cancel, own turn in the fair queue.

    Args:
        core: the model and its engine.
        defaults: the settings of its streams, as far as they have none of their own.
        system_prompt: what its chats begin with.
        turn: lanes that share one share a turn in the fair queue; None takes one of its own.

    Attributes:
        trail: the tokens of the stream of this lane that ended last.
    """

    def __init__(
        self, core: Core, defaults: StreamConfig, system_prompt: str | None = None, *, turn: Hashable = None
    ) -> None:
        self.core = core
        self.defaults = defaults
        self.system_prompt = _checked_system_prompt(system_prompt)
        self.trail = Trail()
        # Without a lock, so that a signal handler or a garbage collection may cancel in the midst of anything.
        self._streams: dict[str, weakref.ref[TokenStream | AsyncTokenStream]] = {}
        self._turn = id(self) if turn is None else turn
        self._is_closed = False

    def job(self, prompt: Prompt, config: StreamConfig | None, overrides: Mapping[str, Any]) -> Job:
        """What `generate` and its kin do: continue a text, or, where a system prompt is given, answer it as a chat."""
        settings, system_prompt = self._settings(config, overrides)
        if system_prompt is _LANES_OWN:
            system_prompt = self.system_prompt
        schema, parse = _schema_of(settings)
        prompts = self.core.prompts
        if system_prompt is None:
            given = prompt if isinstance(prompt, str) else _checked_ids(prompt)
            return Job(settings, partial(prompts.prepare, given, settings, schema), parse)
        if not isinstance(prompt, str):
            raise InvalidRequestError("system_prompt", system_prompt, "None where the prompt is given as token ids")
        check_text("prompt", prompt)
        messages = [{"role": "system", "content": system_prompt}, {"role": "user", "content": prompt}]
        return Job(settings, partial(prompts.prepare_chat, messages, settings, schema=schema), parse)

    def chat_job(self, messages: Messages, config: StreamConfig | None, overrides: Mapping[str, Any]) -> Job:
        """What `chat` and its kin do."""
        options, others = _chat_options(overrides)
        settings, system_prompt = self._settings(config, others)
        schema, parse = _schema_of(settings)
        conversation, prompts = self.conversation(messages, system_prompt), self.core.prompts

        def prepare() -> Prepared:
            return prompts.prepare_chat(conversation, settings, options(), schema)

        return Job(settings, prepare, parse)

    def rendering(self, messages: Messages, options: Mapping[str, Any]) -> tuple[list[Any], ChatOptions]:
        """What a chat of these messages is made of: the messages, and what there is besides.

        Raises:
            TypeError: an option that has no meaning for a prompt.
            InvalidRequestError: see `conversation`.
        """
        chosen, others = _chat_options(options)
        if others:
            raise TypeError(f"unknown option {next(iter(others))!r}; there are {', '.join(_CHAT_OPTIONS)}")
        return self.conversation(messages), chosen()

    def conversation(self, messages: Messages, system_prompt: object = _LANES_OWN) -> list[Any]:
        """A copy of the messages, checked, behind a system prompt where one is given or this lane has one.

        Raises:
            InvalidRequestError: messages that are none; a system prompt beside a system message.
        """
        checked = checked_messages(messages)
        if any(message["role"] == "system" for message in checked):
            if system_prompt not in (_LANES_OWN, None):
                raise InvalidRequestError(
                    "system_prompt", system_prompt, "None where the messages have a system message of their own"
                )
            return checked
        if system_prompt is _LANES_OWN:
            system_prompt = self.system_prompt
        return checked if system_prompt is None else [{"role": "system", "content": system_prompt}, *checked]

    def start(self, job: Job, *, closing_token: bool = False, observer: Observer | None = None) -> TokenStream:
        """Start a stream; errors are raised here."""
        stream = self._stream(TokenStream, job, closing_token=closing_token, observer=observer)
        stream.submit(job.prepare())
        return stream

    def start_async(
        self, job: Job, *, closing_token: bool = False, observer: Observer | None = None
    ) -> AsyncTokenStream:
        """Start a stream without blocking; errors come with its first token."""
        stream = self._stream(AsyncTokenStream, job, closing_token=closing_token, observer=observer)
        try:
            self.core.workers.submit(stream.submit_later, job.prepare)
        except RuntimeError as error:  # the pool was shut down, since the model or the interpreter is closing
            raise EngineClosedError("the model was closed; load it again") from error
        return stream

    async def open(self, job: Job, *, id: str) -> AsyncTokenStream:
        """Start a stream without blocking; errors are raised here, before there is a first token to wait for.

        Args:
            job: what to generate.
            id: name of the stream, which no live stream of this engine may have.
        """
        stream = self._stream(AsyncTokenStream, job, id=id)
        try:
            stream.submit(await asyncio.get_running_loop().run_in_executor(self.core.workers, job.prepare))
        except BaseException as error:
            await stream.aclose()
            if self.core.engine.is_closed and isinstance(error, RuntimeError):  # the pool was shut down
                self.core.engine.check_open()
            raise
        return stream

    def cancel_generation(self) -> None:
        """Cancel every stream started here, and no other."""
        for reference in list(self._streams.values()):
            stream = reference()
            if stream is not None:
                stream.cancel()

    def close(self) -> None:
        """Cancel every stream started here, and take no more. The core stays open."""
        self._is_closed = True
        self.cancel_generation()

    def _settings(self, config: StreamConfig | None, overrides: Mapping[str, Any]) -> tuple[StreamConfig, object]:
        if self._is_closed:
            raise EngineClosedError("this context was closed; make a new one")
        self.core.engine.check_open()
        changes = dict(overrides)
        system_prompt = changes.pop("system_prompt", _LANES_OWN)
        if system_prompt is not _LANES_OWN:
            system_prompt = _checked_system_prompt(system_prompt)
        return checked_config(config, self.defaults).replace(**changes), system_prompt

    def _stream(
        self,
        face: type[_Face],
        job: Job,
        *,
        id: str | None = None,
        closing_token: bool = False,
        observer: Observer | None = None,
    ) -> _Face:
        core, streams = self.core, self._streams
        id = core.new_id() if id is None else id
        stream = face(
            core.engine,
            core,
            job.config,
            id=id,
            model=core.name,
            lane=self._turn,
            closing_token=closing_token,
            parse=job.parse,
            pricing=core.config.pricing,
            observer=observer,
            trail=self.trail,
        )
        streams[id] = weakref.ref(stream, lambda _: streams.pop(id, None))
        return stream


def checked_config(config: StreamConfig | None, default: StreamConfig) -> StreamConfig:
    """The settings given, or the default; anything else is an InvalidRequestError."""
    if config is None:
        return default
    if not isinstance(config, StreamConfig):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRequestError("config", config, "a StreamConfig, or None")
    return config


def _chat_options(overrides: Mapping[str, Any]) -> tuple[Callable[[], ChatOptions], dict[str, Any]]:
    """What makes the options that only a chat has, and the other overrides.

    To describe functions takes milliseconds, so that is left to whoever makes the prompt.
    """
    others = dict(overrides)
    given = {name: others.pop(name) for name in _CHAT_OPTIONS if name in others}
    for name in ("parallel_tool_calls", "continue_final_message"):
        if type(given.get(name, False)) is not bool:
            raise InvalidRequestError(name, given[name], "True or False")
    template_kwargs = cast("object", given.get("template_kwargs"))
    if not isinstance(template_kwargs, (Mapping, NoneType)):
        raise InvalidRequestError("template_kwargs", template_kwargs, "a mapping from names to values, or None")
    for name in cast("Mapping[object, object]", template_kwargs or {}):
        if not isinstance(name, str) or name in _NOT_IN_TEMPLATE_KWARGS:
            allowed = f"names of variables, but {', '.join(_NOT_IN_TEMPLATE_KWARGS)}"
            raise InvalidRequestError("a name in template_kwargs", name, allowed)
    options = ChatOptions(
        is_parallel=given.get("parallel_tool_calls", True),
        continues=given.get("continue_final_message", False),
        template_kwargs=dict(cast("Mapping[str, Any]", template_kwargs or {})),
    )
    tools, choice = given.get("tools"), given.get("tool_choice")
    if tools is None and choice is None:
        return lambda: options, others
    if isinstance(tools, list):  # what becomes of the caller's list changes nothing
        tools = list(cast("list[object]", tools))
    return partial(_with_tools, options, tools, choice), others


def _with_tools(options: ChatOptions, given: object, choice: object) -> ChatOptions:
    from headrace.chat.toolbox import tool_choice_of, tools_of

    tools = tools_of(given)
    chosen = tool_choice_of(choice, tools)
    return dataclasses.replace(options, tools=tools, choice=chosen.mode, named=chosen.name)


def _schema_of(config: StreamConfig) -> tuple[object, Callable[[str], object] | None]:
    """The JSON schema that the output has to fit, and what makes an object of it."""
    if config.json_schema is None:
        return None, None
    from headrace.structured.schema import Schema

    schema = Schema.of("json_schema", config.json_schema)
    return schema.json, schema.parse


def load_core(
    ref: str | os.PathLike[str],
    *,
    n_ctx: int | None,
    kv_type: KVType,
    n_threads: int | None,
    n_gpu_layers: int,
    max_streams: int,
    max_queue: int,
    step_target_ms: float,
    prefix_cache_mb: float,
    draft: str | os.PathLike[str] | None,
    config: StreamConfig | None,
    pricing: Pricing | None,
    progress: Callable[[float], None] | None,
) -> Core:
    """Find a model, load it, and start its engine; see `Model.load`."""
    # libllama is only loaded where a model is: importing headrace stays cheap.
    from headrace.engine.llama_runner import LlamaRunner
    from headrace.engine.speculation.draft_model import DraftModel
    from headrace.llama.context import LlamaContext
    from headrace.llama.library import library
    from headrace.llama.model import LlamaModel
    from headrace.store import resolve

    max_streams = as_int("max_streams", max_streams, 1, 128)
    max_queue = as_int("max_queue", max_queue, 0)
    if n_ctx is not None:
        n_ctx = as_int("n_ctx", n_ctx, 1)
        if n_ctx < max_streams:
            raise InvalidRequestError("n_ctx", n_ctx, f"at least max_streams, which is {max_streams}")
    checked_kv_type(kv_type)
    if n_threads is not None:
        n_threads = as_int("n_threads", n_threads, 1, 512)
    n_gpu_layers = as_int("n_gpu_layers", n_gpu_layers, -1)
    if n_gpu_layers and not library().bulk.llama_supports_gpu_offload():
        raise InvalidRequestError("n_gpu_layers", n_gpu_layers, "0; this llama.cpp was built without support for a GPU")
    step_target_ms = as_float("step_target_ms", step_target_ms, 1, 60_000)
    prefix_cache_mb = as_float("prefix_cache_mb", prefix_cache_mb, 0, 1e6)
    defaults = checked_config(config, StreamConfig())
    if pricing is not None:
        defaults = defaults.replace(pricing=pricing)
    found = resolve(ref)
    model = LlamaModel.load(found.path, n_gpu_layers=n_gpu_layers, progress=progress)
    most_threads = n_threads or available_cores()
    try:
        budget = n_ctx if n_ctx is not None else _default_n_ctx(model.n_ctx_train, model.kv_bytes_per_token(kv_type))
        context = LlamaContext(
            model,
            n_ctx=budget,
            n_batch=min(512, max(budget, max_streams)),
            # Besides those of streams, rows for cached prefixes, and the runner's own. Each row takes a row of logits,
            # for Gemma a megabyte.
            n_seq_max=min(256, max_streams + 17),
            n_threads=most_threads,
            kv_type=kv_type,
        )
        runner = None
        try:
            counts = (most_threads,) if n_gpu_layers else thread_counts(most_threads)
            runner = LlamaRunner(model, context, num_cells=budget, thread_counts=counts)
            if draft is not None:
                path = resolve(draft).path
                runner.drafter = DraftModel.load(
                    path, model, context, n_gpu_layers=n_gpu_layers, num_rows=max_streams, n_threads=most_threads
                )
            engine = Engine(
                runner,
                max_streams=max_streams,
                max_queue=max_queue,
                step_target_ms=step_target_ms,
                prefix_cache_mb=prefix_cache_mb,
                costs=_cost_file(model, most_threads, kv_type),
            )
        except BaseException:
            context.close()
            if runner is not None and runner.drafter is not None:
                runner.drafter.close()
            raise
    except BaseException:
        model.close()
        raise
    return Core(model, engine, name=found.name, config=defaults)


def _cost_file(model: LlamaModel, n_threads: int, kv_type: KVType) -> CostFile | None:
    """Where it is kept what this model's steps cost on this machine; None without a folder for such things."""
    from headrace.llama.library import library_version
    from headrace.store.places import cache_folder

    try:
        folder, stat = cache_folder(), model.path.stat()
    except (ModelNotFoundError, OSError):
        return None
    parts = (
        *(model.path.name, stat.st_size, stat.st_mtime_ns, model.description, model.n_gpu_layers, n_threads),
        *(processor(), library_version(), kv_type),
    )
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()
    return CostFile(folder / "costs" / f"{digest[:32]}.json")


def _default_n_ctx(trained: int, kv_bytes_per_token: int) -> int:
    """What the model was trained with, if half of the free memory holds it."""
    try:
        pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                pages = int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return trained
    fitting = int(pages * _KV_SHARE) // max(1, kv_bytes_per_token)
    return max(256, min(trained, fitting))


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
