"""What `/metrics` shows: the engines' own counters at the moment of asking, and histograms of what streams took."""

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

# Upper ends of the histograms' buckets, in seconds.
_WAITS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_GAPS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)
_DURATIONS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

_OUTCOMES: tuple[str, ...] = ("stop", "stop_sequence", "length", "tool_calls", "cancelled", "timeout", "error")
_CANCELS: tuple[str, ...] = ("disconnect", "stall", "request", "shutdown")

# Of each engine: name of the metric, what it is, field of the snapshot.
_GAUGES = (
    ("streams_queued", "Streams that wait for a place.", "queued"),
    ("streams_running", "Streams that have a place and are not paused.", "running"),
    ("streams_paused", "Streams that wait for their readers.", "paused"),
    ("kv_capacity_tokens", "Tokens that the KV cache can hold.", "kv_total"),
    ("kv_used_tokens", "Tokens in the KV cache that belong to running and paused streams.", "kv_used"),
    ("kv_cached_tokens", "Tokens in the KV cache that are kept only to be reused.", "kv_cached"),
    ("kv_offloaded_bytes", "Main memory that holds more of these, outside of the KV cache.", "kv_offloaded_bytes"),
)
_COUNTERS = (
    ("prompt_tokens", "Tokens of the prompts of accepted streams.", "prompt_tokens"),
    ("prompt_cached_tokens", "Tokens of prompts that were not computed, since they were cached.", "cached_tokens"),
    ("prefill_tokens", "Tokens computed in prefill, restarts after preemption included.", "prefill_tokens"),
    ("completion_tokens", "Tokens sampled.", "completion_tokens"),
    ("drafted_tokens", "Tokens guessed, to be verified along with others.", "drafted_tokens"),
    ("accepted_tokens", "Guessed tokens that came true.", "accepted_tokens"),
    ("streams_started", "Streams accepted: one for each choice of a request.", "streams_started"),
    ("preemptions", "How often a stream had to give up its place in the KV cache.", "preemptions"),
    ("steps", "Steps of the engine that decoded something.", "steps"),
)
_TIMES = (
    ("step_mean_seconds", "Exponential mean of the time of a step.", "step_ms"),
    ("step_sampling_mean_seconds", "Exponential mean of the time a step takes to choose tokens.", "sampling_ms"),
    ("step_overhead_mean_seconds", "Exponential mean of a step's time outside decode and sampling.", "overhead_ms"),
)


class _Histogram:
    """Counts of values in buckets; many values are taken in at once."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = np.array(bounds)
        self._counts: NDArray[np.int64] = np.zeros(len(bounds) + 1, np.int64)
        self._sum = 0.0

    def add(self, values: Sequence[float]) -> None:
        """Take values in."""
        places = np.searchsorted(self._bounds, values)
        self._counts += np.bincount(places, minlength=len(self._counts))
        self._sum += float(np.sum(values))

    def add_to(self, family: HistogramMetricFamily, label: str) -> None:
        """Write it into a family of metrics."""
        ends = [f"{bound:.15g}" for bound in self._bounds] + ["+Inf"]
        totals = accumulate(int(count) for count in self._counts)
        family.add_metric([label], list(zip(ends, map(float, totals), strict=True)), self._sum)


class _Ended:
    """What is counted of one model's requests when they end."""

    def __init__(self) -> None:
        self.outcomes = dict.fromkeys(_OUTCOMES, 0)
        self.cancels = dict.fromkeys(_CANCELS, 0)
        self.thinking_tokens = 0
        self.waits = _Histogram(_WAITS)
        self.gaps = _Histogram(_GAPS)
        self.durations = _Histogram(_DURATIONS)

    def observe(self, generation: Generation) -> None:
        """Count one."""
        self.outcomes[generation.finish_reason] += 1
        if generation.cancelled_by is not None:
            self.cancels[generation.cancelled_by] += 1
        latencies: list[float] = []
        for stream in generation.streams:
            first = stream.time_to_first_token_ms
            if first is not None:
                self.waits.add([first / 1000])
                self.gaps.add(stream.gaps)
            latencies.append(stream.metrics.latency_ms)
            self.thinking_tokens += stream.usage.thinking_tokens
        self.durations.add([max(latencies) / 1000])


class ServerState(NamedTuple):
    """What a server is doing at the moment at which its metrics are asked for.

    Attributes:
        is_ready: whether requests are served.
        num_running: requests that generate.
        engines: the counters of each model's engine, by the model's name.
    """

    is_ready: bool = False
    num_running: int = 0
    engines: Mapping[str, EngineMetrics] = {}


class ServerMetrics(Collector):
    """The metrics of one server, made of what it is told: it asks nobody.

    Attributes:
        refused: requests that were refused, since the queue was full.
    """

    def __init__(self) -> None:
        self.refused = 0
        self._state = ServerState()
        self._ended: dict[str, _Ended] = {}
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def observe(self, generation: Generation) -> None:
        """A generation has ended."""
        self._of(generation.model).observe(generation)

    def exposition(self, state: ServerState) -> tuple[bytes, str]:
        """The metrics as text, and its media type."""
        self._state = state
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def describe(self) -> Iterable[Metric]:
        """Nothing: what there is depends on the models that are loaded."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """All metrics at this moment."""
        yield InfoMetricFamily("headrace", "The version of the server.", {"version": VERSION})
        yield GaugeMetricFamily("headrace_ready", "Whether requests are served.", float(self._state.is_ready))
        yield GaugeMetricFamily("headrace_requests_running", "Requests that generate.", self._state.num_running)
        yield CounterMetricFamily("headrace_requests_refused", "Requests refused with a full queue.", self.refused)
        engines = self._state.engines
        yield from _of_engines(engines)
        yield from _of_ended({name: self._of(name) for name in engines})

    def _of(self, model: str) -> _Ended:
        return self._ended.setdefault(model, _Ended())


def _of_engines(engines: Mapping[str, EngineMetrics]) -> Iterable[Metric]:
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
        "headrace_streams_finished", "Streams that have ended, by how.", labels=["model", "reason"]
    )
    for model, metrics in engines.items():
        for reason in _OUTCOMES:
            finished.add_metric([model, reason], metrics.streams_finished.get(reason, 0))
    yield finished


def _of_ended(ended: dict[str, _Ended]) -> Iterable[Metric]:
    requests = CounterMetricFamily(
        "headrace_requests", "Requests that have ended, by how.", labels=["model", "outcome"]
    )
    cancels = CounterMetricFamily(
        "headrace_cancels", "Requests that were cancelled, by whom.", labels=["model", "reason"]
    )
    timeouts = CounterMetricFamily("headrace_timeouts", "Requests that ran into a deadline.", labels=["model"])
    thoughts = CounterMetricFamily(
        "headrace_thinking_tokens", "Tokens sampled that were thoughts, of requests that have ended.", labels=["model"]
    )
    waits = HistogramMetricFamily(
        "headrace_time_to_first_token_seconds", "From a request to its first token.", labels=["model"]
    )
    gaps = HistogramMetricFamily(
        "headrace_inter_token_seconds",
        "Between two tokens of a stream, pauses for its reader left out.",
        labels=["model"],
    )
    durations = HistogramMetricFamily(
        "headrace_request_duration_seconds", "From a request to its last token.", labels=["model"]
    )
    for model, counts in ended.items():
        for outcome, count in counts.outcomes.items():
            requests.add_metric([model, outcome], count)
        for reason, count in counts.cancels.items():
            cancels.add_metric([model, reason], count)
        timeouts.add_metric([model], counts.outcomes["timeout"])
        thoughts.add_metric([model], counts.thinking_tokens)
        counts.waits.add_to(waits, model)
        counts.gaps.add_to(gaps, model)
        counts.durations.add_to(durations, model)
    yield from (requests, cancels, timeouts, thoughts, waits, gaps, durations)
