"""How long a start takes, from a warm page cache: `import headrace`, and the first token of `headrace run MODEL hi`.

    python bench/startup.py [--models smollm2 gemma3-270m] [--rounds 20] [--threads N] [--json]

Each command is a process, and the commands take turns. `to the first byte` is the time from the start of the process
until its first byte of text came through a pipe. `processor` is the processor time of the whole process, which a busy
machine changes less. Every line includes the time of `python -c pass`, which also has a line of its own. A first round,
which does not count, compiles the bytecode.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

Values = dict[str, list[float]]


def start(arguments: Sequence[str]) -> dict[str, float]:
    """Run Python with the arguments; return the seconds until its first byte or its end, and its processor time."""
    # Without stored bytecode, half of the measured time would be compiling.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    begin = time.perf_counter()
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        first = os.read(process.stdout.fileno(), 1)
        seconds = time.perf_counter() - begin
        process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(arguments)} ended with {process.returncode}")
    return {"to the first byte" if first else "to the end": seconds, "processor": usage.ru_utime + usage.ru_stime}


def measure(cases: dict[str, list[str]], rounds: int) -> dict[str, Values]:
    """Run the cases in turn, for `rounds` rounds, after a first round that does not count."""
    values: dict[str, Values] = {name: {} for name in cases}
    for number in range(rounds + 1):
        for name, arguments in cases.items():
            for what, seconds in start(arguments).items():
                if number:
                    values[name].setdefault(what, []).append(seconds)
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["smollm2", "gemma3-270m"])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, help="threads that compute; by default headrace chooses")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}; allowed: at least 1")
    cases = {"python -c pass": ["-c", "pass"], "import headrace": ["-c", "import headrace"]}
    for model in options.models:
        # Greedy, so that the first token is never the end. A base model has no chat template, so it gets --raw.
        command = ["run", model, "hi", "--max-tokens", "1", "--temperature", "0"]
        command += [] if options.threads is None else ["--threads", str(options.threads)]
        command += ["--raw"] if "gemma" in model else []
        cases[f"headrace run {model} hi"] = ["-m", "headrace", *command]
    values = measure(cases, options.rounds)
    if options.json:
        print(json.dumps(report(values), indent=1))
        return
    print(f"{'milliseconds':<28}{'':<20}{'median':>8}{'least':>8}{'most':>8}")
    for name, series in values.items():
        for what, times in series.items():
            row = (statistics.median(times), min(times), max(times))
            print(f"{name:<28}{what:<20}" + "".join(f"{value * 1000:>8.0f}" for value in row))


def report(values: dict[str, Values]) -> dict[str, Any]:
    """Return the JSON report, in seconds."""
    return {
        name: {what: {"median": statistics.median(times), "values": times} for what, times in series.items()}
        for name, series in values.items()
    }


if __name__ == "__main__":
    main()
