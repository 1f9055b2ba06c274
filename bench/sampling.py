"""The cost of sampling a token: headrace's sampler against llama.cpp's chain of samplers, on the same logits.

    python bench/sampling.py [--models smollm2 gemma3-270m] [--streams 1 16] [--steps 12] [--json]

Streams of a real model run at a temperature of 1. After each step both samplers choose from that step's logits, in
turn, with several settings, without and with penalties. llama.cpp's chain is the one that llama-cpp-python makes for
the same settings. The times are medians of the processor time, in microseconds a token; other processes hardly change
them. The ratio is the median of the steps' ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headrace.llama.context import LlamaContext
from headrace.llama.library import library
from headrace.llama.model import LlamaModel
from headrace.llama.sampler import Sampler, sample_rows
from headrace.store import resolve
from headrace.values.config import StreamConfig

# The settings with all filters off; each entry of SETTINGS turns some on.
_OFF: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 7}
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "temperature 0.8": {"temperature": 0.8},
    "top-k 40": {"top_k": 40},
    "top-p 0.95": {"top_p": 0.95},
    "min-p 0.05": {"min_p": 0.05},
    "headrace's defaults": {"top_k": 40, "top_p": 0.9},
    "llama-cpp-python's": {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05},
}
PENALTIES: dict[str, Any] = {"repeat_penalty": 1.1, "frequency_penalty": 0.1, "presence_penalty": 0.1}
OPENINGS = (
    "The capital of France is", "Once upon a time", "def main():", "Dear Sir or Madam,", "In 1815, a girl was born",
    "The three laws of", "1, 2, 3, 4,", "To make bread, first", "Il était une fois", "SELECT name FROM",
    "The weather today", '{"name": "Ada",', "Q: Why is the sky blue?\nA:", "Chapter 1", "Breaking news:", "My cat",
)  # fmt: skip


class Row(NamedTuple):
    """The figures for one model, number of streams and kind of settings: µs of processor time a token."""

    model: str
    streams: int
    settings: str
    penalties: bool
    llama_us: float
    headrace_us: float
    ratio: float


class Chain:
    """llama.cpp's samplers, chained as llama-cpp-python chains them.

    Args:
        n_vocab: size of the vocabulary, in tokens.
        config: the settings.
        prompt: tokens that the penalties count.
    """

    def __init__(self, n_vocab: int, config: StreamConfig, prompt: list[int]) -> None:
        self._c = library().bulk
        c = self._c
        self._chain = c.llama_sampler_chain_init(c.llama_sampler_chain_default_params())
        penalties = (config.repeat_penalty, config.frequency_penalty, config.presence_penalty)
        samplers = [c.llama_sampler_init_penalties(n_vocab, config.penalty_last_n, *penalties)]
        if config.temperature == 0:
            samplers.append(c.llama_sampler_init_greedy())
        else:
            samplers += [
                c.llama_sampler_init_top_k(config.top_k),
                c.llama_sampler_init_typical(1.0, 1),
                c.llama_sampler_init_top_p(config.top_p, 1),
                c.llama_sampler_init_min_p(config.min_p, 1),
                c.llama_sampler_init_temp(config.temperature),
                c.llama_sampler_init_dist(config.seed),
            ]
        for sampler in samplers:
            c.llama_sampler_chain_add(self._chain, sampler)
        for token in prompt:
            c.llama_sampler_accept(self._chain, token)

    def sample(self, context: int, row: int) -> int:
        """Sample a token from a row of the last decode."""
        return self._c.llama_sampler_sample(self._chain, context, row)

    def close(self) -> None:
        """Free the chain."""
        self._c.llama_sampler_free(self._chain)


def measure(ref: str, streams: list[int], steps: int) -> list[Row]:
    """Measure a model with each number of streams."""
    with LlamaModel.load(resolve(ref).path) as model:
        n = max(streams)
        with LlamaContext(model, n_ctx=256 * n, n_batch=64, n_seq_max=n, n_threads=1) as context:
            return [row for count in streams for row in _measure(ref, model, context, count, steps)]


class Case:
    """One kind of settings, with a headrace sampler and a llama.cpp chain for each stream.

    Args:
        name: a key of SETTINGS.
        penalties: whether PENALTIES are added.
        n_vocab: size of the vocabulary, in tokens.
        prompts: a prompt for each stream.
    """

    def __init__(self, name: str, penalties: bool, n_vocab: int, prompts: list[list[int]]) -> None:
        config = StreamConfig(**{**_OFF, **SETTINGS[name], **(PENALTIES if penalties else {})})
        self.name = name
        self.penalties = penalties
        self.times: list[tuple[float, float]] = []  # for each step: llama.cpp's time, headrace's time
        self._samplers = [Sampler(config, n_vocab=n_vocab, eog_tokens=frozenset(), prompt=prompt) for prompt in prompts]
        self._chains = [Chain(n_vocab, config, prompt) for prompt in prompts]

    def step(self, context: int, logits: NDArray[np.float32]) -> None:
        """Sample with both, in alternating order."""
        kept = logits.copy() if self.penalties else None
        works = (
            lambda: [chain.sample(context, row) for row, chain in enumerate(self._chains)],
            lambda: sample_rows(logits, self._samplers),
        )
        ours_first = len(self.times) % 2
        times = [0.0, 0.0]
        for which in (ours_first, 1 - ours_first):
            times[which] = _timed(works[which]) / len(self._chains)
            if kept is not None:
                logits[:] = kept  # headrace's sampler writes the penalties into the logits
        self.times.append((times[0], times[1]))

    def row(self, model: str) -> Row:
        """Return the medians. The first two steps do not count, since they touch memory for the first time."""
        theirs, ours = zip(*self.times[2:], strict=True)
        ratio = statistics.median(b / a for a, b in self.times[2:])
        medians = statistics.median(theirs), statistics.median(ours)
        return Row(model, len(self._chains), self.name, self.penalties, *medians, ratio)

    def close(self) -> None:
        """Free llama.cpp's samplers."""
        for chain in self._chains:
            chain.close()


def _measure(ref: str, model: LlamaModel, context: LlamaContext, n: int, steps: int) -> list[Row]:
    prompts = [model.tokenize(OPENINGS[i % 16], add_special=True, parse_special=False) for i in range(n)]
    cases = [Case(name, penalties, model.n_vocab, prompts) for name in SETTINGS for penalties in (False, True)]
    handle = context._handle  # pyright: ignore[reportPrivateUsage]
    for logits in _text(context, prompts, steps + 2):
        for case in cases:
            case.step(handle, logits)
    for case in cases:
        case.close()
    return [case.row(ref) for case in cases]


def _text(context: LlamaContext, prompts: list[list[int]], steps: int) -> Iterator[NDArray[np.float32]]:
    """Decode streams at a temperature of 1; yield the logits of each step."""
    random = np.random.default_rng(7)
    context.clear()
    last: list[int] = []
    for row, prompt in enumerate(prompts):
        count = len(prompt)
        context.tokens[:count], context.positions[:count] = prompt, range(count)
        context.sequences[:count], context.outputs[:count] = row, 0
        context.outputs[count - 1] = 1
        last.append(int(context.decode(count, 1)[0].argmax()))
    n = len(prompts)
    for step in range(steps):
        context.tokens[:n], context.sequences[:n], context.outputs[:n] = last, range(n), 1
        context.positions[:n] = [len(prompt) + step for prompt in prompts]
        logits = context.decode(n, n)
        last = (logits + random.gumbel(size=logits.shape)).argmax(axis=1).tolist()
        yield logits


def _timed(work: Callable[[], object]) -> float:
    """Run `work`; return this thread's processor time, in microseconds."""
    begin = time.thread_time_ns()
    work()
    return (time.thread_time_ns() - begin) / 1000


def main() -> None:
    """Measure all models, and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["smollm2", "gemma3-270m"])
    parser.add_argument("--streams", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args()
    rows = [row for ref in options.models for row in measure(ref, options.streams, options.steps)]
    if options.json:
        print(json.dumps([row._asdict() for row in rows], indent=1))
        return
    print(
        f"{'model':<14}{'streams':>7}  {'settings':<22}{'penalties':<11}{'llama.cpp':>10}{'headrace':>10}{'ratio':>8}"
    )
    for row in rows:
        penalties = "yes" if row.penalties else ""
        print(
            f"{row.model:<14}{row.streams:>7}  {row.settings:<22}{penalties:<11}{row.llama_us:>10.1f}"
            f"{row.headrace_us:>10.1f}{row.ratio:>8.3f}"
        )


if __name__ == "__main__":
    main()
