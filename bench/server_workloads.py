"""The workloads of the server bench: each sends requests to one server, and returns metrics as its user sees them."""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

from server_load import Answer, Reading, Target, decode_speed, speed, ttft, worst_gap

__all__ = [
    "ALONE",
    "SWEEP",
    "WORKLOADS",
    "Metric",
    "Prompts",
    "Workload",
    "at_once",
    "busy_cores",
    "note",
]

# With a space before it, each word is one token of SmolLM2 and Gemma. Greedy decoding goes on with more such words, so
# no stream ends by itself, not even on a server without `ignore_eos`.
_WORDS = (
    "time year people way day man thing woman life child world school state family student group country problem hand "
    "part place case week company system program question work government number night point home water room mother "
    "area money story fact month lot right study book eye job word business issue side kind head house service friend "
    "father power hour game line end member law car city community name president team minute idea body information "
    "back parent face others level office door health person art war history party result change morning reason "
    "research girl guy moment air teacher force education foot boy age policy music market sense nation plan college "
    "interest death experience effect road"
)

# Tokens of each stream in the workloads about speed.
TOKENS = 96
# Words of a short, a long and a shared prompt.
SHORT = 100
LONG = 1800
SHARED = 900
# Tokens of a stream that runs while a long prompt arrives: enough to outlast the long prompt's first token.
TOKENS_BESIDE_LONG = 256
TURNS = 6
# Tokens of a stream that nobody reads: more than all buffers between engine and client hold.
TOKENS_UNREAD = 1500
# Streams that are opened and abandoned, how many at once, and how many before memory is first measured.
ABANDONED = 1000
ABANDONED_AT_ONCE = 16
ABANDONED_BEFORE = 200


class Metric(NamedTuple):
    """A row of the table."""

    name: str
    unit: str
    is_more_better: bool


class Prompts:
    """Makes random prompts. The same seed makes the same prompts, for each server of a round."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)
        self._words = _WORDS.split()

    def words(self, count: int) -> str:
        """Return a prompt of `count` words."""
        return " ".join(self._random.choices(self._words, k=count))

    def several(self, num_prompts: int, count: int) -> list[str]:
        """Return `num_prompts` prompts of `count` words each."""
        return [self.words(count) for _ in range(num_prompts)]


Values = dict[Metric, float | None]


@dataclass(frozen=True)
class Workload:
    """Requests to send, and metrics to measure.

    Args:
        title: what the workload does, for the table.
        run: runs the workload once, and returns a value for each metric; None if there is none.
    """

    title: str
    run: Callable[[Target, Prompts], Awaitable[Values]]


_SPEED = Metric("tok/s", "", True)
_DECODE = Metric("tok/s, decode only", "", True)
_TTFT = Metric("p50 TTFT", "s", False)


def note(text: str) -> None:
    """Print a note to standard error."""
    print(f"note: {text}", file=sys.stderr)


def _speeds(target: Target, readings: list[Reading]) -> Values:
    others = [one.num_tokens for one in readings if one.num_tokens != TOKENS]
    if others:
        note(f"{target.name}: {len(others)} of {len(readings)} streams had not {TOKENS} tokens, but {others}")
    return {_SPEED: speed(readings), _DECODE: decode_speed(readings)}


def at_once(num_streams: int) -> Workload:
    """Return the workload of `num_streams` streams at once."""

    async def run(target: Target, prompts: Prompts) -> Values:
        readings = await target.read_all(prompts.several(num_streams, SHORT), TOKENS)
        values = _speeds(target, readings)
        return {**values, _TTFT: ttft(readings)} if num_streams == 8 else values

    title = "1 stream" if num_streams == 1 else f"{num_streams} streams at once"
    return Workload(f"{title}, {TOKENS} tokens after {SHORT} words", run)


async def _long_prompt(target: Target, prompts: Prompts) -> Values:
    running = await target.ask_all(prompts.several(7, SHORT), TOKENS_BESIDE_LONG)
    num_running = await _until_running(running)
    late = await target.ask(prompts.words(LONG), 4)
    late_reading = await late.reading()
    readings = [await answer.reading() for answer in running]
    begin, end = late.sent, late_reading.times[0]
    gaps = [
        after - before
        for one in readings
        for before, after in zip(one.times, one.times[1:], strict=False)
        if after > begin and before < end
    ]
    if min(one.times[-1] for one in readings) < end:
        note(f"{target.name}: a stream ended before the long prompt had its first token")
    if num_running < len(running):  # the long prompt waited for a free slot, and disturbed nobody
        note(f"{target.name}: ran {num_running} streams at once, so it has no gap to compare")
        gaps = []
    worst, late_ttft = Metric("worst gap of a running stream", "s", False), Metric("TTFT of the long one", "s", False)
    return {worst: max(gaps, default=None), late_ttft: ttft([late_reading])}


async def _until_running(answers: list[Answer]) -> int:
    """Wait until all streams run, or one is far ahead because the server runs fewer; return how many run."""
    num_running = ahead = 0
    while num_running < len(answers):
        before, num_running = num_running, sum(answer.num_events >= 4 for answer in answers)
        furthest = max(answer.num_events for answer in answers)
        if num_running > before:
            ahead = furthest
        if furthest - ahead > 64 or any(answer.is_over for answer in answers):
            break
        await asyncio.sleep(0.02)
    return num_running


async def _shared_prefix(target: Target, prompts: Prompts) -> Values:
    shared = prompts.words(SHARED)
    readings = await target.read_all([f"{shared} {own}" for own in prompts.several(8, 12)], 16)
    return {_TTFT: ttft(readings)}


async def _abandoned(target: Target, prompts: Prompts) -> Values:
    abandoned = await target.ask(prompts.words(LONG), 16)
    await asyncio.sleep(0.4)
    if abandoned.num_events:
        note(f"{target.name}: {LONG} words were read within 0.4 s, so there was nothing to abandon")
    abandoned.leave()
    reading = await (await target.ask(prompts.words(12), 16)).reading()
    await _settle()  # some servers go on with the abandoned prompt
    return {Metric("TTFT of the next", "s", False): ttft([reading])}


async def _chat(target: Target, prompts: Prompts) -> Values:
    conversation = prompts.words(SHORT)
    times: list[float] = []
    for _ in range(TURNS):
        conversation += f"\nUser: {prompts.words(40)}\nAssistant:"
        reading = await (await target.ask(conversation, 48)).reading()
        conversation += reading.text
        times.append(ttft([reading]))
    return {Metric("median TTFT", "s", False): statistics.median(times[1:])}


async def _beside_busy(target: Target, prompts: Prompts) -> Values:
    busy = subprocess.Popen([sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE)
    try:
        assert busy.stdout is not None
        busy.stdout.readline()
        return {_SPEED: _speeds(target, await target.read_all(prompts.several(8, SHORT), TOKENS))[_SPEED]}
    finally:
        busy.kill()
        busy.wait()


async def _slow_reader(target: Target, prompts: Prompts) -> Values:
    """Measure the speed of 7 streams beside an eighth that is read, and beside one that is not read."""
    speeds: list[float | None] = []
    for is_read in (True, False):
        eighth = await target.ask(prompts.words(SHORT), TOKENS if is_read else TOKENS_UNREAD, is_read=is_read)
        readings = await target.read_all(prompts.several(7, SHORT), TOKENS)
        speeds.append(decode_speed(readings))
        if is_read:
            await eighth.reading()
        else:
            eighth.leave()
    await _settle()
    read, unread = speeds
    ratio = None if read is None or unread is None else unread / read
    return {
        Metric("tok/s of 7 beside one that is read", "", True): read,
        Metric("tok/s of 7 beside one that is not", "", True): unread,
        Metric("the second to the first", "", True): ratio,
    }


async def _abandoned_often(target: Target, prompts: Prompts) -> Values:
    """Measure the memory left by streams that were abandoned, half of them before their first token."""

    async def abandon(count: int) -> None:
        for begin in range(0, count, ABANDONED_AT_ONCE):
            several = prompts.several(min(ABANDONED_AT_ONCE, count - begin), 12)
            answers = await target.ask_all(several, TOKENS_BESIDE_LONG)
            half = answers[::2]
            while any(answer.num_events < 2 and not answer.is_over for answer in half):
                await asyncio.sleep(0.005)
            for answer in answers:
                answer.leave()
        async with asyncio.timeout(30):
            while True:
                now = await target.metrics()
                if (
                    not now["headrace_streams_running"]
                    + now["headrace_streams_queued"]
                    + now["headrace_streams_paused"]
                ):
                    return
                await asyncio.sleep(0.1)

    await abandon(ABANDONED_BEFORE)
    before = await target.metrics()
    await abandon(ABANDONED)
    after = await target.metrics()
    resident = "process_resident_memory_bytes"
    return {
        Metric("streams", "", True): after["headrace_streams_started_total"] - before["headrace_streams_started_total"],
        Metric("resident before", "MB", False): before[resident] / 1e6,
        Metric("grown by", "MB", False): (after[resident] - before[resident]) / 1e6,
        Metric("KV in use afterwards", "tokens", False): after["headrace_kv_used_tokens"],
    }


def _sweep_of(num_streams: int) -> Workload:
    """Return the workload for one number of streams of the sweep."""

    async def run(target: Target, prompts: Prompts) -> Values:
        readings = await target.read_all(prompts.several(num_streams, SHORT), TOKENS)
        fast = _speeds(target, readings)[_SPEED]
        return {
            Metric(f"tok/s, {num_streams} at once", "", True): fast,
            Metric(f"worst gap, {num_streams} at once", "s", False): worst_gap(readings),
        }

    return Workload(f"{num_streams} at once", run)


async def _settle(limit: float = 5.0) -> None:
    """Wait until the machine is idle, for at most `limit` seconds."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline and await busy_cores(0.25) > 0.2:
        pass


async def busy_cores(seconds: float) -> float:
    """Return how many cores of the machine were busy, on average over `seconds`."""
    before, begin = _worked(), time.monotonic()
    await asyncio.sleep(seconds)
    return (_worked() - before) / (time.monotonic() - begin)


def _worked() -> float:
    """Return the seconds for which the machine's cores were busy since its start."""
    with open("/proc/stat") as stat:
        user, nice, system, _idle, _iowait, irq, softirq, *_ = (int(value) for value in stat.readline().split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


WORKLOADS: dict[str, Workload] = {
    "one": at_once(1),
    "four": at_once(4),
    "eight": at_once(8),
    "long-prompt": Workload(f"7 streams run, a prompt of {LONG:,} words arrives", _long_prompt),
    "shared-prefix": Workload(f"8 streams at once, {SHARED} shared words", _shared_prefix),
    "abandoned": Workload(f"a prompt of {LONG:,} words abandoned after 0.4 s", _abandoned),
    "chat": Workload(f"a chat, turns 2 to {TURNS}", _chat),
    "busy": Workload("8 streams at once beside a busy process", _beside_busy),
    "slow-reader": Workload("7 streams beside an eighth that is read, and beside one that is not", _slow_reader),
}

# The parts of the sweep, measured one after another and shown as one workload.
SWEEP = [_sweep_of(num_streams) for num_streams in (1, 2, 4, 8, 16)]

# Run on headrace only, once: the other servers do not report their memory and KV use.
ALONE: dict[str, Workload] = {
    "abandoned-often": Workload(f"{ABANDONED:,} streams opened and abandoned", _abandoned_often),
}
