"""`available_cores` and `thread_counts`: how many compute threads this process can use."""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path

__all__ = ["available_cores", "processor", "thread_counts"]


def available_cores(cgroup: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Returns the number of cores that this process may use: its CPU affinity, capped by its container's quota.

    With more compute threads than free cores, steps become many times slower: llama.cpp's threads spin at barriers.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = cgroup.read_text().split()
        if quota != "max":
            cores = min(cores, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        pass  # not Linux, no control group, or a limit in another format
    return max(1, cores)


def thread_counts(most: int) -> tuple[int, ...]:
    """Returns the thread counts to choose from, up to `most`: all if they are few, otherwise by halving."""
    if most <= 4:
        return tuple(range(1, most + 1))
    counts = [most]
    while counts[-1] > 1:
        counts.append(counts[-1] // 2)
    return tuple(reversed(counts))


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Returns the name of the processor, as the system reports it."""
    try:
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
