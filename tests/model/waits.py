"""What these tests wait for, and what they feed a real model with."""

from __future__ import annotations

from harness import wait_until

from headrace import Model

__all__ = ["prompt_of", "until_idle"]


def until_idle(model: Model) -> None:
    """Wait until no stream is left, then check that nothing is left of them either."""

    def is_idle() -> bool:
        metrics = model.metrics
        return metrics.queued == metrics.running == metrics.paused == 0

    wait_until(is_idle)
    model.check_integrity()  # waits for the step that is running
    assert model.metrics.kv_used == 0, "an ended stream still holds KV"


def prompt_of(model: Model, count: int, seed: str) -> list[int]:
    """A prompt of so many tokens whose beginning is that of its seed."""
    tokens = model.tokenize(seed + " " + "the quick brown fox jumps over the lazy dog. " * (count // 10 + 1))
    assert len(tokens) >= count
    return tokens[:count]
