"""`InProcess`: the engine without a server, in a process that runs a workload's streams with a thread for each."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection

from server_load import Reading

__all__ = ["InProcess"]


class InProcess:
    """Stands in for a `Target` in workloads that run streams to their ends.

    Args:
        pipe: the connection to the process with the engine.
    """

    name = "in-process"

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    @classmethod
    @asynccontextmanager
    async def started(cls, ref: str, threads: int | None) -> AsyncIterator[InProcess]:
        """Load the model in a new process, and end the process afterwards."""
        spawn = multiprocessing.get_context("spawn")
        pipe, far_end = spawn.Pipe()
        process = spawn.Process(target=_serve, args=(ref, threads, far_end), daemon=True)
        process.start()
        far_end.close()
        try:
            await asyncio.to_thread(pipe.recv)
            yield cls(pipe)
        finally:
            pipe.close()
            await asyncio.to_thread(process.join)

    async def read_all(self, prompts: Sequence[str], max_tokens: int) -> list[Reading]:
        """Run a stream for each prompt, all at once, and wait for their ends."""
        self._pipe.send((prompts, max_tokens))
        return await asyncio.to_thread(self._pipe.recv)


def _serve(ref: str, threads: int | None, pipe: Connection) -> None:
    from headrace import Model  # imported here, since the load generator also imports this module

    with Model.load(ref, n_threads=threads) as model:

        def read(prompt: str, max_tokens: int, readings: list[Reading]) -> None:
            sent = time.perf_counter()
            settings = {
                "max_tokens": max_tokens,
                "temperature": 0,
                "ignore_eos": True,
                "timeout_ms": 0,
                "speculation": "off",
            }
            stream = model.generate_stream(prompt, **settings)
            times = [time.perf_counter() for _ in stream]
            readings.append(Reading(sent, times, len(times)))

        pipe.send("ready")
        while True:
            try:
                prompts, max_tokens = pipe.recv()
            except EOFError:
                return
            readings: list[Reading] = []
            readers = [threading.Thread(target=read, args=(prompt, max_tokens, readings)) for prompt in prompts]
            for reader in readers:
                reader.start()
            for reader in readers:
                reader.join()
            pipe.send(readings)
