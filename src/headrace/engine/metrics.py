"""`StreamStats` and `Counts`: counters and times of a stream and of an engine, and snapshots of them."""

from __future__ import annotations

import time
from array import array
from dataclasses import dataclass, field

from headrace.engine.kv.cache import KVCache
from headrace.values.pricing import Pricing
from headrace.values.results import EngineMetrics, Metrics, Usage

__all__ = ["Average", "Counts", "StreamStats"]


@dataclass(slots=True)
class StreamStats:
    """Counters and times of one stream. The engine thread writes them; any thread may read.

    Times are in seconds, on the clock of `time.perf_counter()`. A value may be one step old.
    """

    created: float
    pricing: Pricing | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    thinking_tokens: int = 0
    computed_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    admitted: float | None = None
    first_token: float | None = None
    last_token: float | None = None
    ended: float | None = None
    paused: float = 0.0
    paused_since: float | None = None
    gaps: array[float] = field(default_factory=lambda: array("d"))
    _paused_at_last_token: float = 0.0

    def note_token(self, now: float) -> None:
        """Count a sampled token."""
        self.completion_tokens += 1
        if self.last_token is None:
            self.first_token = now
        else:
            self.gaps.append(max(0.0, now - self.last_token - (self.paused - self._paused_at_last_token)))
        self.last_token = now
        self._paused_at_last_token = self.paused

    def pause(self, now: float) -> None:
        """Start a pause: the reader is behind."""
        self.paused_since = now

    def resume(self, now: float) -> None:
        """End a pause: the reader has caught up."""
        if self.paused_since is not None:
            self.paused += now - self.paused_since
            self.paused_since = None

    def paused_until(self, now: float) -> float:
        """Returns the seconds paused until `now`, a running pause included."""
        since = self.paused_since
        return self.paused + (max(0.0, now - since) if since is not None else 0.0)

    def usage(self) -> Usage:
        """Returns the counts so far."""
        prompt, cached, completion = self.prompt_tokens, self.cached_tokens, self.completion_tokens
        pricing = self.pricing
        if pricing is None:
            return Usage(prompt, cached, completion, self.thinking_tokens)
        cost = pricing.cost(prompt, cached, completion)
        return Usage(prompt, cached, completion, self.thinking_tokens, cost, pricing.currency)

    def tokens_per_second(self) -> float:
        """Returns tokens after the first over the time after the first, without pauses; 0 before the second token."""
        return _speed(self.gaps[:])

    def metrics(self) -> Metrics:
        """Returns the times so far."""
        now = self.ended if self.ended is not None else time.perf_counter()
        gaps = self.gaps[:]
        ordered = sorted(gaps)
        admitted = self.admitted if self.admitted is not None else now
        first = self.first_token
        return Metrics(
            time_to_first_token_ms=None if first is None else _ms(first - self.created),
            tokens_per_second=_speed(gaps),
            latency_ms=_ms(now - self.created),
            queue_ms=_ms(admitted - self.created),
            prefill_ms=_ms((now if first is None else first) - admitted),
            decode_ms=_ms(sum(gaps)),
            paused_ms=_ms(self.paused_until(now)),
            inter_token_p50_ms=_percentile(ordered, 0.50),
            inter_token_p99_ms=_percentile(ordered, 0.99),
            drafted_tokens=self.drafted_tokens,
            accepted_tokens=self.accepted_tokens,
        )


class Average:
    """An exponential moving average that starts at its first value."""

    __slots__ = ("_weight", "value")

    def __init__(self, weight: float) -> None:
        self._weight = weight
        self.value: float | None = None

    def add(self, sample: float) -> None:
        """Add a sample."""
        value = self.value
        self.value = sample if value is None else value + self._weight * (sample - value)


@dataclass(slots=True)
class Counts:
    """Counters of an engine since its start."""

    started: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    prefill_tokens: int = 0
    completion_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    finished: dict[str, int] = field(default_factory=dict[str, int])
    step_time: Average = field(default_factory=lambda: Average(0.05))
    sampling: Average = field(default_factory=lambda: Average(0.05))
    overhead: Average = field(default_factory=lambda: Average(0.05))
    stream_time: Average = field(default_factory=lambda: Average(0.2))

    def snapshot(self, kv: KVCache, *, queued: int, running: int, paused: int, preemptions: int) -> EngineMetrics:
        """Returns the counters and gauges now; see EngineMetrics."""
        return EngineMetrics(
            queued=queued,
            running=running,
            paused=paused,
            kv_total=kv.num_cells,
            kv_used=kv.num_pinned,
            kv_cached=kv.num_cached,
            kv_offloaded_bytes=kv.num_bytes_offloaded,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            prefill_tokens=self.prefill_tokens,
            completion_tokens=self.completion_tokens,
            drafted_tokens=self.drafted_tokens,
            accepted_tokens=self.accepted_tokens,
            streams_started=self.started,
            streams_finished=dict(self.finished),
            preemptions=preemptions,
            steps=self.steps,
            step_ms=_ms(self.step_time.value or 0.0),
            sampling_ms=_ms(self.sampling.value or 0.0),
            overhead_ms=_ms(self.overhead.value or 0.0),
        )


def _speed(gaps: array[float]) -> float:
    """Returns tokens per second, given the seconds between tokens."""
    total = sum(gaps)
    return len(gaps) / total if total > 0 else 0.0


def _percentile(ordered: list[float], share: float) -> float | None:
    """Returns the nearest-rank percentile, in milliseconds; None without values."""
    if not ordered:
        return None
    return _ms(ordered[min(len(ordered) - 1, int(share * len(ordered)))])


def _ms(seconds: float) -> float:
    return max(0.0, seconds) * 1000
