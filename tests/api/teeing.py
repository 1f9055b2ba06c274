"""Helpers for the tests of `tee`."""

from __future__ import annotations

from harness import Scripted, wait_until

from headrace import AsyncTokenStream

LONG = "abcdefghij" * 30


async def joined(stream: AsyncTokenStream) -> str:
    return "".join([token.text async for token in stream])


def idle(made: Scripted) -> bool:
    metrics = made.model.metrics
    return metrics.queued + metrics.running + metrics.paused == 0


def wait_for_pause(made: Scripted) -> None:
    wait_until(lambda: made.model.metrics.paused == 1)
    made.settle()
