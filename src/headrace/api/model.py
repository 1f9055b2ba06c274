"""`Model` and `AsyncModel`: a loaded model, for threads and for asyncio tasks. Both wrap one `Core`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from headrace.api.caller import Caller
from headrace.api.core import Core
from headrace.api.loading import load_core
from headrace.api.methods import AsyncMethods, SyncMethods
from headrace.llama.kv_types import KVType
from headrace.values.config import StreamConfig
from headrace.values.errors import InvalidRequestError
from headrace.values.pricing import Pricing

__all__ = ["AsyncModel", "Model", "core_of"]


class Model(SyncMethods):
    """A loaded model and its engine, which runs many streams at once. Close it, or use it in a `with`."""

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
            n_ctx: size of the KV cache in tokens, shared by all streams; None takes the context that the model was
                trained with, but no more than fits into half of the free memory.
            kv_type: precision of the KV cache: "f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1" or "q4_0". "q8_0"
                takes about half of the memory of "f16", and "q4_0" about a quarter, but steps take longer, and answers
                are less exact.
            n_threads: compute threads at most; None takes the cores that this process may use. Each step runs with the
                fastest number of threads for it, unless it has to be repeatable (`StreamConfig.seed`).
            n_gpu_layers: layers to put on a GPU; -1 for all.
            max_streams: streams that decode at the same time at most; more wait.
            max_queue: streams that may wait at most; more are refused with QueueFullError.
            step_target_ms: target duration of a step with prefill, in milliseconds: how long the prompt of one stream
                may delay the tokens of the others. If their decode alone takes more than a third of the target, the
                step may take three times as long as the decode; a prompt that runs alone, three to four targets.
            prefix_cache_mb: main memory for offloaded KV of prompts and answers that no stream is using, in millions
                of bytes. Offloaded KV need not be computed again, and takes no cells of `n_ctx`. 0 for none.
            draft: a smaller model with the same vocabulary, as a path or a name. It guesses tokens, and this model
                verifies several of them in one step where that is faster; see `StreamConfig.speculation`.
            config: the defaults of every stream.
            pricing: prices of tokens, for streams whose settings have none.
            progress: called with 0.0 to 1.0 while the file is read.

        Raises:
            ModelNotFoundError: no such file or name, of the model or of `draft`.
            ModelLoadError: the file is no model that can run here.
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
        """Return an AsyncModel on the same engine. Closing either closes both; each cancels only its own streams."""
        return AsyncModel(self._core)

    def close(self) -> None:
        """End every stream as "cancelled", and free the model. May be called again."""
        self._core.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncModel(AsyncMethods):
    """A loaded model and its engine, for asyncio tasks: no method blocks the event loop. See `Model`."""

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
            # A load cannot be stopped midway, so the model is closed once it is loaded.
            loading.add_done_callback(_close_when_loaded)
            raise

    def as_sync(self) -> Model:
        """Return a Model on the same engine. Closing either closes both; each cancels only its own streams."""
        return Model(self._core)

    async def close(self) -> None:
        """End every stream as "cancelled", and free the model. May be called again."""
        await asyncio.to_thread(self._core.close)

    async def __aenter__(self) -> AsyncModel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def core_of(model: object) -> Core:
    """Return the `Core` of a Model or an AsyncModel.

    Raises:
        InvalidRequestError: it is neither.
    """
    if not isinstance(model, (Model, AsyncModel)):
        raise InvalidRequestError("model", model, "a Model or an AsyncModel")
    return model._core  # pyright: ignore[reportPrivateUsage]


def _close_when_loaded(loading: asyncio.Future[Core]) -> None:
    if not loading.cancelled() and loading.exception() is None:
        loading.result().close()
