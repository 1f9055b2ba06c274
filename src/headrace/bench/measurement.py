"""`Bench`: measures prefill, decode, time to first token and step times of a model."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

from headrace.api.context import Context
from headrace.api.model import Model, core_of
from headrace.api.stream import TokenStream
from headrace.bench.series import Series
from headrace.values.checks import as_int
from headrace.values.errors import InvalidRequestError

__all__ = ["SHORT_PROMPT", "Bench", "StepCosts", "needed_context"]

# Tokens of the short prompt, and of the new end behind a cached prefix.
SHORT_PROMPT = 16
# Extra tokens for each stream: the first streams decode while the prompts of the last ones are still in prefill.
_HEAD_START = 32
# Without speculation, because greedy text after random tokens repeats itself, and so is easier to guess than real text.
_SETTINGS: Mapping[str, Any] = {
    "temperature": 0,
    "ignore_eos": True,
    "timeout_ms": 0,
    "stop_sequences": (),
    "speculation": "off",
}


class StepCosts(NamedTuple):
    """Step times with one number of threads, on an idle machine.

    Attributes:
        threads: number of compute threads.
        decode_ms: milliseconds of a step, by the number of sequences that decode in it.
        prefill_token_ms: milliseconds that each prefilled token adds; None if not known.
    """

    threads: int
    decode_ms: dict[int, float]
    prefill_token_ms: float | None


class Bench:
    """Measures a model in rounds. A round measures everything once, so that a drift of the machine affects all alike.

    The prompts are random tokens, so none is cached. Decode is greedy, ignores end-of-text tokens, and does not
    speculate. Nothing else may use the model meanwhile, because its prefix cache is cleared before each measurement.

    Args:
        model: the model, loaded with enough `max_streams` and `n_ctx`: see `needed_context`.
        streams: numbers of streams that decode at the same time, measured in turn.
        tokens: tokens that each stream decodes while all of them run.
        prompt_tokens: tokens of the long prompt.
        rounds: number of rounds.
        seed: seed of the random prompts; None draws it.

    Raises:
        InvalidRequestError: a value out of its range, or beyond what the model was loaded for.
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
        max_streams = self._engine.max_streams
        self.streams = tuple(dict.fromkeys(as_int("streams", count, 1, max_streams) for count in streams))
        if not self.streams:
            raise InvalidRequestError("streams", streams, f"numbers from 1 to {max_streams}")
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
        # What each round measures, in this order.
        self._cases = [
            ("a long prompt", self._long_prompt),
            ("a short prompt", self._short_prompt),
            *((f"{n} stream{'s' if n > 1 else ''}", partial(self._decode, n)) for n in self.streams),
        ]

    def __len__(self) -> int:
        """The number of measurements, in all rounds."""
        return self.rounds * len(self._cases)

    def run(self) -> Iterator[str]:
        """Measure everything; yields a title before each measurement. If stopped early, the values so far stay."""
        try:
            self._read([self._start(SHORT_PROMPT, 8) for _ in range(max(self.streams))])  # warm-up
            self._engine.clear_cache()
            while not self._engine.tuning.is_measured:  # a new engine measures its step times while it is idle
                self._engine.clear_cache()
            for number in range(self.rounds):
                for title, measure in self._cases:
                    yield f"{title}, round {number + 1} of {self.rounds}"
                    self._engine.clear_cache()
                    measure()
                    self._num_done += 1
        finally:  # also after Ctrl-C between the starts of two streams
            self._context.cancel_generation()

    @property
    def is_complete(self) -> bool:
        """Whether everything was measured."""
        return self._num_done == len(self)

    @property
    def prefill(self) -> Series | None:
        """Prefill of the long prompt, alone, in tokens per second; None if not measured yet."""
        return self._series("prefill")

    def decode(self, num_streams: int) -> Series | None:
        """Return the tokens per second of this many streams together; None if not measured yet."""
        return self._series("decode", num_streams)

    def worst_gap_ms(self, num_streams: int) -> Series | None:
        """Return the longest wait for a token among this many streams, in milliseconds; None if not measured yet."""
        return self._series("gap", num_streams)

    def ttft_ms(self, prompt: str) -> Series | None:
        """Return the time to first token in milliseconds; None if not measured yet.

        Args:
            prompt: "short", "long", or "cached": as long as the long prompt, with all but its last 16 tokens cached.
        """
        return self._series(f"ttft {prompt}")

    def costs(self) -> list[StepCosts]:
        """Return the step times that the engine has measured, for each number of threads that it may choose."""
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
        """Return everything that was measured so far, for JSON; docs/cli.md describes it."""
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

    # The measurements.

    def _long_prompt(self) -> None:
        prompt = self._prompt(self.prompt_tokens)
        long, result = self._first_token(prompt)
        self._add_value("ttft long", 0, long)
        self._add_value("prefill", 0, self.prompt_tokens * 1000 / result.metrics.prefill_ms)
        cached, _ = self._first_token(prompt[:-SHORT_PROMPT] + self._prompt(SHORT_PROMPT))
        self._add_value("ttft cached", 0, cached)

    def _short_prompt(self) -> None:
        short, _ = self._first_token(self._prompt(SHORT_PROMPT))
        self._add_value("ttft short", 0, short)

    def _first_token(self, prompt: list[int]) -> tuple[float, TokenStream]:
        begin = time.perf_counter()
        stream = self._context.generate_stream(prompt, max_tokens=1, **_SETTINGS)
        times = self._read([stream])[0]
        return (times[0] - begin) * 1000, stream

    def _decode(self, num_streams: int) -> None:
        arrivals = self._read([self._start(SHORT_PROMPT, self.tokens + _HEAD_START) for _ in range(num_streams)])
        begin = max(times[0] for times in arrivals)
        end = min(times[-1] for times in arrivals)
        if end <= begin:  # the machine is so slow that the first stream ended before the last one began
            begin, end = min(times[0] for times in arrivals), max(times[-1] for times in arrivals)
        overlaps = [[begin, *(at for at in times if begin < at <= end)] for times in arrivals]
        gaps = [after - before for times in overlaps for before, after in itertools.pairwise(times)]
        self._add_value("decode", num_streams, len(gaps) / (end - begin))
        self._add_value("gap", num_streams, max(gaps) * 1000)

    # The streams.

    def _start(self, num_prompt: int, tokens: int) -> TokenStream:
        return self._context.generate_stream(self._prompt(num_prompt), max_tokens=tokens, **_SETTINGS)

    def _read(self, streams: Sequence[TokenStream]) -> list[list[float]]:
        """Read each stream in a thread of its own; returns the arrival times of its tokens."""
        with ThreadPoolExecutor(len(streams), thread_name_prefix="headrace-bench") as readers:
            try:
                return list(readers.map(_arrival_times, streams))
            except BaseException:  # mostly Ctrl-C; cancelled, because the pool waits for the ends of the streams
                self._context.cancel_generation()
                raise

    def _prompt(self, count: int) -> list[int]:
        """A prompt of random tokens, without special tokens."""
        vocabulary = core_of(self.model).vocabulary
        special, eog = vocabulary.special_tokens, vocabulary.eog_tokens
        prompt: list[int] = []
        while len(prompt) < count:
            token = self._random.randrange(vocabulary.n_vocab)
            if token not in special and token not in eog and vocabulary.piece(token):
                prompt.append(token)
        return prompt

    def _add_value(self, name: str, num_streams: int, value: float) -> None:
        self._values.setdefault((name, num_streams), []).append(value)

    def _series(self, name: str, num_streams: int = 0) -> Series | None:
        values = self._values.get((name, num_streams))
        return Series(tuple(values)) if values else None


def needed_context(streams: Iterable[int], tokens: int, prompt_tokens: int) -> int:
    """Return the `n_ctx` that a bench needs: for all streams at once, or for the long prompt and its cached variant."""
    decoding = max(streams, default=1) * (SHORT_PROMPT + tokens + _HEAD_START)
    return max(decoding, prompt_tokens + 2 * SHORT_PROMPT + 4)


def _arrival_times(stream: TokenStream) -> list[float]:
    with stream:
        return [time.perf_counter() for _ in stream]


def _as_dict(series: Series | None) -> dict[str, Any] | None:
    return None if series is None else series.as_dict()
