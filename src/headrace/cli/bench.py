"""`headrace bench`: measures a model on this machine, and writes a table or JSON."""

from __future__ import annotations

import json as json_module
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.cli.models import complete_model
from headrace.cli.output import write
from headrace.cli.shared_options import GPULayers, KVTypeOption
from headrace.cli.terminal import Waiting, say
from headrace.values.errors import InvalidRequestError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from headrace.bench import Bench, Series

__all__ = ["bench"]

_INTERRUPTED = 130
_STREAMS = "1,2,4,8,16"
_MAX_STREAMS = 128  # that a model can be loaded for
_NUMBERS = frozenset(map(str, range(1, _MAX_STREAMS + 1)))


def bench(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A name (see headrace models), or a path to a .gguf file.",
            autocompletion=complete_model,
        ),
    ],
    streams: Annotated[
        str, typer.Option(metavar="N,N,...", help="Numbers of streams that decode at the same time, measured in turn.")
    ] = _STREAMS,
    tokens: Annotated[
        int | None, typer.Option(help="Number of tokens that each stream decodes.  [default: 96, or 32 with --quick]")
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(help="Length of the long prompt, in tokens.")] = 512,
    rounds: Annotated[
        int | None, typer.Option(help="Number of times that everything is measured.  [default: 3, or 1 with --quick]")
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="One round with fewer tokens: takes an eighth of the time, and is less exact."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Write one JSON object instead of the table.")] = False,
    n_ctx: Annotated[
        int | None, typer.Option(help="Size of the context in tokens; if absent, as much as the measurements need.")
    ] = None,
    kv_type: KVTypeOption = "f16",
    threads: Annotated[
        int | None, typer.Option(help="Maximum number of compute threads; if absent, one per available core.")
    ] = None,
    gpu_layers: GPULayers = 0,
) -> None:
    """Measure a model on this machine.

    The figures are prefill and decode in tokens per second, the longest wait for a token, the time to first token, and
    the duration of a step; each is the median of the rounds, with the least and the most. Close other programs: one
    that keeps a core busy makes all figures worse, and a line on standard error says so. Ctrl-C stops the measurement
    and writes the figures so far.
    """
    from headrace.api.model import Model
    from headrace.bench import Bench, OtherProcesses, needed_context

    numbers = _numbers(streams)
    tokens = (32 if quick else 96) if tokens is None else tokens
    rounds = (1 if quick else 3) if rounds is None else rounds
    if n_ctx is None:
        n_ctx = needed_context(numbers, tokens, prompt_tokens)
    with Waiting(f"loading {model}", measured=True) as waiting:
        loaded = Model.load(
            model,
            n_ctx=n_ctx,
            kv_type=kv_type,
            n_threads=threads,
            n_gpu_layers=gpu_layers,
            max_streams=max(numbers),
            progress=waiting.update,
        )
    is_interrupted = False
    with loaded:
        bench = Bench(loaded, streams=numbers, tokens=tokens, prompt_tokens=prompt_tokens, rounds=rounds)
        others = OtherProcesses()
        with Waiting("warming up", measured=True) as waiting:
            try:
                for done, title in enumerate(bench.run()):
                    waiting.update(done / len(bench), title)
            except KeyboardInterrupt:
                is_interrupted = True
        busy, is_poor = others.busy_cores, others.are_disturbing
        machine = _machine(threads, kv_type) | {"busy_cores": round(busy, 3)}
    if is_poor:
        say(f"headrace: other processes kept {busy:.1f} cores busy, so these figures are worse than they should be")
    write(json_module.dumps(machine | bench.as_dict(), ensure_ascii=False) + "\n" if json else _page(bench, machine))
    if is_interrupted:
        raise typer.Exit(_INTERRUPTED)


def _numbers(text: str) -> list[int]:
    """Parse the value of --streams."""
    parts = text.replace(",", " ").split()
    if not parts or not all(part in _NUMBERS for part in parts):
        allowed = f"numbers from 1 to {_MAX_STREAMS} with commas between them, as in {_STREAMS}"
        raise InvalidRequestError("streams", text, allowed)
    return [int(part) for part in parts]


def _machine(threads: int | None, kv_type: str) -> dict[str, Any]:
    """Describe the machine and the settings."""
    from headrace.engine.tuning.cores import available_cores
    from headrace.values.version import VERSION

    return {
        "headrace": VERSION,
        "cpu": _cpu(),
        "cores": available_cores(),
        "threads": threads,
        "kv_type": kv_type,
        "platform": platform.platform(),
    }


def _cpu() -> str:
    """The name of the processor, if the system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _page(bench: Bench, machine: Mapping[str, Any]) -> str:
    """All measurements as text with tables."""
    from rich.console import Console, Group
    from rich.text import Text

    threads = "threads chosen by headrace" if machine["threads"] is None else _count(machine["threads"], "thread")
    rounds = "1 round" if bench.rounds == 1 else f"{bench.rounds} rounds: the median (the least to the most)"
    head = f"{bench.model.name} on {machine['cpu']}, {_count(machine['cores'], 'core')}, {threads}; {rounds}"
    parts: list[RenderableType] = [Text(head), Text(), _speeds(bench), Text(), _first_tokens(bench)]
    if any(table.decode_ms for table in bench.costs()):
        parts += [Text(), _costs(bench)]
    if not bench.is_complete:
        parts.append(Text("\nStopped before everything was measured."))
    console = Console()
    with console.capture() as capture:
        console.print(Group(*parts))
    return capture.get()


def _speeds(bench: Bench) -> Table:
    table = _table("", "tokens/s", "per stream", "longest wait")
    table.add_row(f"prefill, {bench.prompt_tokens} tokens", _cell(bench.prefill), "", "")
    for n in bench.streams:
        speed, gap = bench.decode(n), bench.worst_gap_ms(n)
        each = "-" if speed is None else f"{speed.median / n:.1f}"
        table.add_row(f"decode, {_count(n, 'stream')}", _cell(speed), each, _cell(gap, "ms"))
    return table


def _first_tokens(bench: Bench) -> Table:
    from headrace.bench import SHORT_PROMPT

    table = _table("time to first token", "")
    long = bench.prompt_tokens
    table.add_row(f"{SHORT_PROMPT} tokens", _cell(bench.ttft_ms("short"), "ms"))
    table.add_row(f"{long} tokens", _cell(bench.ttft_ms("long"), "ms"))
    table.add_row(f"{long} tokens, {long - SHORT_PROMPT} of them cached", _cell(bench.ttft_ms("cached"), "ms"))
    return table


def _costs(bench: Bench) -> Table:
    tables = bench.costs()
    table = _table("milliseconds per step", *(_count(one.threads, "thread") for one in tables))
    for rows in (1, 2, 4, 8, 16, 32, 64):
        if any(rows in one.decode_ms for one in tables):
            cells = (f"{one.decode_ms[rows]:.1f}" if rows in one.decode_ms else "-" for one in tables)
            table.add_row(f"{_count(rows, 'stream')}", *cells)
    known = [one.prefill_token_ms for one in tables]
    table.add_row("each prefilled token", *("-" if ms is None else f"{ms:.2f}" for ms in known))
    return table


def _table(*heads: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for index, head in enumerate(heads):
        table.add_column(head, justify="right" if index else "left")
    return table


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _cell(series: Series | None, unit: str = "") -> str:
    """Median, least and most; a fractional digit only below 100."""
    if series is None:
        return "-"
    digits = 0 if series.median >= 100 else 1
    median, low, high = (f"{value:.{digits}f}" for value in (series.median, series.least, series.most))
    text = f"{median} {unit}".rstrip()
    return f"{text} ({low} to {high})" if len(series.values) > 1 else text
