"""Compares `headrace serve` with other servers over HTTP, workload by workload, in one interleaved run.

    python bench/server.py [all | NAME | NAME=URL ...] [--model smollm2] [--rounds 3] [--only one eight ...] [--json]

All requests are streamed, greedy `/v1/completions`. The servers take turns. Each round has fresh prompts, the same for
all servers. The table has medians, with the least and the most in brackets. Its last column compares headrace with the
best of the others: the median of the rounds' ratios, each of two measurements that are neighbours in time.
`in-process` compares the server with the same engine without a server. README.md describes the peers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import signal
import statistics
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import uvloop
from peers import PEERS, peers_folder, running
from plot import sweep_svg
from server_engine import InProcess
from server_load import EXTRAS, Target
from server_process import PATIENCE, free_port, started
from server_workloads import ALONE, SWEEP, WORKLOADS, Metric, Prompts, Workload, at_once, busy_cores, note

OURS = "headrace"
IN_PROCESS = "in-process"
SWEEP_NAME = "sweep"
# If more cores than this are busy while all servers are idle, a note says that the figures will be poor.
QUIET = 0.1

# For each metric of a workload and each server, the values of all rounds.
Series = dict[Metric, dict[str, list[float | None]]]


@contextmanager
def serving(model: str, threads: int | None, *, speculation: bool) -> Iterator[str]:
    """Run `headrace serve` as a process; yields its URL."""
    port = free_port()
    command = [sys.executable, "-m", "headrace", "serve", model, "--host", "127.0.0.1", "--port", str(port)]
    # The workloads' greedy texts go round in circles, which are easier to guess than real texts.
    command += [] if speculation else ["--no-speculation"]
    if threads is not None:
        command += ["--threads", str(threads)]
    with started("headrace serve", command, port, "/ready") as url:
        yield url


async def meet(target: Target) -> None:
    """Find out a server's name for the model and which extras it accepts, and warm it up."""
    url = target.place._replace(path=f"{target.place.path}/v1/models").geturl()
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            target.model = json.load(response)["data"][0]["id"]
    except (OSError, LookupError, ValueError) as error:
        raise SystemExit(f"{target.name}: {url} does not name a model: {error}") from None
    warm_up = Prompts(f"{target.name} {secrets.token_hex(4)}")
    for extras in (EXTRAS, {}):
        target.extras = extras
        try:
            async with asyncio.timeout(PATIENCE):
                await target.read_all(warm_up.several(1, 16), 4)
            break
        except RuntimeError as error:
            if not extras:
                raise SystemExit(str(error)) from None
            note(f"{target.name} takes none of {', '.join(extras)}")
    for num_streams, num_words in ((1, 400), (8, 50), (4, 50), (2, 50)):
        await target.read_all(warm_up.several(num_streams, num_words), 16)


async def measure(
    workload: Workload, targets: Sequence[Any], seed: str, rounds: int, patience: float = PATIENCE
) -> Series:
    """Run a workload on all servers in turn, once a round."""
    series: Series = {}
    for number in range(rounds):
        # Back and forth, so that no server always follows the same neighbour.
        for target in targets if number % 2 == 0 else reversed(targets):
            async with asyncio.timeout(patience):
                values = await workload.run(target, Prompts(f"{seed} {workload.title} {number}"))
            for metric, value in values.items():
                series.setdefault(metric, {}).setdefault(target.name, []).append(value)
            await asyncio.sleep(0.1)  # the server's threads spin for a moment after their work
    return series


def ratio(series: dict[str, list[float | None]], name: str, other: str) -> float | None:
    """Return the median of the rounds' ratios of one server to another."""
    pairs = zip(series[name], series[other], strict=True)
    ratios = [a / b for a, b in pairs if a is not None and b is not None]
    return statistics.median(ratios) if ratios else None


def best(series: dict[str, list[float | None]], metric: Metric) -> str | None:
    """Return the server with the best median, headrace aside; None if nothing was measured."""
    medians = {
        name: statistics.median(found)
        for name, values in series.items()
        if name != OURS and (found := [value for value in values if value is not None])
    }
    if not medians:
        return None
    return (max if metric.is_more_better else min)(medians, key=lambda name: medians[name])


def cell(values: Sequence[float | None]) -> str:
    """Format median, least and most."""
    found = [value for value in values if value is not None]
    if not found:
        return "-"
    digits = 3 if max(found) < 10 else 1
    low, middle, high = (f"{value:.{digits}f}" for value in (min(found), statistics.median(found), max(found)))
    return f"{middle} ({low} to {high})" if len(found) > 1 else middle


def show(workload: Workload, series: Series) -> None:
    """Print a workload's part of the table."""
    names = list(next(iter(series.values())))
    rows = [["", *names, "to the best"]]
    for metric, values in series.items():
        other = best(values, metric) if OURS in values else None
        compared = ratio(values, OURS, other) if other is not None else None
        label = f"{metric.name}, {metric.unit}" if metric.unit else metric.name
        rows.append([label, *(cell(values[name]) for name in names), f"{compared:.3f} x {other}" if compared else "-"])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    print(f"\n{workload.title}")
    for label, *cells in rows:
        print(f"  {label:<34}" + "".join(f"  {one:>{width}}" for one, width in zip(cells, widths[1:], strict=True)))
    sys.stdout.flush()


def as_json(workload: Workload, series: Series) -> dict[str, Any]:
    """Return a workload's part of the JSON report."""
    metrics: dict[str, Any] = {}
    for metric, values in series.items():
        servers = {name: {"values": some, "median": _median(some)} for name, some in values.items()}
        other = best(values, metric) if OURS in values else None
        compared = None if other is None else {"to": other, "ratio": ratio(values, OURS, other)}
        metrics[metric.name] = {
            "unit": metric.unit,
            "more_is_better": metric.is_more_better,
            "servers": servers,
            "best": compared,
        }
    return {"title": workload.title, "metrics": metrics}


def _median(values: Sequence[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return statistics.median(found) if found else None


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    allowed = [*WORKLOADS, SWEEP_NAME, *ALONE, IN_PROCESS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "peers",
        nargs="*",
        metavar="PEER",
        help=f"{', '.join(PEERS)} or all, to be built and started; or NAME=URL, which serves the same model",
    )
    parser.add_argument("--model", default="smollm2", help="the model to serve: a name or a path")
    parser.add_argument("--url", help="a headrace server that runs already; by default one is started")
    parser.add_argument("--threads", type=int, help="threads that headrace computes with; by default it chooses")
    parser.add_argument("--peers-folder", type=Path, default=peers_folder(), help="folder in which the peers are built")
    parser.add_argument("--speculation", action="store_true", help="let headrace guess tokens")
    parser.add_argument("--slots", type=int, default=8, help="how many streams `tuned` runs at once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="WORKLOAD",
        default=[],
        help=", ".join(allowed),
    )
    parser.add_argument("--no-sweep", action="store_true", help="skip the sweep")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    parser.add_argument("--svg", type=Path, help="the file into which the sweep is drawn")
    options = parser.parse_args(arguments)
    options.only = [name for name in options.only or allowed if name != SWEEP_NAME or not options.no_sweep]
    unknown = set(options.only) - set(allowed)
    if unknown:
        parser.error(f"--only is {', '.join(sorted(unknown))}; allowed: {', '.join(allowed)}")
    if options.svg is not None and SWEEP_NAME not in options.only:
        parser.error(f"--svg draws the sweep; allowed: with {SWEEP_NAME} among the workloads")
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}; allowed: at least 1")
    if "all" in options.peers:
        options.peers = [*PEERS, *(peer for peer in options.peers if peer not in ("all", *PEERS))]
    for peer in options.peers:
        name, equals, url = peer.partition("=")
        is_url = name and equals and url.startswith("http://") and name not in (OURS, IN_PROCESS)
        if peer not in PEERS and not is_url:
            parser.error(
                f"a peer is {peer!r}; allowed: {', '.join(PEERS)}, all, or NAME=http://HOST:PORT with another name "
                f"than {OURS}"
            )
    return options


async def run(options: argparse.Namespace, url: str, peers: dict[str, str]) -> None:
    """Run the workloads, and print the table or the report."""
    wanted = options.only
    targets = [Target(OURS, url), *(Target(*peer) for peer in peers.items())]
    seed = secrets.token_hex(8)  # fresh in each run, since a server may have cached the prompts of the last one
    for target in targets:
        await meet(target)
    async with AsyncExitStack() as stack:
        if IN_PROCESS in wanted:
            engine = await stack.enter_async_context(InProcess.started(options.model, options.threads))
            await engine.read_all(Prompts(seed).several(8, 50), 16)
        await asyncio.sleep(1)
        busy = await busy_cores(2)
        if busy > QUIET:
            note(f"{busy:.2f} cores are at work while all servers are idle; close what else is running")
        report: dict[str, Any] = {
            "model": options.model,
            "rounds": options.rounds,
            "busy_cores": round(busy, 3),
            "servers": [target.name for target in targets],
            "workloads": {},
        }
        if not options.json:
            print(f"{targets[0].model}, {options.rounds} rounds: the median (the least to the most)")
        for name in wanted:
            if name == IN_PROCESS:
                eight = at_once(8)
                workload = Workload(f"{eight.title}: with a server and without", eight.run)
                series = await measure(workload, [targets[0], engine], seed, options.rounds)
            elif name == SWEEP_NAME:
                series = {}
                for part in SWEEP:
                    series |= await measure(part, targets, seed, options.rounds)
                workload = Workload("streams at once, throughput and worst gap", SWEEP[0].run)
            elif name in ALONE:
                workload = ALONE[name]
                series = await measure(workload, targets[:1], seed, 1, 10 * PATIENCE)
            else:
                workload = WORKLOADS[name]
                series = await measure(workload, targets, seed, options.rounds)
            report["workloads"][name] = as_json(workload, series)
            if not options.json:
                show(workload, series)
        if options.svg is not None:
            options.svg.write_text(sweep_svg(report), encoding="utf-8")
        if options.json:
            print(json.dumps(report, indent=1))


def main() -> None:
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped on SIGTERM as well
    with ExitStack() as stack:
        url = options.url or stack.enter_context(
            serving(options.model, options.threads, speculation=options.speculation)
        )
        named = [peer for peer in options.peers if peer in PEERS]
        urls = stack.enter_context(running(named, options.model, options.peers_folder, options.slots))
        given = dict(peer.split("=", 1) for peer in options.peers if peer not in PEERS)
        uvloop.run(run(options, url, urls | given))


if __name__ == "__main__":
    main()
