"""The measurements behind `headrace bench`, and the series of values that they give."""

from __future__ import annotations

import itertools
import math
import os
import random
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from headrace.api.context import Context
from headrace.api.model import Model, core_of
from headrace.api.stream import TokenStream
from headrace.engine.tuning.threads import available_cores
from headrace.values.checks import as_int
from headrace.values.errors import InvalidRequestError

__all__ = ["SHORT_PROMPT", "Bench", "Neighbours", "Series", "StepCosts", "needed_context"]

# Tokens of a short prompt, and of what is new behind a prefix that is cached.
SHORT_PROMPT = 16
# Prompts are read before all streams run, so the first ones decode for a while before the last: all get some more.
_HEAD_START = 32
# Cores that others may keep busy before figures are poor.
_QUIET = 0.1
# Greedy text after random tokens goes round in circles, which is easier to guess than any that somebody wants.
_SETTINGS: Mapping[str, Any] = {
    "temperature": 0,
    "ignore_eos": True,
    "timeout_ms": 0,
    "stop_sequences": (),
    "speculation": "off",
}


@dataclass(frozen=True, slots=True)
class Series:
    """What was measured of one thing, a value a round."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The one in the middle."""
        return statistics.median(self.values)

    @property
    def least(self) -> float:
        """The smallest one."""
        return min(self.values)

    @property
    def most(self) -> float:
        """The largest one."""
        return max(self.values)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        named = {"median": round(self.median, 3), "least": round(self.least, 3), "most": round(self.most, 3)}
        return {**named, "values": [round(value, 3) for value in self.values]}


class StepCosts(NamedTuple):
    """What steps take with one number of threads, while nobody else wants the cores.

    Attributes:
        threads: how many compute.
        decode_ms: milliseconds of a step, by the number of sequences that decode in it.
        prefill_token_ms: milliseconds that each token of a prompt adds; None where that is not known.
    """

    threads: int
    decode_ms: dict[int, float]
    prefill_token_ms: float | None


class Bench:
    """Measures a model, round by round: each round has everything once, so that a drift of the machine hits all alike.

    The prompts are tokens drawn at random, so nothing of them is cached, and decoding is greedy and goes on past the
    token that ends a text, without speculation. Nothing else may use the model meanwhile: its prefix cache is emptied
    again and again.

    Args:
        model: the model, with `max_streams` and `n_ctx` large enough: see `needed_context`.
        streams: how many decode at once, each number in turn.
        tokens: tokens that each stream decodes while all of them run.
        prompt_tokens: tokens of the long prompt.
        rounds: how often everything is measured.
        seed: of the prompts; None draws it.

    Raises:
        InvalidRequestError: a value out of its range, or more than the model was loaded for.
    """

    def __init__(
        self,
        model: Model,
        *,
        streams: Sequence[int] = (1, 2, 4, 8, 16),
        tokens: int = 96,
        prompt_tokens: int = 512,
        rounds: int = 3,
        seed: int | None = None,
    ) -> None:
        self._engine = core_of(model).engine
        most = self._engine.max_streams
        self.streams = tuple(dict.fromkeys(as_int("streams", count, 1, most) for count in streams))
        if not self.streams:
            raise InvalidRequestError("streams", streams, f"numbers from 1 to {most}")
        self.tokens = as_int("tokens", tokens, 2)
        self.prompt_tokens = as_int("prompt_tokens", prompt_tokens, 2 * SHORT_PROMPT)
        self.rounds = as_int("rounds", rounds, 1)
        needed, n_ctx = needed_context(self.streams, self.tokens, self.prompt_tokens), model.metrics.kv_total
        if needed > n_ctx:
            raise InvalidRequestError("n_ctx", n_ctx, f"at least {needed} for so many streams and tokens")
        longest = max(self.prompt_tokens + 2, SHORT_PROMPT + self.tokens + _HEAD_START)
        if longest > self._engine.max_length:
            field, value = max((("prompt_tokens", self.prompt_tokens), ("tokens", self.tokens)), key=lambda one: one[1])
            allowed = f"what fits the model's longest sequence, {self._engine.max_length} tokens"
            raise InvalidRequestError(field, value, allowed)
        self.model = model
        self._context = Context(model)
        self._random = random.Random(seed)
        self._values: dict[tuple[str, int], list[float]] = {}
        self._num_done = 0
        # In this order in each round.
        self._cases = [
            ("a long prompt", self._long_prompt),
            ("a short prompt", self._short_prompt),
            *((f"{n} stream{'s' if n > 1 else ''}", partial(self._decode, n)) for n in self.streams),
        ]

    def __len__(self) -> int:
        """How many measurements there are."""
        return self.rounds * len(self._cases)

    def run(self) -> Iterator[str]:
        """Measure; gives what comes next, before each measurement. Whoever stops early has what was measured so far."""
        try:
            self._read([self._start(SHORT_PROMPT, 8) for _ in range(max(self.streams))])  # warms everything up
            self._engine.clear_cache()
            while not self._engine.tuning.is_measured:  # a new engine measures its steps whenever it has nothing to do
                self._engine.clear_cache()
            for number in range(self.rounds):
                for title, measure in self._cases:
                    yield f"{title}, round {number + 1} of {self.rounds}"
                    self._engine.clear_cache()
                    measure()
                    self._num_done += 1
        finally:  # also where Ctrl-C came between two streams
            self._context.cancel_generation()

    @property
    def is_complete(self) -> bool:
        """Whether all of it was measured."""
        return self._num_done == len(self)

    @property
    def prefill(self) -> Series | None:
        """Tokens of the long prompt that are read a second, alone; None where nothing was measured yet."""
        return self._series("prefill")

    def decode(self, num_streams: int) -> Series | None:
        """Tokens a second of all streams together, while so many run."""
        return self._series("decode", num_streams)

    def worst_gap_ms(self, num_streams: int) -> Series | None:
        """The longest time that one of them waited for a token, in milliseconds."""
        return self._series("gap", num_streams)

    def ttft_ms(self, prompt: str) -> Series | None:
        """Time to the first token, in milliseconds: of a "short" prompt, a "long" one, or one that is "cached".

        The last is as long as the long one, and all but its last 16 tokens are cached.
        """
        return self._series(f"ttft {prompt}")

    def costs(self) -> list[StepCosts]:
        """What steps take, as the engine has learnt it, for each number of threads that it may choose."""
        tables = self._engine.tuning.cost.tables
        return [
            StepCosts(
                threads,
                {rows: seconds * 1000 for rows, seconds in sorted(table.decode.copy().items())},
                None if table.per_prefill_token is None else table.per_prefill_token * 1000,
            )
            for threads, table in sorted(tables.items())
        ]

    def as_dict(self) -> dict[str, Any]:
        """What was measured so far, for JSON; docs/cli.md describes it."""
        return {
            "model": self.model.name,
            "is_complete": self.is_complete,
            "rounds": self.rounds,
            "tokens": self.tokens,
            "n_ctx": self.model.metrics.kv_total,
            "prefill": {"prompt_tokens": self.prompt_tokens, "tokens_per_second": _as_dict(self.prefill)},
            "decode": [
                {
                    "streams": n,
                    "tokens_per_second": _as_dict(self.decode(n)),
                    "worst_gap_ms": _as_dict(self.worst_gap_ms(n)),
                }
                for n in self.streams
            ],
            "time_to_first_token_ms": {
                "short": {"prompt_tokens": SHORT_PROMPT, "cached_tokens": 0, "ms": _as_dict(self.ttft_ms("short"))},
                "long": {"prompt_tokens": self.prompt_tokens, "cached_tokens": 0, "ms": _as_dict(self.ttft_ms("long"))},
                "cached": {
                    "prompt_tokens": self.prompt_tokens,
                    "cached_tokens": self.prompt_tokens - SHORT_PROMPT,
                    "ms": _as_dict(self.ttft_ms("cached")),
                },
            },
            "costs": [
                {
                    "threads": table.threads,
                    "decode": [{"rows": rows, "ms": round(ms, 3)} for rows, ms in table.decode_ms.items()],
                    "prefill_token_ms": table.prefill_token_ms and round(table.prefill_token_ms, 4),
                }
                for table in self.costs()
            ],
        }

    # What is measured.

    def _long_prompt(self) -> None:
        prompt = self._prompt(self.prompt_tokens)
        long, result = self._first_token(prompt)
        self._note("ttft long", 0, long)
        self._note("prefill", 0, self.prompt_tokens * 1000 / result.metrics.prefill_ms)
        cached, _ = self._first_token(prompt[:-SHORT_PROMPT] + self._prompt(SHORT_PROMPT))
        self._note("ttft cached", 0, cached)

    def _short_prompt(self) -> None:
        short, _ = self._first_token(self._prompt(SHORT_PROMPT))
        self._note("ttft short", 0, short)

    def _first_token(self, prompt: list[int]) -> tuple[float, TokenStream]:
        begin = time.perf_counter()
        stream = self._context.generate_stream(prompt, max_tokens=1, **_SETTINGS)
        times = self._read([stream])[0]
        return (times[0] - begin) * 1000, stream

    def _decode(self, num_streams: int) -> None:
        arrivals = self._read([self._start(SHORT_PROMPT, self.tokens + _HEAD_START) for _ in range(num_streams)])
        begin = max(times[0] for times in arrivals)
        end = min(times[-1] for times in arrivals)
        if end <= begin:  # the machine is so slow that the first was through before the last began
            begin, end = min(times[0] for times in arrivals), max(times[-1] for times in arrivals)
        together = [[begin, *(at for at in times if begin < at <= end)] for times in arrivals]
        gaps = [after - before for times in together for before, after in itertools.pairwise(times)]
        self._note("decode", num_streams, len(gaps) / (end - begin))
        self._note("gap", num_streams, max(gaps) * 1000)

    # How.

    def _start(self, num_prompt: int, tokens: int) -> TokenStream:
        return self._context.generate_stream(self._prompt(num_prompt), max_tokens=tokens, **_SETTINGS)

    def _read(self, streams: Sequence[TokenStream]) -> list[list[float]]:
        """When the tokens of each stream came to a reader of its own."""
        with ThreadPoolExecutor(len(streams), thread_name_prefix="headrace-bench") as readers:
            try:
                return list(readers.map(_times, streams))
            except BaseException:  # Ctrl-C, mostly: the readers wait for their streams' ends
                self._context.cancel_generation()
                raise

    def _prompt(self, count: int) -> list[int]:
        """So many tokens that are text, drawn at random."""
        vocabulary = core_of(self.model).vocabulary
        special, eog = vocabulary.special_tokens, vocabulary.eog_tokens
        prompt: list[int] = []
        while len(prompt) < count:
            token = self._random.randrange(vocabulary.n_vocab)
            if token not in special and token not in eog and vocabulary.piece(token):
                prompt.append(token)
        return prompt

    def _note(self, name: str, num_streams: int, value: float) -> None:
        self._values.setdefault((name, num_streams), []).append(value)

    def _series(self, name: str, num_streams: int = 0) -> Series | None:
        values = self._values.get((name, num_streams))
        return Series(tuple(values)) if values else None


class Neighbours:
    """How much of this machine others use from now on; where the system does not tell, it is taken for none."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._worked = _worked()
        self._own = time.process_time()

    @property
    def busy_cores(self) -> float:
        """Cores that other processes kept busy since the beginning, on average."""
        seconds = time.monotonic() - self._begin
        if seconds <= 0:
            return 0.0
        return max(0.0, _worked() - self._worked - (time.process_time() - self._own)) / seconds

    @property
    def are_in_the_way(self) -> bool:
        """Whether they had so much that this process, with a thread for each of its cores, had to wait for them."""
        busy = self.busy_cores
        return busy > _QUIET and busy + available_cores() > (os.cpu_count() or 1)


def needed_context(streams: Iterable[int], tokens: int, prompt_tokens: int) -> int:
    """KV cells that a bench needs, in tokens: for all streams at once, and for a long prompt with its variant."""
    decoding = max(streams, default=1) * (SHORT_PROMPT + tokens + _HEAD_START)
    return max(decoding, prompt_tokens + 2 * SHORT_PROMPT + 4)


def _times(stream: TokenStream) -> list[float]:
    with stream:
        return [time.perf_counter() for _ in stream]


def _as_dict(series: Series | None) -> dict[str, Any] | None:
    return None if series is None else series.as_dict()


def _worked() -> float:
    """Seconds that all cores of the machine have worked since it was started."""
    try:
        with open("/proc/stat") as stat:
            user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(int, stat.readline().split()[1:])
        return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return math.nan
