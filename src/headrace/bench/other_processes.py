"""`OtherProcesses`: how much of the machine other processes use during a measurement."""

from __future__ import annotations

import math
import os
import time

from headrace.engine.tuning.cores import available_cores

__all__ = ["OtherProcesses"]

# Figures are reliable while other processes keep at most this many cores busy.
_QUIET = 0.1


class OtherProcesses:
    """Measures how much of this machine other processes use, from now on; 0 if the system does not report it."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._worked = _seconds_worked()
        self._own = time.process_time()

    @property
    def busy_cores(self) -> float:
        """Cores that other processes have kept busy since the beginning, on average."""
        seconds = time.monotonic() - self._begin
        if seconds <= 0:
            return 0.0
        return max(0.0, _seconds_worked() - self._worked - (time.process_time() - self._own)) / seconds

    @property
    def are_disturbing(self) -> bool:
        """Whether this process, with a thread for each of its cores, had to wait for the others."""
        busy = self.busy_cores
        return busy > _QUIET and busy + available_cores() > (os.cpu_count() or 1)


def _seconds_worked() -> float:
    """Seconds that all cores of the machine together have worked since it was started; NaN if unknown."""
    try:
        with open("/proc/stat") as stat:
            user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(int, stat.readline().split()[1:])
        return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return math.nan
