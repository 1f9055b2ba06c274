"""Measuring a model on this machine: prefill, decode of several streams at once, time to first token, step times."""

from __future__ import annotations

from headrace.bench.measurement import SHORT_PROMPT, Bench, Neighbours, Series, StepCosts, needed_context

__all__ = ["SHORT_PROMPT", "Bench", "Neighbours", "Series", "StepCosts", "needed_context"]
