"""Resident memory besides the weights and the KV cache, with many streams, and its growth over many requests.

    python bench/memory.py [--models smollm2 gemma3-270m] [--streams 16] [--requests 10000] [--json]

Resident memory is read from /proc/self/smaps_rollup (Linux only). `file` is mapped from files: the weights and the code
of libraries. `anonymous` is everything else. `offloaded` is the KV of prefixes that were offloaded from the KV cache.
`beside` is the total without `offloaded`, the KV cache and the weights in the file; it includes copies of weights that
llama.cpp repacked for the processor. Then requests of one token, a few at a time, with different prompts, must leave
`beside` as it was.
"""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from headrace import Model
from headrace.engine.tuning.cores import available_cores

MEBIBYTE = 2**20


def resident() -> dict[str, float]:
    """Return the resident memory of this process, in MiB."""
    found: dict[str, float] = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in ("Rss", "Anonymous", "Private_Dirty"):
            found[name] = int(rest.split()[0]) / 1024
    return {"total": found["Rss"], "anonymous": found["Anonymous"], "file": found["Rss"] - found["Anonymous"]}


def measure(ref: str, options: argparse.Namespace) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield each stage with the memory that was resident then."""
    yield "imported", resident()
    settings = {"temperature": 0, "timeout_ms": 0, "ignore_eos": True}
    with Model.load(ref, n_ctx=options.n_ctx, n_threads=options.threads, max_streams=options.streams) as model:
        loaded = model._core.vocabulary
        kv = options.n_ctx * loaded.kv_bytes_per_token() / MEBIBYTE  # pyright: ignore
        weights = loaded.size_bytes / MEBIBYTE  # pyright: ignore
        yield "loaded", resident()
        random = np.random.default_rng(7)

        def prompts(count: int, length: int) -> list[list[int]]:
            return random.integers(1000, 40000, (count, length)).tolist()

        def held() -> dict[str, float]:
            gc.collect()
            offloaded = model._core.engine.with_cache(lambda cache: cache.num_bytes_offloaded)  # pyright: ignore
            found = {**resident(), "offloaded": offloaded / MEBIBYTE}
            return {**found, "beside": found["total"] - kv - weights - found["offloaded"]}

        def run(prompt: list[int], max_tokens: int = 1) -> None:
            model.generate(prompt, max_tokens=max_tokens, **settings)

        with ThreadPoolExecutor(options.streams) as readers:
            # Fills the whole KV cache, so that all of it is resident.
            long = max(1, options.n_ctx // options.streams - 40)
            list(readers.map(lambda prompt: run(prompt, 32), prompts(options.streams, long)))
            yield f"{options.streams} streams", held()
            for done in range(0, options.requests, max(1, options.requests // 10)):
                list(readers.map(run, prompts(max(1, options.requests // 10), 8)))
                yield f"{done + options.requests // 10} requests", held()
    gc.collect()
    yield "closed", resident()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["smollm2"])
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--n-ctx", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for ref in options.models:
        if not options.json:
            print(f"\n{ref}, {options.streams} streams, {options.n_ctx} tokens of context, in MiB")
            print(f"{'':>18}{'total':>10}{'anonymous':>11}{'file':>9}{'offloaded':>12}{'beside weights and KV':>24}")
        for stage, found in measure(ref, options):
            if options.json:
                print(json.dumps({"model": ref, "stage": stage, **found}), flush=True)
                continue
            line = f"{stage:>18}{found['total']:>10.1f}{found['anonymous']:>11.1f}{found['file']:>9.1f}"
            print(
                line + (f"{found['offloaded']:>12.1f}{found['beside']:>24.1f}" if "beside" in found else ""), flush=True
            )


if __name__ == "__main__":
    main()
