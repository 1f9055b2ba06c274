"""Time to the first token after loading a history from a session file, against computing the history.

    python bench/sessions.py [--models gemma3-270m] [--tokens 4000] [--rounds 3] [--json]

There are three ways to continue a history of `--tokens` tokens: `compute` it; `load` it from a session file; or find it
`cached` in the prefix cache. The time of `load` is from the call of `Context.load` to the first token; `put` is that of
`Context.load` alone. The ways take turns. Printed are the median of the rounds, the least and the most.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from headrace import Context, Model
from headrace.engine.tuning.cores import available_cores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["gemma3-270m"])
    parser.add_argument("--tokens", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--kv-type", default="f16")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for ref in options.models:
        result = measure(ref, options)
        if options.json:
            print(json.dumps(result))
            continue
        print(
            f"\n{ref}, {options.tokens} tokens, {options.kv_type}, {options.threads} threads, {options.rounds} rounds"
        )
        for name, times in result["ms"].items():
            spread = f"({min(times):.0f} to {max(times):.0f})"
            print(f"{name:>8}: {statistics.median(times):8.1f} ms {spread:>16}")
        print(f"load / compute: {result['ratio']:.3f}")
        print(f"the file has {result['file_mb']:.1f} MB and was saved in {result['save_ms']:.0f} ms")


def measure(ref: str, options: argparse.Namespace) -> dict[str, object]:
    times: dict[str, list[float]] = {"compute": [], "put": [], "load": [], "cached": []}
    random = np.random.default_rng(7)
    settings = {"temperature": 0, "timeout_ms": 0, "max_tokens": 2, "ignore_eos": True}
    with (
        tempfile.TemporaryDirectory() as folder,
        Model.load(
            ref, n_ctx=options.tokens + 256, max_streams=2, n_threads=options.threads, kv_type=options.kv_type
        ) as model,
    ):
        path, context = Path(folder) / "session", Context(model, **settings)
        prompt: list[int] = random.integers(1000, 40000, options.tokens).tolist()
        context.generate(prompt)
        begin = time.perf_counter()
        session = context.save(path)
        save_ms = (time.perf_counter() - begin) * 1000
        question = [*session.tokens, *random.integers(1000, 40000, 8).tolist()]
        for _ in range(options.rounds):
            for way in ("compute", "load", "cached"):
                if way != "cached":
                    model._core.engine.clear_cache()
                begin = time.perf_counter()
                if way == "load":
                    context = Context.load(model, path)
                    times["put"].append((time.perf_counter() - begin) * 1000)
                next(iter(context.generate_stream(question)))
                times[way].append((time.perf_counter() - begin) * 1000)
                model.check_integrity()
    ratios = [load / compute for load, compute in zip(times["load"], times["compute"], strict=True)]
    return {
        "model": ref,
        "tokens": options.tokens,
        "kv_type": options.kv_type,
        "threads": options.threads,
        "ms": times,
        "ratio": statistics.median(ratios),
        "file_mb": session.num_bytes / 1e6,
        "save_ms": save_ms,
    }


if __name__ == "__main__":
    main()
