"""A scripted model with everything that a test wants to hold on to: its engine, its runner, its steps."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from headrace import AsyncModel, Model, StreamConfig, TokenStream
from headrace.api.core import Core
from headrace.engine.loop import Engine
from headrace.engine.runner import Slice
from headrace.engine.scripted import ScriptedRunner, ScriptedVocabulary

# How long anything may take before a test says that it hangs, in seconds. No test waits for it to pass.
PATIENCE = 30.0

# One token per byte; token 0 ends a generation.
BYTES: dict[int, bytes] = {0: b"", **{byte + 1: bytes([byte]) for byte in range(256)}}

# What a test waits for is an event; these timeouts must be far longer than a test takes. And a step brings a token:
# scripted steps take so little time that it would be chance what speculation makes of them.
UNHURRIED = StreamConfig(timeout_ms=0, max_tokens=100_000, speculation="off")

R = TypeVar("R")


def ids(text: str | bytes) -> list[int]:
    """The tokens that spell a text, a byte each."""
    return [byte + 1 for byte in (text.encode() if isinstance(text, str) else text)]


def within(function: Callable[..., R], *args: Any, **kwargs: Any) -> R:
    """Call a function on another thread, so that a hang is a failure and not a hang."""
    return started(function, *args, **kwargs).result(PATIENCE)


def started(function: Callable[..., R], *args: Any, **kwargs: Any) -> Future[R]:
    """Call a function on another thread, and hand out what will be its result."""
    future: Future[R] = Future()

    def run() -> None:
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def run_async(coroutine: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine on a new event loop; a hang is a failure."""

    async def limited() -> R:
        async with asyncio.timeout(PATIENCE):
            return await coroutine

    return asyncio.run(limited())


def wait_until(condition: Callable[[], object]) -> None:
    """Wait for something that nobody announces; where it does not come, that is a failure."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.001)


def read(stream: TokenStream) -> tuple[str, Exception | None]:
    """Read a stream to its end, on another thread: its text, and what it raised after that."""

    def run() -> tuple[str, Exception | None]:
        text = ""
        try:
            for token in stream:
                text += token.text
        except Exception as error:
            return text, error
        return text, None

    return within(run)


def texts(stream: TokenStream) -> str:
    """Read a stream to its end: its text."""
    return within(lambda: "".join(token.text for token in stream))


class Gate:
    """Holds the engine thread before each step until it is let through; for tests that must know where it is."""

    def __init__(self) -> None:
        self._arrived = threading.Semaphore(0)
        self._passes = threading.Semaphore(0)
        self._is_open = False
        self.slices: Sequence[Slice] = ()

    def __call__(self, slices: Sequence[Slice]) -> None:
        if self._is_open:
            return
        self.slices = [part._replace(tokens=tuple(part.tokens)) for part in slices]
        self._arrived.release()
        assert self._passes.acquire(timeout=PATIENCE), "nobody opened the gate"

    def wait(self) -> Sequence[Slice]:
        """Wait until the engine stands before a step, and see which."""
        assert self._arrived.acquire(timeout=PATIENCE), "the engine did not come to a step"
        return self.slices

    def pass_one(self) -> None:
        """Let the step run that `wait` found."""
        self._passes.release()

    def step(self, count: int = 1) -> None:
        """Wait for steps, and let them run."""
        for _ in range(count):
            self.wait()
            self.pass_one()

    def open(self) -> None:
        """Let the engine run freely from now on."""
        self._is_open = True
        self._passes.release()


@dataclass
class Scripted:
    """A scripted model, and what is under it."""

    runner: ScriptedRunner
    engine: Engine
    core: Core
    model: Model
    steps: list[list[Slice]]
    gates: list[Gate] = field(default_factory=list[Gate])
    is_consistent: bool = True  # a test that breaks the memory under a running engine says that it did

    @property
    def asynchronous(self) -> AsyncModel:
        """The model for tasks."""
        return self.model.as_async()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep the engine thread between two steps, so that what is asked of it meanwhile arrives together."""
        held, go_on = threading.Event(), threading.Event()

        def stand() -> None:
            held.set()
            go_on.wait(PATIENCE)

        answer = started(self.engine._call, stand)
        assert held.wait(PATIENCE), "the engine is busy"
        try:
            yield
        finally:
            go_on.set()
        answer.result(PATIENCE)

    def num_computed(self) -> int:
        """Tokens computed so far."""
        return sum(len(part.tokens) for step in self.steps for part in step)

    def settle(self) -> None:
        """Wait until the engine has taken in everything that it was told until now."""
        for _ in range(2):
            within(self.engine.check_integrity)

    def close(self) -> None:
        """Close, and prove that nothing was lost."""
        for gate in self.gates:
            gate.open()
        if self.is_consistent:
            within(self.engine.check_integrity)
        within(self.model.close)
        metrics = self.engine.metrics()
        assert metrics.queued == metrics.running == metrics.paused == 0, "a stream outlived its engine"
        assert sum(metrics.streams_finished.values()) == metrics.streams_started, "a stream did not end exactly once"
        assert self.runner.is_closed
        if self.is_consistent:
            self.engine.check_integrity()
            assert metrics.kv_used + metrics.kv_cached == self.runner.num_used, "the account of the KV is wrong"


@contextmanager
def scripted(
    script: str | Sequence[int] | Callable[[tuple[int, ...]], Sequence[int]] = "",
    *,
    pieces: Mapping[int, bytes] = BYTES,
    runner_type: type[ScriptedRunner] = ScriptedRunner,
    config: StreamConfig = UNHURRIED,
    chat_template: str | None = None,
    max_streams: int = 16,
    max_queue: int = 64,
    step_target_ms: float = 150.0,
    prefix_cache_mb: float = 256,
    **runner_settings: Any,
) -> Iterator[Scripted]:
    """A scripted model for one test; whatever the test did, it is closed and checked in the end."""
    steps: list[list[Slice]] = []
    runner = runner_type(pieces, ids(script) if isinstance(script, str) else script, steps=steps, **runner_settings)
    engine = Engine(
        runner,
        max_streams=max_streams,
        max_queue=max_queue,
        step_target_ms=step_target_ms,
        prefix_cache_mb=prefix_cache_mb,
        debug=True,
    )
    core = Core(ScriptedVocabulary(pieces, chat_template=chat_template), engine, name="scripted", config=config)
    made = Scripted(runner, engine, core, Model(core), steps)
    hooks = (runner_settings.get("before_step"), runner_settings.get("on_sample"))
    made.gates.extend(hook for hook in hooks if isinstance(hook, Gate))
    try:
        yield made
    except BaseException:
        for gate in made.gates:
            gate.open()
        engine.close_soon()
        raise
    made.close()


def echo(prompt: tuple[int, ...]) -> list[int]:
    """A script that answers each prompt with an answer of its own: 'abc' with '[abc][abc][abc]'."""
    return (ids("[") + list(prompt) + ids("]")) * 3


def echoed(prompt: str) -> str:
    """What `echo` answers."""
    return f"[{prompt}]" * 3
