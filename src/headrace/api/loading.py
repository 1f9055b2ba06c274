"""`load_core`: loads a model by name or path into a `Core`, with a context size and threads that fit this machine."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.api.core import Core
from headrace.engine.loop import Engine
from headrace.engine.tuning.calibration import CostFile
from headrace.engine.tuning.cores import available_cores, processor, thread_counts
from headrace.llama.kv_types import KVType, checked_kv_type
from headrace.values.checks import as_float, as_int
from headrace.values.config import StreamConfig, checked_config
from headrace.values.errors import InvalidRequestError, ModelNotFoundError
from headrace.values.pricing import Pricing

if TYPE_CHECKING:
    from headrace.llama.model import LlamaModel

__all__ = ["load_core"]

# The default of n_ctx takes at most this share of the free memory.
_KV_SHARE = 0.5


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
    # Imported here, so that `import headrace` does not load libllama.
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
            # Sequence ids for the streams, for cached prefixes and for the runner itself. Each takes memory for a row
            # of logits: for Gemma a megabyte.
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
    """The file that keeps the measured step times of this model on this machine; None without a cache folder."""
    from headrace.llama.library import library_version
    from headrace.store.folders import cache_folder

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
    """The context size that the model was trained with, or as much of it as half of the free memory holds."""
    try:
        num_bytes = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                num_bytes = int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return trained
    fitting = int(num_bytes * _KV_SHARE) // max(1, kv_bytes_per_token)
    return max(256, min(trained, fitting))
