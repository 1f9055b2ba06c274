"""How many threads the model computes with."""

from __future__ import annotations

import math
import os
from pathlib import Path

__all__ = ["available_cores"]


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
