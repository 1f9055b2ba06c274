"""Tokens per second of `generate_stream` against a bare decode loop over the same C API, in one interleaved run.

    python bench/decode.py [--models smollm2 gemma3-270m] [--streams 1 4 8 16] [--tokens 96] [--rounds 5]

The bare loop does the least that any Python program over llama.cpp must do: it fills the batch, decodes, and takes
numpy's argmax of the rows. It runs in a process of its own, with the same weights, context settings and number of
threads. Machines drift, so the two take turns. The ratio that is printed is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import numpy as np

from headrace import Model
from headrace.engine.tuning.cores import available_cores
from headrace.llama.context import LlamaContext
from headrace.llama.model import LlamaModel
from headrace.store import resolve

N_CTX = 8192
PROMPT_TOKENS = 16
# Prompts are read one after another, so the first streams start earlier than the last. This many further tokens keep
# all of them running while they are measured.
HEAD_START = 32


def run_bare(ref: str, most: int, threads: int, pipe: Connection) -> None:
    """Run the bare loop as a process: answer each (prompts, tokens) with the tokens per second, until None comes.

    Two engines in one process would slow each other down: see `LlamaRunner.warm_up`.
    """
    model = LlamaModel.load(resolve(ref).path)
    context = LlamaContext(model, n_ctx=N_CTX, n_batch=512, n_seq_max=2 * most + 16, n_threads=threads)
    with model, context:
        while (task := pipe.recv()) is not None:
            pipe.send(decode_bare(context, *task))


def decode_bare(context: LlamaContext, prompts: list[list[int]], tokens: int) -> float:
    """Decode n sequences greedily; return the tokens per second of all together, without prefill."""
    n = len(prompts)
    context.clear()
    last = [prefill_bare(context, row, prompt) for row, prompt in enumerate(prompts)]
    rows = np.arange(n)
    begin = time.perf_counter()
    for step in range(tokens):
        context.tokens[:n] = last
        context.positions[:n] = PROMPT_TOKENS + step
        context.sequences[:n] = rows
        context.outputs[:n] = 1
        last = context.decode(n, n).argmax(axis=1).tolist()
    return n * tokens / (time.perf_counter() - begin)


def prefill_bare(context: LlamaContext, row: int, prompt: list[int]) -> int:
    n = len(prompt)
    context.tokens[:n] = prompt
    context.positions[:n] = range(n)
    context.sequences[:n] = row
    context.outputs[:n] = 0
    context.outputs[n - 1] = 1
    return int(context.decode(n, 1)[0].argmax())


def run_headrace(model: Model, prompts: list[list[int]], tokens: int) -> float:
    """Return the tokens per second that the readers, a thread for each, saw while all streams were running."""
    model._core.engine.clear_cache()  # the bare loop starts with an empty cache, too
    arrivals: list[list[float]] = [[] for _ in prompts]

    def read(prompt: list[int], times: list[float]) -> None:
        settings = {
            "max_tokens": tokens + HEAD_START,
            "temperature": 0,
            "ignore_eos": True,
            "timeout_ms": 0,
            "speculation": "off",
        }
        stream = model.generate_stream(prompt, **settings)
        times.extend(time.perf_counter() for _ in stream)

    readers = [threading.Thread(target=read, args=pair) for pair in zip(prompts, arrivals, strict=True)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    begin = max(times[0] for times in arrivals)
    end = min(times[-1] for times in arrivals)
    return sum(begin < at <= end for times in arrivals for at in times) / (end - begin)


@contextmanager
def both(ref: str, most: int, threads: int) -> Iterator[tuple[Connection, Model]]:
    spawn = multiprocessing.get_context("spawn")
    pipe, far_end = spawn.Pipe()
    bare = spawn.Process(target=run_bare, args=(ref, most, threads, far_end), daemon=True)
    bare.start()
    with Model.load(ref, n_ctx=N_CTX, n_threads=threads, max_streams=most) as model:
        yield pipe, model
    pipe.send(None)
    bare.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["smollm2", "gemma3-270m"])
    parser.add_argument("--streams", nargs="+", type=int, default=[1, 4, 8, 16])
    parser.add_argument("--tokens", type=int, default=96, help="tokens per stream")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=available_cores())
    options = parser.parse_args()
    random = np.random.default_rng(7)
    for ref in options.models:
        print(f"\n{ref}, {options.threads} threads, {options.tokens} tokens a stream, {options.rounds} rounds")
        print(f"{'streams':>8}{'bare tok/s':>12}{'headrace':>10}{'ratio':>8}{'(min to max)':>16}{'ms outside':>12}")
        overheads: dict[int, float] = {}
        with both(ref, max(options.streams), options.threads) as (bare, model):
            for n in options.streams:
                bares: list[float] = []
                ours: list[float] = []
                for _ in range(options.rounds):
                    # New prompts each time, so that the prefix cache saves nothing.
                    prompts = random.integers(1000, 40000, (n, PROMPT_TOKENS)).tolist()
                    bare.send((prompts, options.tokens))
                    bares.append(bare.recv())
                    ours.append(run_headrace(model, prompts, options.tokens))
                ratios = sorted(ours[i] / bares[i] for i in range(options.rounds))
                overheads[n] = model.metrics.overhead_ms
                spread = f"{ratios[0]:.3f} to {ratios[-1]:.3f}"
                print(
                    f"{n:>8}{statistics.median(bares):>12.1f}{statistics.median(ours):>10.1f}"
                    f"{statistics.median(ratios):>8.3f}{spread:>16}{overheads[n]:>12.3f}",
                    flush=True,
                )
        low, high = min(overheads), max(overheads)
        if high > low:
            per_token = (overheads[high] - overheads[low]) / (high - low) * 1000
            print(f"overhead: {overheads[low]:.3f} ms a step with {low}, {per_token:.1f} µs per further token")


if __name__ == "__main__":
    main()
