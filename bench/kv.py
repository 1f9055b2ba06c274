"""The cost of a decode step with unified and with separate KV, in several precisions, and beside cached prefixes.

    python bench/kv.py [--models smollm2 gemma3-270m] [--loads 16x500 16x100 1x4000 8x100+6000] [--types f16 q8_0]
                       [--steps 32] [--rounds 5] [--json]

A load `8x100+6000` is 8 streams with 100 tokens each, beside cached prefixes in 6000 further cells. A bare loop over
the C API decodes one token of each stream a step. Unified KV is one pool of cells for all sequences; separate KV gives
each sequence a part of its own. The layouts and the precisions take turns.

Printed are milliseconds a step, the median of the rounds with the least and the most: on the clock (wall), and the
processor time of all threads (CPU), which a busy machine disturbs less. The ratio of separate to unified is the median
of the rounds' ratios. Cached prefixes are measured with unified KV only: with separate KV a step does not look at them.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import time
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np

from headrace.engine.tuning.cores import available_cores
from headrace.llama.context import LlamaContext
from headrace.llama.model import LlamaModel
from headrace.store import resolve

N_BATCH = 512
CACHED_LENGTH = 1000  # tokens of each cached prefix


class Load(NamedTuple):
    streams: int
    length: int
    cached: int

    @classmethod
    def parse(cls, text: str) -> Load:
        streams, _, rest = text.partition("x")
        length, _, cached = rest.partition("+")
        return cls(int(streams), int(length), int(cached or 0))

    def __str__(self) -> str:
        return f"{self.streams}x{self.length}" + (f"+{self.cached}" if self.cached else "")


def prepared(model: LlamaModel, load: Load, steps: int, kv_type: str, unified: bool, threads: int) -> LlamaContext:
    """Make a context, and fill it with the streams' tokens and the cached prefixes."""
    num_cached = -(-load.cached // CACHED_LENGTH)
    num_rows = load.streams + num_cached
    longest = max(load.length + steps, CACHED_LENGTH if load.cached else 0)
    context = LlamaContext(
        model,
        n_ctx=num_rows * (-(-longest // 256) * 256),  # separate KV divides it evenly
        n_batch=N_BATCH,
        n_seq_max=num_rows,
        n_threads=threads,
        kv_type=kv_type,
        kv_unified=unified,
    )
    fill(context, range(load.streams, num_rows), CACHED_LENGTH)  # first, so that the streams lie behind them
    fill(context, range(load.streams), load.length)
    return context


def fill(context: LlamaContext, rows: range, length: int) -> None:
    """Compute one sequence, and copy its cells to the others: the tokens do not matter for the time."""
    if not rows:
        return
    tokens = np.random.default_rng(7).integers(1000, 40000, length)
    for start in range(0, length, N_BATCH):
        part = tokens[start : start + N_BATCH]
        n = len(part)
        context.tokens[:n] = part
        context.positions[:n] = range(start, start + n)
        context.sequences[:n] = rows[0]
        context.outputs[:n] = 0
        context.outputs[n - 1] = 1
        context.decode(n, 1)
    bulk, handle = context._library.bulk, context._open()
    size: int = bulk.llama_state_seq_get_size(handle, rows[0])
    state = (ctypes.c_uint8 * size)()
    bulk.llama_state_seq_get_data(handle, state, size, rows[0])
    for row in rows[1:]:
        if bulk.llama_state_seq_set_data(handle, state, size, row) != size:
            raise SystemExit(f"there is no room for sequence {row}")


def decode(context: LlamaContext, load: Load, steps: int) -> tuple[float, float]:
    """Decode; return the milliseconds a step, on the clock and as processor time of all threads."""
    n = load.streams
    context.sequences[:n] = range(n)
    context.outputs[:n] = 1
    context.tokens[:n] = range(1000, 1000 + n)
    begin, cpu = time.perf_counter(), time.process_time()
    for step in range(steps):
        context.positions[:n] = load.length + step
        context.tokens[:n] = context.decode(n, n).argmax(axis=1)
    wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
    for row in range(n):
        context.remove_sequence(row, load.length)
    return wall / steps * 1000, cpu / steps * 1000


def measure(model: LlamaModel, load: Load, options: argparse.Namespace) -> list[dict[str, object]]:
    """Measure one load with every layout and precision in turn."""
    layouts = [True] if load.cached else [True, False]
    with ExitStack() as stack:
        contexts = {
            (kv_type, unified): stack.enter_context(
                prepared(model, load, options.steps, kv_type, unified, options.threads)
            )
            for kv_type in options.types
            for unified in layouts
        }
        times: dict[tuple[str, bool], list[tuple[float, float]]] = {key: [] for key in contexts}
        for context in contexts.values():
            decode(context, load, 4)
        for _ in range(options.rounds):
            for key, context in contexts.items():
                times[key].append(decode(context, load, options.steps))
    results: list[dict[str, object]] = []
    for (kv_type, unified), pairs in times.items():
        wall, cpu = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        result = {"load": str(load), "kv_type": kv_type, "kv": "unified" if unified else "separate"}
        result |= {"wall_ms": wall, "cpu_ms": cpu}
        if not unified:
            base = times[kv_type, True]
            result["wall_ratio"] = statistics.median(ours / other[0] for ours, other in zip(wall, base, strict=True))
            result["cpu_ratio"] = statistics.median(ours / other[1] for ours, other in zip(cpu, base, strict=True))
        results.append(result)
    return results


def line(result: dict[str, object]) -> str:
    text = f"{result['load']:>12}{result['kv_type']:>7}{result['kv']:>10}"
    for name in ("wall_ms", "cpu_ms"):
        values: list[float] = result[name]  # pyright: ignore[reportAssignmentType]
        text += f"{statistics.median(values):>9.2f}{f'({min(values):.2f} to {max(values):.2f})':>21}"
    return text + (f"{result['wall_ratio']:>9.3f}{result['cpu_ratio']:>8.3f}" if "wall_ratio" in result else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["smollm2", "gemma3-270m"])
    loads = ["16x500", "16x100", "1x4000", "1x100", "8x100", *(f"{n}x100+6000" for n in (1, 8, 16))]
    parser.add_argument("--loads", nargs="+", type=Load.parse, default=[Load.parse(load) for load in loads])
    parser.add_argument("--types", nargs="+", default=["f16", "q8_0"])
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for ref in options.models:
        if not options.json:
            print(f"\n{ref}, {options.threads} threads, {options.steps} steps, {options.rounds} rounds; ms a step")
            print(
                f"{'streams':>12}{'type':>7}{'KV':>10}{'wall':>9}{'':>21}{'CPU':>9}{'':>21}{'separate / unified':>17}"
            )
        with LlamaModel.load(resolve(ref).path) as model:
            for load in options.loads:
                for result in measure(model, load, options):
                    print(json.dumps({"model": ref, **result}) if options.json else line(result), flush=True)


if __name__ == "__main__":
    main()
