"""`ServerMetrics`: the Prometheus metrics at `/metrics`, from the engines' counters and the generations that ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from headrace.server.serving.generation import Generation
from headrace.values.results import EngineMetrics
from headrace.values.version import VERSION

__all__ = ["ServerMetrics", "ServerState"]

# Upper bounds of the histograms' buckets, in seconds.
_TTFT_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_INTER_TOKEN_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)
_DURATION_BOUNDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

_OUTCOMES: tuple[str, ...] = ("stop", "stop_sequence", "length", "tool_calls", "cancelled", "timeout", "error")
_CANCELS: tuple[str, ...] = ("disconnect", "stall", "request", "shutdown")

# Metrics of each engine: name, help text, field of `EngineMetrics`.
_GAUGES = (
    ("streams_queued", "Streams that wait to be admitted.", "queued"),
    ("streams_running", "Streams that are admitted and not paused.", "running"),
    ("streams_paused", "Streams that wait for their readers to keep up.", "paused"),
    ("kv_capacity_tokens", "Tokens that the KV cache can hold.", "kv_total"),
    ("kv_used_tokens", "Tokens in the KV cache that belong to running and paused streams.", "kv_used"),
    ("kv_cached_tokens", "Tokens in the KV cache that belong to cached prefixes only.", "kv_cached"),
    ("kv_offloaded_bytes", "Main memory that holds the offloaded KV of cached prefixes.", "kv_offloaded_bytes"),
)
_COUNTERS = (
    ("prompt_tokens", "Tokens of the prompts of accepted streams.", "prompt_tokens"),
    ("prompt_cached_tokens", "Prompt tokens that were not computed, because they were cached.", "cached_tokens"),
    ("prefill_tokens", "Tokens computed in prefill, restarts after preemption included.", "prefill_tokens"),
    ("completion_tokens", "Tokens sampled.", "completion_tokens"),
    ("drafted_tokens", "Tokens guessed by prompt lookup or a draft model.", "drafted_tokens"),
    ("accepted_tokens", "Guessed tokens that were then sampled.", "accepted_tokens"),
    ("streams_started", "Streams accepted: one for each choice of a request.", "streams_started"),
    ("preemptions", "Streams preempted because the KV cache was full.", "preemptions"),
    ("steps", "Steps of the engine that decoded something.", "steps"),
)
_TIMES = (
    ("step_mean_seconds", "Exponential mean of the time of a step.", "step_ms"),
    ("step_sampling_mean_seconds", "Exponential mean of the time that a step spends sampling.", "sampling_ms"),
    ("step_overhead_mean_seconds", "Exponential mean of a step's time outside decode and sampling.", "overhead_ms"),
)


class _Histogram:
    """Counts of values in buckets. Many values are added at once."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = np.array(bounds)
        self._counts: NDArray[np.int64] = np.zeros(len(bounds) + 1, np.int64)
        self._sum = 0.0

    def add(self, values: Sequence[float]) -> None:
        """Add values."""
        places = np.searchsorted(self._bounds, values)
        self._counts += np.bincount(places, minlength=len(self._counts))
        self._sum += float(np.sum(values))

    def add_to(self, family: HistogramMetricFamily, label: str) -> None:
        """Add this histogram to a metric family."""
        bounds = [f"{bound:.15g}" for bound in self._bounds] + ["+Inf"]
        totals = accumulate(int(count) for count in self._counts)
        family.add_metric([label], list(zip(bounds, map(float, totals), strict=True)), self._sum)


class _EndedRequests:
    """Counts and times of one model's ended requests."""

    def __init__(self) -> None:
        self.outcomes = dict.fromkeys(_OUTCOMES, 0)
        self.cancels = dict.fromkeys(_CANCELS, 0)
        self.thinking_tokens = 0
        self.ttft = _Histogram(_TTFT_BOUNDS)
        self.inter_token = _Histogram(_INTER_TOKEN_BOUNDS)
        self.durations = _Histogram(_DURATION_BOUNDS)

    def observe(self, generation: Generation) -> None:
        """Count a generation that has ended."""
        self.outcomes[generation.finish_reason] += 1
        if generation.cancelled_by is not None:
            self.cancels[generation.cancelled_by] += 1
        latencies: list[float] = []
        for stream in generation.streams:
            first = stream.time_to_first_token_ms
            if first is not None:
                self.ttft.add([first / 1000])
                self.inter_token.add(stream.gaps)
            latencies.append(stream.metrics.latency_ms)
            self.thinking_tokens += stream.usage.thinking_tokens
        self.durations.add([max(latencies) / 1000])


class ServerState(NamedTuple):
    """The server's state when its metrics are read.

    Attributes:
        is_ready: whether requests are served.
        num_running: requests that are generating.
        engines: the metrics of each model's engine, by the model's name.
    """

    is_ready: bool = False
    num_running: int = 0
    engines: Mapping[str, EngineMetrics] = {}


class ServerMetrics(Collector):
    """The metrics of one server. `observe` gets each ended generation, and `exposition` gets the state of the server.

    Attributes:
        refused: requests refused because the queue was full.
    """

    def __init__(self) -> None:
        self.refused = 0
        self._state = ServerState()
        self._ended: dict[str, _EndedRequests] = {}
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def observe(self, generation: Generation) -> None:
        """Count a generation that has ended."""
        self._ended_of(generation.model).observe(generation)

    def exposition(self, state: ServerState) -> tuple[bytes, str]:
        """Returns the metrics as text, and the text's media type."""
        self._state = state
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def describe(self) -> Iterable[Metric]:
        """Returns nothing: the metrics depend on the loaded models."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Yields all metrics."""
        yield InfoMetricFamily("headrace", "The version of the server.", {"version": VERSION})
        yield GaugeMetricFamily("headrace_ready", "Whether requests are served.", float(self._state.is_ready))
        yield GaugeMetricFamily("headrace_requests_running", "Requests that are generating.", self._state.num_running)
        yield CounterMetricFamily("headrace_requests_refused", "Requests refused by a full queue.", self.refused)
        engines = self._state.engines
        yield from _engine_metrics(engines)
        yield from _request_metrics({name: self._ended_of(name) for name in engines})

    def _ended_of(self, model: str) -> _EndedRequests:
        return self._ended.setdefault(model, _EndedRequests())


def _engine_metrics(engines: Mapping[str, EngineMetrics]) -> Iterable[Metric]:
    for name, text, field in _GAUGES:
        family = GaugeMetricFamily(f"headrace_{name}", text, labels=["model"])
        for model, metrics in engines.items():
            family.add_metric([model], getattr(metrics, field))
        yield family
    for name, text, field in _TIMES:
        family = GaugeMetricFamily(f"headrace_{name}", text, labels=["model"])
        for model, metrics in engines.items():
            family.add_metric([model], getattr(metrics, field) / 1000)
        yield family
    for name, text, field in _COUNTERS:
        family = CounterMetricFamily(f"headrace_{name}", text, labels=["model"])
        for model, metrics in engines.items():
            family.add_metric([model], getattr(metrics, field))
        yield family
    finished = CounterMetricFamily(
        "headrace_streams_finished", "Streams that have ended, by finish reason.", labels=["model", "reason"]
    )
    for model, metrics in engines.items():
        for reason in _OUTCOMES:
            finished.add_metric([model, reason], metrics.streams_finished.get(reason, 0))
    yield finished


def _request_metrics(ended: dict[str, _EndedRequests]) -> Iterable[Metric]:
    requests = CounterMetricFamily(
        "headrace_requests", "Requests that have ended, by outcome.", labels=["model", "outcome"]
    )
    cancels = CounterMetricFamily(
        "headrace_cancels", "Requests that were cancelled, by reason.", labels=["model", "reason"]
    )
    timeouts = CounterMetricFamily("headrace_timeouts", "Requests that exceeded a deadline.", labels=["model"])
    thinking_tokens = CounterMetricFamily(
        "headrace_thinking_tokens", "Thinking tokens of requests that have ended.", labels=["model"]
    )
    ttft = HistogramMetricFamily(
        "headrace_time_to_first_token_seconds", "Time from a request to its first token.", labels=["model"]
    )
    inter_token = HistogramMetricFamily(
        "headrace_inter_token_seconds",
        "Time between two tokens of a stream, without pauses for its reader.",
        labels=["model"],
    )
    durations = HistogramMetricFamily(
        "headrace_request_duration_seconds", "Time from a request to its last token.", labels=["model"]
    )
    for model, counts in ended.items():
        for outcome, count in counts.outcomes.items():
            requests.add_metric([model, outcome], count)
        for reason, count in counts.cancels.items():
            cancels.add_metric([model, reason], count)
        timeouts.add_metric([model], counts.outcomes["timeout"])
        thinking_tokens.add_metric([model], counts.thinking_tokens)
        counts.ttft.add_to(ttft, model)
        counts.inter_token.add_to(inter_token, model)
        counts.durations.add_to(durations, model)
    yield from (requests, cancels, timeouts, thinking_tokens, ttft, inter_token, durations)
