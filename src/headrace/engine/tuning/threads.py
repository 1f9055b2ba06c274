"""How many threads the model computes with."""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path

__all__ = ["available_cores", "processor", "thread_counts"]


def available_cores(cgroup: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores that this process may really use: its CPU affinity, capped by its container's quota.

    More compute threads than free cores is a cliff, not a slope: llama.cpp's threads spin at barriers.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = cgroup.read_text().split()
        if quota != "max":
            cores = min(cores, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        pass  # not Linux, no control group, or no limit in a form we know
    return max(1, cores)


def thread_counts(most: int) -> tuple[int, ...]:
    """The thread counts worth a try where there may be so many: all of a few, of many each about twice the last."""
    if most <= 4:
        return tuple(range(1, most + 1))
    counts = [most]
    while counts[-1] > 1:
        counts.append(counts[-1] // 2)
    return tuple(reversed(counts))


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The kind of processor, as far as the system tells."""
    try:
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
