"""`Bench` measures a model on this machine: prefill, decode of several streams, time to first token, step times."""

from __future__ import annotations

from headrace.bench.measurement import SHORT_PROMPT, Bench, StepCosts, needed_context
from headrace.bench.other_processes import OtherProcesses
from headrace.bench.series import Series

__all__ = ["SHORT_PROMPT", "Bench", "OtherProcesses", "Series", "StepCosts", "needed_context"]
