"""`headrace.bench` and the command around it: what is counted and in which form; never how fast anything was."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest
from harness import scripted, within

from headrace import InvalidRequestError
from headrace.bench import SHORT_PROMPT, Bench, OtherProcesses, needed_context
from headrace.engine.runner import Slice
from headrace.engine.scripted import ScriptedRunner

PATIENCE = 120  # seconds; nothing here should take that long
ONE_THREAD = ("bench", "smollm2", "--threads", "1")
SMALL = (*ONE_THREAD, "--streams", "1,2", "--tokens", "4", "--prompt-tokens", "40", "--rounds", "2")
SERIES = {"median", "least", "most", "values"}


class Tireless(ScriptedRunner):
    """Writes for as long as it is asked to, whatever the script."""

    def _sample(self, part: Slice) -> Any:
        part.sampler.script, part.sampler.at = [98], 0
        return super()._sample(part)


def bench_of(made: Any, **settings: Any) -> Bench:
    chosen: dict[str, Any] = {"streams": (1, 3), "tokens": 8, "prompt_tokens": 100, "rounds": 2, **settings}
    return Bench(made.model, **chosen)


def test_every_round_has_everything_once_and_nothing_of_it_is_cached_but_what_should_be() -> None:
    with scripted(runner_type=Tireless) as made:
        bench = bench_of(made)
        titles = within(lambda: list(bench.run()))
        assert titles == [
            f"{case}, round {number} of 2"
            for number in (1, 2)
            for case in ("a long prompt", "a short prompt", "1 stream", "3 streams")
        ]
        assert len(titles) == len(bench)
        assert bench.is_complete
        # In each round: a long prompt, the same but for its end, a short one, and four streams; three warm it up.
        metrics = made.model.metrics
        assert metrics.streams_finished == {"length": 3 + 2 * 7}
        assert metrics.cached_tokens == 2 * (100 - SHORT_PROMPT)
        assert metrics.prompt_tokens == 3 * SHORT_PROMPT + 2 * (2 * 100 + 5 * SHORT_PROMPT)
        for series in (bench.prefill, bench.decode(3), bench.worst_gap_ms(1), bench.ttft_ms("cached")):
            assert series is not None
            assert len(series.values) == 2
            assert 0 < series.least <= series.median <= series.most


def test_the_streams_of_a_measurement_run_together() -> None:
    with scripted(runner_type=Tireless) as made:
        within(lambda: list(bench_of(made, streams=(5,), rounds=1).run()))
        assert max(len(step) for step in made.steps) == 5


def test_the_object_has_nothing_where_nothing_was_measured_yet() -> None:
    with scripted(runner_type=Tireless) as made:
        bench = bench_of(made)
        run = bench.run()
        within(lambda: [next(run) for _ in range(2)])
        run.close()
        report = bench.as_dict()
        assert report["is_complete"] is bench.is_complete is False
        assert set(report["prefill"]["tokens_per_second"]) == SERIES
        assert report["time_to_first_token_ms"]["short"]["ms"] is None
        assert [one["tokens_per_second"] for one in report["decode"]] == [None, None]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"streams": (1, 17)}, "streams is 17; allowed: a whole number, 1 to 16"),
        ({"streams": ()}, "streams is ()"),
        ({"tokens": 1}, "tokens is 1; allowed: a whole number, at least 2"),
        ({"prompt_tokens": 31}, "prompt_tokens is 31; allowed"),
        ({"rounds": 0}, "rounds is 0; allowed"),
        ({"prompt_tokens": 5000}, "n_ctx is 4096; allowed: at least 5036"),
        ({"tokens": 2000}, "n_ctx is 4096; allowed: at least"),
        ({"prompt_tokens": 4060}, "prompt_tokens is 4060; allowed: what fits the model's longest sequence, 200 tokens"),
        (
            {"streams": (1,), "tokens": 400},
            "tokens is 400; allowed: what fits the model's longest sequence, 200 tokens",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(settings: dict[str, Any], message: str) -> None:
    class Short(ScriptedRunner):
        max_length = 200

    with scripted(runner_type=Short) as made, pytest.raises(InvalidRequestError) as caught:
        bench_of(made, **settings)
    assert message in str(caught.value)


def test_the_context_that_is_needed_is_enough() -> None:
    for streams, tokens, prompt_tokens in (((1, 16), 8, 40), ((1,), 4, 300), ((2,), 64, 32)):
        needed = needed_context(streams, tokens, prompt_tokens)
        with scripted(runner_type=Tireless, num_cells=needed) as made:
            bench = Bench(made.model, streams=streams, tokens=tokens, prompt_tokens=prompt_tokens, rounds=1)
            within(lambda bench=bench: list(bench.run()))
            assert bench.is_complete
            assert made.model.metrics.preemptions == 0


def test_a_busy_neighbour_is_noticed() -> None:
    others = OtherProcesses()
    work = "import time\nwhile time.process_time() < 0.5: pass"
    subprocess.run([sys.executable, "-c", work], check=True, timeout=PATIENCE)
    assert others.busy_cores > 0


# The command.


def headrace(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "headrace", *arguments], capture_output=True, timeout=PATIENCE)


def test_json_is_one_object_with_every_value() -> None:
    process = headrace(*SMALL, "--json")
    assert process.returncode == 0, process.stderr
    report = json.loads(process.stdout)
    assert process.stdout.count(b"\n") == 1
    assert set(report) == {
        *(
            "headrace",
            "cpu",
            "cores",
            "threads",
            "kv_type",
            "platform",
            "busy_cores",
            "model",
            "is_complete",
            "rounds",
            "tokens",
        ),
        *("n_ctx", "prefill", "decode", "time_to_first_token_ms", "costs"),
    }
    assert (report["model"], report["threads"], report["rounds"], report["is_complete"]) == ("smollm2", 1, 2, True)
    assert report["prefill"]["prompt_tokens"] == 40
    assert [one["streams"] for one in report["decode"]] == [1, 2]
    first = report["time_to_first_token_ms"]
    assert {name: (one["prompt_tokens"], one["cached_tokens"]) for name, one in first.items()} == {
        "short": (SHORT_PROMPT, 0),
        "long": (40, 0),
        "cached": (40, 40 - SHORT_PROMPT),
    }
    (costs,) = report["costs"]
    assert set(costs) == {"threads", "decode", "prefill_token_ms"}
    assert costs["threads"] == 1
    assert {one["rows"] for one in costs["decode"]} >= {1, 2}
    assert all(one["ms"] > 0 for one in costs["decode"])
    assert costs["prefill_token_ms"] > 0
    series = [report["prefill"]["tokens_per_second"], *(one["ms"] for one in first.values())]
    series += [one[name] for one in report["decode"] for name in ("tokens_per_second", "worst_gap_ms")]
    for one in series:
        assert set(one) == SERIES
        assert len(one["values"]) == 2
        assert all(value > 0 for value in one["values"])


def test_the_table_has_a_line_for_everything() -> None:
    process = headrace(*SMALL, "--rounds", "1")
    assert process.returncode == 0, process.stderr
    page = process.stdout.decode()
    for line in (
        "prefill, 40 tokens",
        "decode, 1 stream ",
        "decode, 2 streams",
        "time to first token",
        "24 of them",
        "per step",
    ):
        assert line in page
    assert "stopped" not in page


def test_ctrl_c_ends_it_with_what_was_measured() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a child of a background job would ignore it
    read, write = os.openpty()
    command = [sys.executable, "-m", "headrace", *SMALL, "--rounds", "1000", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=write) as process:
        try:
            os.close(write)
            shown = b""
            while b"round 2 of 1000" not in shown:  # the progress on a terminal
                shown += os.read(read, 4096)
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
            with contextlib.suppress(OSError):
                os.close(read)
    assert process.returncode == 130
    report = json.loads(output)
    assert report["is_complete"] is False
    assert len(report["prefill"]["tokens_per_second"]["values"]) >= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--streams", "0"], "--streams is '0'; allowed: numbers from 1 to 128"),
        (["--streams", "1,x"], "--streams is '1,x'; allowed"),
        (["--streams", "1000"], "--streams is '1000'; allowed"),
        (["--streams", "9" * 5000], "--streams is '9999"),
        (["--tokens", "0"], "--tokens is 0; allowed"),
        (["--rounds", "0"], "--rounds is 0; allowed"),
        (["--prompt-tokens", "9000"], "--prompt-tokens is 9000; allowed: what fits"),
        (["--n-ctx", "300"], "--n-ctx is "),
    ],
)
def test_bad_flags(arguments: list[str], message: str) -> None:
    process = headrace(*ONE_THREAD, *arguments)
    assert process.returncode == 2, process.stderr
    assert process.stdout == b""
    assert message in process.stderr.decode()
    assert process.stderr.count(b"\n") == 1
