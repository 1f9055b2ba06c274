"""Models and contexts, as users hold them: a face for threads and one for tasks, over the same core."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from headrace.api.caller import Caller
from headrace.api.calls import AsyncCalls, Calls, SyncCalls
from headrace.api.core import Core
from headrace.api.loading import load_core
from headrace.llama.kv_types import KVType
from headrace.values.config import StreamConfig, checked_config
from headrace.values.errors import InvalidRequestError
from headrace.values.pricing import Pricing

if TYPE_CHECKING:
    from headrace.api.sessions import Session

__all__ = ["AnyModel", "AsyncModel", "Context", "Model", "caller_of", "core_of"]


_Context = TypeVar("_Context", "Context", "_AsyncContext")


class Model(SyncCalls):
    """A loaded model with an engine that runs many streams at once; close it, or use it in a `with`."""

    def __init__(self, core: Core) -> None:
        super().__init__(core, Caller(core, core.config))

    @classmethod
    def load(
        cls,
        ref: str | os.PathLike[str],
        *,
        n_ctx: int | None = None,
        kv_type: KVType = "f16",
        n_threads: int | None = None,
        n_gpu_layers: int = 0,
        max_streams: int = 16,
        max_queue: int = 64,
        step_target_ms: float = 150.0,
        prefix_cache_mb: float = 256,
        draft: str | os.PathLike[str] | None = None,
        config: StreamConfig | None = None,
        pricing: Pricing | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Model:
        """Load a model and start its engine.

        Args:
            ref: path of a `.gguf` file, or a name that the model store knows (`smollm2`).
            n_ctx: KV budget in tokens, shared by all streams; None takes what the model was trained with, as far as
                half of the free memory holds it.
            kv_type: the precision of keys and values: "f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1" or "q4_0".
                "q8_0" takes about half of the memory of "f16", "q4_0" about a quarter, for a step that takes longer
                and an answer that is less exact.
            n_threads: compute threads at most; None takes the cores this process may use. Each step has as many of
                them as are fastest for it, unless it shall be repeatable (`StreamConfig.seed`).
            n_gpu_layers: layers to put on a GPU; -1 for all.
            max_streams: streams that decode together at most; more wait.
            max_queue: streams that may wait at most; more are refused with QueueFullError.
            step_target_ms: what a step should take at most while a prompt is read, in milliseconds: how long running
                streams may stand still for somebody else's prompt. Where their own tokens take more than a third of
                it, a step may take three times as long as these; a prompt alone, three to four times the target.
            prefix_cache_mb: main memory for copies of the KV of prompts and answers that nobody is using, in millions
                of bytes: what is in it need not be computed again, and takes no place in `n_ctx`. 0 for none.
            draft: a smaller model with the same vocabulary, as a path or a name: it guesses tokens that this one then
                verifies several at a time, where that is faster; see `StreamConfig.speculation`.
            config: the defaults of every stream.
            pricing: what tokens cost, where a stream's settings do not say.
            progress: called with 0.0 to 1.0 while the file is read.

        Raises:
            ModelNotFoundError: no such file or name, also of `draft`.
            ModelLoadError: the file is no model that can be run here.
            InvalidRequestError: a setting out of its range; a draft model with another vocabulary.
        """
        return cls(
            load_core(
                ref,
                n_ctx=n_ctx,
                kv_type=kv_type,
                n_threads=n_threads,
                n_gpu_layers=n_gpu_layers,
                max_streams=max_streams,
                max_queue=max_queue,
                step_target_ms=step_target_ms,
                prefix_cache_mb=prefix_cache_mb,
                draft=draft,
                config=config,
                pricing=pricing,
                progress=progress,
            )
        )

    def as_async(self) -> AsyncModel:
        """The face for tasks, of the same engine; closing either closes both. It has streams of its own to cancel."""
        return AsyncModel(self._core)

    def close(self) -> None:
        """End every stream as "cancelled", and free the model. Any number of times."""
        self._core.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncModel(AsyncCalls):
    """The same for tasks: nothing here blocks the event loop."""

    def __init__(self, core: Core) -> None:
        super().__init__(core, Caller(core, core.config))

    @classmethod
    async def load(
        cls,
        ref: str | os.PathLike[str],
        *,
        n_ctx: int | None = None,
        kv_type: KVType = "f16",
        n_threads: int | None = None,
        n_gpu_layers: int = 0,
        max_streams: int = 16,
        max_queue: int = 64,
        step_target_ms: float = 150.0,
        prefix_cache_mb: float = 256,
        draft: str | os.PathLike[str] | None = None,
        config: StreamConfig | None = None,
        pricing: Pricing | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> AsyncModel:
        """Load a model off the event loop; see `Model.load`. `progress` is called from another thread."""
        loading = asyncio.ensure_future(
            asyncio.to_thread(
                load_core,
                ref,
                n_ctx=n_ctx,
                kv_type=kv_type,
                n_threads=n_threads,
                n_gpu_layers=n_gpu_layers,
                max_streams=max_streams,
                max_queue=max_queue,
                step_target_ms=step_target_ms,
                prefix_cache_mb=prefix_cache_mb,
                draft=draft,
                config=config,
                pricing=pricing,
                progress=progress,
            )
        )
        try:
            return cls(await asyncio.shield(loading))
        except asyncio.CancelledError:
            # A load cannot be stopped midway; what it brings is closed when it comes.
            loading.add_done_callback(_close_when_loaded)
            raise

    def as_sync(self) -> Model:
        """The face for threads, of the same engine; closing either closes both. It has streams of its own to cancel."""
        return Model(self._core)

    async def close(self) -> None:
        """End every stream as "cancelled", and free the model. Any number of times."""
        await asyncio.to_thread(self._core.close)

    async def __aenter__(self) -> AsyncModel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Context(SyncCalls):
    """A caller on a loaded model: own defaults, own `cancel_generation()`, own turn in the queue, own `close()`.

    Many contexts share one engine, so they run at once; none owns the model. On an `AsyncModel` it has that one's
    face: its calls are awaited, its streams iterated with `async for`.

    Args:
        model: a `Model` or an `AsyncModel`.
        config: the defaults of its streams; None takes the model's.
        defaults: fields of StreamConfig, and `system_prompt`.
    """

    @overload
    def __new__(cls, model: Model, config: StreamConfig | None = None, **defaults: Any) -> Context: ...
    @overload
    def __new__(cls, model: AsyncModel, config: StreamConfig | None = None, **defaults: Any) -> _AsyncContext: ...
    def __new__(
        cls, model: Model | AsyncModel, config: StreamConfig | None = None, **defaults: Any
    ) -> Context | _AsyncContext:
        if isinstance(model, AsyncModel):
            return _AsyncContext(model, config, **defaults)
        return super().__new__(cls)

    _session: Session | None = None

    def __init__(self, model: Model | AsyncModel, config: StreamConfig | None = None, **defaults: Any) -> None:
        super().__init__(*_context_parts(model, config, defaults))

    @overload
    @classmethod
    def load(
        cls, model: Model, path: str | os.PathLike[str], config: StreamConfig | None = None, **defaults: Any
    ) -> Context: ...
    @overload
    @classmethod
    def load(
        cls, model: AsyncModel, path: str | os.PathLike[str], config: StreamConfig | None = None, **defaults: Any
    ) -> Awaitable[_AsyncContext]: ...
    @classmethod
    def load(
        cls,
        model: Model | AsyncModel,
        path: str | os.PathLike[str],
        config: StreamConfig | None = None,
        **defaults: Any,
    ) -> Context | Awaitable[_AsyncContext]:
        """A context as `save` left it, with its settings, its system prompt, and the KV of its last stream.

        The KV becomes a cached prefix of the model's memory: a prompt that begins with the tokens of `session` does not
        compute them again, in this context or any other. On an `AsyncModel` this is awaited.

        Args:
            model: the same model as then, in the same kv_type.
            path: the file.
            config: the defaults of its streams; None takes those that were saved.
            defaults: as for a new context; they go before what was saved.

        Raises:
            InvalidRequestError: the file cannot be read, is damaged, or is of another model or kv_type; a setting out
                of its range.
            EngineClosedError: the model was closed.
        """
        if isinstance(model, AsyncModel):
            return _AsyncContext.load(model, path, config, **defaults)
        return _load_context(cls, model, path, config, defaults)

    @property
    def session(self) -> Session | None:
        """What this context was loaded from; None for one that was not."""
        return self._session

    def save(self, path: str | os.PathLike[str]) -> Session:
        """Write the tokens of the stream of this context that ended last, and their KV, to a file.

        It is written as a whole or not at all, for its owner's eyes only. Running streams go on meanwhile.

        Args:
            path: the file; one that is there is replaced.

        Raises:
            InvalidRequestError: no stream of this context has ended yet; the file cannot be written.
            EngineClosedError: the model was closed.
        """
        return _save_context(self._caller, path)

    def fork(self) -> Context:
        """Another context with the same settings and the same session, which it shares, on the same model."""
        return _forked(self)

    def close(self) -> None:
        """Cancel its streams, and take no more; the model stays open."""
        self._caller.close()

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _AsyncContext(AsyncCalls):
    """A context on an AsyncModel."""

    _session: Session | None = None

    def __init__(self, model: AsyncModel, config: StreamConfig | None = None, **defaults: Any) -> None:
        super().__init__(*_context_parts(model, config, defaults))

    @property
    def session(self) -> Session | None:
        """What this context was loaded from; None for one that was not."""
        return self._session

    @classmethod
    async def load(
        cls, model: AsyncModel, path: str | os.PathLike[str], config: StreamConfig | None = None, **defaults: Any
    ) -> _AsyncContext:
        """A context as `save` left it; see `Context.load`."""
        return await asyncio.to_thread(_load_context, cls, model, path, config, defaults)

    async def save(self, path: str | os.PathLike[str]) -> Session:
        """Write the tokens of the last stream, and their KV, to a file; see `Context.save`."""
        return await asyncio.to_thread(_save_context, self._caller, path)

    def fork(self) -> _AsyncContext:
        """Another context with the same settings and the same session, on the same model."""
        return _forked(self)

    async def close(self) -> None:
        """Cancel its streams, and take no more; the model stays open."""
        self._caller.close()

    async def __aenter__(self) -> _AsyncContext:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


AnyModel = Model | AsyncModel | Context | _AsyncContext


def core_of(model: object) -> Core:
    """What is under either face.

    Raises:
        InvalidRequestError: it is neither.
    """
    if not isinstance(model, (Model, AsyncModel)):
        raise InvalidRequestError("model", model, "a Model or an AsyncModel")
    return model._core  # pyright: ignore[reportPrivateUsage]


def caller_of(model: object) -> Caller:
    """What the streams of a model or a context are started on.

    Raises:
        InvalidRequestError: it is neither.
    """
    if not isinstance(model, Calls):
        raise InvalidRequestError("model", model, "a Model, an AsyncModel or a Context")
    return model._caller  # pyright: ignore[reportPrivateUsage]


def _close_when_loaded(loading: asyncio.Future[Core]) -> None:
    if not loading.cancelled() and loading.exception() is None:
        loading.result().close()


def _context_parts(model: object, config: StreamConfig | None, defaults: dict[str, Any]) -> tuple[Core, Caller]:
    core = core_of(model)
    system_prompt = defaults.pop("system_prompt", None)
    return core, Caller(core, checked_config(config, core.config).replace(**defaults), system_prompt)


def _save_context(caller: Caller, path: str | os.PathLike[str]) -> Session:
    from headrace.api.sessions import save_session

    tokens = caller.last_tokens.tokens
    if not tokens:
        message = "no stream of this context has ended yet, so there is nothing to save"
        raise InvalidRequestError("context", None, "a context on which a stream has ended", message)
    return save_session(caller, path, tokens, None)


def _load_context(
    made: type[_Context],
    model: Any,
    path: str | os.PathLike[str],
    config: StreamConfig | None,
    defaults: dict[str, Any],
) -> _Context:
    from headrace.api.sessions import load_session, saved_config

    core = core_of(model)
    session, header = load_session(core, path)
    given = {"system_prompt": header["system_prompt"], **defaults}
    context = made(model, config or saved_config(core, session, header), **given)
    context._session = session  # pyright: ignore[reportPrivateUsage]
    context._caller.last_tokens.tokens = session.tokens  # pyright: ignore[reportPrivateUsage]
    return context


def _forked(context: _Context) -> _Context:
    fork = object.__new__(type(context))
    caller = context._caller  # pyright: ignore[reportPrivateUsage]
    Calls.__init__(fork, caller.core, Caller(caller.core, caller.defaults, caller.system_prompt))
    fork._session = context._session  # pyright: ignore[reportPrivateUsage]
    fork._caller.last_tokens.tokens = caller.last_tokens.tokens  # pyright: ignore[reportPrivateUsage]
    return fork
