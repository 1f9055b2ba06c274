"""Processor time of headrace itself: of the engine thread outside decode and sampling, and of the server's event loop.

    python bench/overhead.py [--models smollm2 gemma3-270m] [--streams 1 8 16] [--steps 48] [--json]

Greedy streams of a real model are first read in-process, by a thread for each. Then they are read over HTTP, with the
server's event loop in a thread of this process and the clients in another process. Only steps in which all streams
decode are counted. "sampling" and "beside" (everything outside decode and sampling) are processor times of the engine
thread, in microseconds a step. "loop" is the event loop's, in microseconds a token. Other processes hardly change these
times. After a decode the processor's caches are cold, so the same code takes several times as long as in a tight loop.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import socket
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import uvicorn
import uvloop

from headrace import Model
from headrace.server.serve import _uvicorn_config  # pyright: ignore[reportPrivateUsage]
from headrace.server.serving.service import Service
from headrace.server.serving.settings import Settings

SETTINGS: dict[str, Any] = {"temperature": 0, "ignore_eos": True, "timeout_ms": 0}
PROMPT_TOKENS = 16
# Prompts are read one after another, so the first streams start earlier than the last. This many further tokens keep
# all of them running while they are measured.
HEAD_START = 48


class Row(NamedTuple):
    """The figures for one model and one number of streams."""

    model: str
    streams: int
    sampling_us: float
    beside_us: float
    loop_us: float


class Clock:
    """The processor time of the engine thread, step by step.

    Args:
        engine: a model's engine; its methods are replaced by ones that record their times.
    """

    def __init__(self, engine: Any) -> None:
        self._spent = {"decode": 0.0, "sampling": 0.0}
        self._steps: list[tuple[int, float, float, float]] = []  # streams, all, decode, sampling
        runner = engine._runner
        self._watch(runner._context, "_decode", "decode")
        self._watch(runner, "_sample_rows", "sampling")
        step, schedule = engine._step, engine._scheduler.schedule
        parts: list[Any] = [()]

        def timed_schedule(now: float) -> Any:
            parts[0] = schedule(now)
            return parts[0]

        def timed_step() -> None:
            self._spent = dict.fromkeys(self._spent, 0.0)
            begin = time.thread_time()
            step()
            total = time.thread_time() - begin
            if parts[0] and all(part.num_tokens == 1 for part in parts[0]):
                self._steps.append((len(parts[0]), total, self._spent["decode"], self._spent["sampling"]))

        engine._step, engine._scheduler.schedule = timed_step, timed_schedule

    def _watch(self, owner: Any, name: str, key: str) -> None:
        function = getattr(owner, name)

        def timed(*arguments: Any) -> Any:
            begin = time.thread_time()
            try:
                return function(*arguments)
            finally:
                self._spent[key] += time.thread_time() - begin

        setattr(owner, name, timed)

    def clear(self) -> None:
        """Forget the steps so far."""
        self._steps.clear()

    def take(self, streams: int) -> tuple[float, float]:
        """Return the medians of sampling and of the rest without decode, over the new steps with `streams` streams."""
        steps = [step[1:] for step in self._steps if step[0] == streams]
        self._steps.clear()
        sampling = statistics.median(sampling for _, _, sampling in steps)
        beside = statistics.median(total - decode - sampling for total, decode, sampling in steps)
        return sampling * 1e6, beside * 1e6


def run_in_process(model: Model, prompts: list[list[int]], steps: int) -> None:
    """Read one stream for each prompt to its end, with a thread for each."""

    def read(prompt: list[int]) -> None:
        for _ in model.generate_stream(prompt, max_tokens=steps, **SETTINGS):
            pass

    readers = [threading.Thread(target=read, args=(prompt,)) for prompt in prompts]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()


def ask(port: int, prompts: list[list[int]], steps: int) -> None:
    """Read the same streams over HTTP, as a process that only reads."""
    connections: list[socket.socket] = []
    for prompt in prompts:
        body = {"model": "m", "prompt": prompt, "max_tokens": steps, "stream": True, "temperature": 0}
        data = json.dumps({**body, "ignore_eos": True}).encode()
        headers = ("Host: m", "Connection: close", "Content-Type: application/json", f"Content-Length: {len(data)}")
        head = "\r\n".join(("POST /v1/completions HTTP/1.1", *headers, "", ""))
        connections.append(socket.create_connection(("127.0.0.1", port)))
        connections[-1].sendall(head.encode() + data)
    threads = [threading.Thread(target=_drain, args=(one,)) for one in connections]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _drain(connection: socket.socket) -> None:
    answer = bytearray()
    while data := connection.recv(65536):
        answer += data
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(answer.decode())


class Serving:
    """A server for a model, with its event loop in a thread of this process."""

    def __init__(self, model: Model) -> None:
        service = Service(Settings(timeout_ms=0))
        service.add("m", model)
        self._server = uvicorn.Server(_uvicorn_config(service))
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._server.serve(sockets=[self._socket]))

    def spent(self) -> float:
        """Return the processor time of the event loop's thread, in seconds."""
        return self._call(time.thread_time)

    def _call(self, function: Callable[[], float]) -> float:
        async def call() -> float:
            return function()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result()

    def close(self) -> None:
        """Stop the server."""
        self._server.should_exit = True
        self._thread.join()


def measure(ref: str, streams: list[int], steps: int) -> list[Row]:
    """Measure a model with each number of streams."""
    rows: list[Row] = []
    random = np.random.default_rng(7)
    spawn = multiprocessing.get_context("spawn")
    with Model.load(ref, n_threads=1, n_ctx=8192, max_streams=max(streams)) as model:
        clock = Clock(model._core.engine)  # pyright: ignore[reportPrivateUsage]
        server = Serving(model)
        for n in streams:
            run_in_process(model, random.integers(1000, 40000, (n, PROMPT_TOKENS)).tolist(), steps + HEAD_START)
            sampling, beside = clock.take(n)
            spent: list[float] = []
            for length in (steps, 3 * steps):
                before = server.spent()
                prompts = random.integers(1000, 40000, (n, PROMPT_TOKENS)).tolist()
                clients = spawn.Process(target=ask, args=(server.port, prompts, length))
                clients.start()
                clients.join()
                spent.append(server.spent() - before)
            # Longer and shorter streams begin and end alike, so the difference is the cost of the tokens alone.
            rows.append(Row(ref, n, sampling, beside, (spent[1] - spent[0]) / (2 * n * steps) * 1e6))
            clock.clear()  # these steps woke an event loop instead of threads
        server.close()
    return rows


def main() -> None:
    """Measure all models, and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["smollm2", "gemma3-270m"])
    parser.add_argument("--streams", nargs="+", type=int, default=[1, 8, 16])
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args()
    rows = [row for ref in options.models for row in measure(ref, options.streams, options.steps)]
    if options.json:
        print(json.dumps([row._asdict() for row in rows], indent=1))
        return
    print(f"{'model':<14}{'streams':>7}{'sampling':>10}{'beside':>9}{'loop':>7}")
    for row in rows:
        print(f"{row.model:<14}{row.streams:>7}{row.sampling_us:>10.0f}{row.beside_us:>9.0f}{row.loop_us:>7.0f}")


if __name__ == "__main__":
    main()
