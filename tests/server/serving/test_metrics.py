"""Metrics: text that Prometheus can read, and counts that are exact."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict

import pytest
from harness import Gate
from prometheus_client.parser import text_string_to_metric_families

from headrace.server.serving import metrics
from server.harness import MODEL, Server, running
from server.listening import eventually, run_on

Samples = dict[str, dict[tuple[str, ...], float]]


async def scraped(server: Server) -> Samples:
    """The values, by name and by the values of the labels beside the model."""
    answer = await server.ask("GET", "/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    samples: Samples = defaultdict(dict)
    for family in text_string_to_metric_families(answer.body.decode()):
        assert family.documentation
        for sample in family.samples:
            labels = dict(sample.labels)
            if "model" in labels:
                assert labels.pop("model") == MODEL
            samples[sample.name][tuple(labels.values())] = sample.value
    return samples


def test_counts_after_known_streams() -> None:
    async def run() -> None:
        gate = Gate()
        gate.open()
        async with running("abcdefgh", {"max_body_mb": 1}, before_step=gate) as server:
            before = await scraped(server)
            assert set(before["headrace_requests_total"].values()) == {0}

            await server.complete("hello", stream=True)  # 8 tokens and the end
            await server.complete("hello", stop="d")
            await server.complete("hello", max_tokens=2)
            await server.complete(["one", "two"], n=2, max_tokens=1)
            await server.settled()
            now = await scraped(server)
        assert now["headrace_requests_total"] == {
            ("stop",): 1,
            ("stop_sequence",): 1,
            ("length",): 2,
            ("tool_calls",): 0,
            ("cancelled",): 0,
            ("timeout",): 0,
            ("error",): 0,
        }
        assert now["headrace_streams_started_total"][()] == 7
        assert sum(now["headrace_streams_finished_total"].values()) == 7
        assert now["headrace_streams_finished_total"][("length",)] == 5
        assert now["headrace_completion_tokens_total"][()] == 9 + 4 + 2 + 4
        assert now["headrace_prompt_tokens_total"][()] == 5 * 3 + 3 * 4
        cached = now["headrace_prompt_cached_tokens_total"][()]
        # The last token of a prompt whose other ones are cached counts as decoded.
        assert 5 * 3 + 3 * 4 - 7 <= now["headrace_prefill_tokens_total"][()] + cached <= 5 * 3 + 3 * 4
        assert now["headrace_time_to_first_token_seconds_count"][()] == 7
        assert now["headrace_inter_token_seconds_count"][()] == 8 + 3 + 1
        assert now["headrace_request_duration_seconds_count"][()] == 4
        assert now["headrace_steps_total"][()] > 0
        assert now["headrace_step_mean_seconds"][()] >= now["headrace_step_overhead_mean_seconds"][()] > 0
        assert now["headrace_step_sampling_mean_seconds"][()] == 0  # a script is not sampled
        assert now["headrace_ready"][()] == 1
        assert now["process_resident_memory_bytes"][()] > 0
        for name in ("streams_queued", "streams_running", "streams_paused", "kv_used_tokens", "requests_running"):
            assert now[f"headrace_{name}"][()] == 0
        capacity, kept = now["headrace_kv_capacity_tokens"][()], now["headrace_kv_cached_tokens"][()]
        assert 0 < kept < capacity

    run_on("asyncio", run())


def test_what_an_idle_engine_offloads() -> None:
    async def run() -> None:
        async with running("abcdefgh") as server:
            assert (await scraped(server))["headrace_kv_offloaded_bytes"][()] == 0
            await server.complete("hello")
            model = server.scripted.model
            await eventually(lambda: model.metrics.kv_offloaded_bytes)
            size = model.metrics.kv_offloaded_bytes
            assert (await scraped(server))["headrace_kv_offloaded_bytes"][()] == size

    run_on("asyncio", run())


def test_what_runs_waits_is_refused_and_is_cancelled() -> None:
    async def run() -> None:
        gate = Gate()
        async with running("abc" * 1000, max_streams=1, max_queue=1, before_step=gate) as server:
            first = server.open_chat(id="first")
            await asyncio.to_thread(gate.step, 2)
            await asyncio.to_thread(gate.wait)
            second = server.open_chat(id="second")
            await first.until(b"data: ")
            await second.until(b"data: ")
            assert (await server.chat()).status == 429
            now = await scraped(server)
            assert now["headrace_streams_running"][()] == now["headrace_streams_queued"][()] == 1
            assert now["headrace_requests_running"][()] == 2
            assert now["headrace_requests_refused_total"][()] == 1
            assert now["headrace_kv_used_tokens"][()] > 0

            first.leave()
            await server.ask("DELETE", "/v1/streams/second")
            gate.open()
            await server.settled()
            now = await scraped(server)
        assert now["headrace_cancels_total"] == {("disconnect",): 1, ("stall",): 0, ("request",): 1, ("shutdown",): 0}
        assert now["headrace_requests_total"][("cancelled",)] == 2
        assert now["headrace_streams_finished_total"][("cancelled",)] == 2

    run_on("asyncio", run())


def test_timeouts_and_failures() -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no")

    async def run() -> None:
        async with running("abc", on_sample=fail) as server:
            assert (await server.chat()).status == 500
            await server.settled()
            now = await scraped(server)
            assert now["headrace_requests_total"][("error",)] == 1
            assert now["headrace_streams_finished_total"][("error",)] == 1

        settings = {"timeout_ms": 5}
        async with running("abc" * 1000, settings, max_streams=1, before_step=lambda _: time.sleep(0.01)) as server:
            first, second = server.open_chat(), server.open_chat()
            for socket in (first, second):
                await socket.until_over()
            await server.settled()
            now = await scraped(server)
            assert now["headrace_timeouts_total"][()] == now["headrace_requests_total"][("timeout",)] == 2
            assert all(b'"timeout"' in socket.body for socket in (first, second))

    run_on("asyncio", run())


def test_buckets() -> None:
    histogram = metrics._Histogram((0.1, 0.2, 0.4))
    histogram.add([0.05, 0.1, 0.15, 0.4, 7])
    histogram.add([])
    histogram.add([0.3])
    family = metrics.HistogramMetricFamily("x", "x", labels=["model"])
    histogram.add_to(family, "m")
    buckets = {sample.labels["le"]: sample.value for sample in family.samples if sample.name == "x_bucket"}
    assert buckets == {"0.1": 2, "0.2": 3, "0.4": 5, "+Inf": 6}
    [total] = [sample.value for sample in family.samples if sample.name == "x_sum"]
    assert total == pytest.approx(8.0)


def test_names_have_units_and_prefixes() -> None:
    async def run() -> Samples:
        async with running("abc") as server:
            return await scraped(server)

    for name in run_on("asyncio", run()):
        assert name.startswith(("headrace_", "process_"))
        base = name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")
        if "second" in name:
            assert base.endswith(("_seconds", "_seconds_total"))
