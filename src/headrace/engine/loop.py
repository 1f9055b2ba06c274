"""`Engine`: the thread that runs the model step by step, and the methods that other threads call."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from headrace.engine import exit_hooks
from headrace.engine.channel import Channel, wake
from headrace.engine.constraint import Constraint
from headrace.engine.delivery import Delivery, caused_error
from headrace.engine.execution import Execution
from headrace.engine.kv.cache import KVCache
from headrace.engine.kv.offload import OffloadedKV
from headrace.engine.live import Live
from headrace.engine.messages import Call, Cancel, Message, Submit, Wake
from headrace.engine.metrics import Counts, StreamStats
from headrace.engine.runner import Runner, StepOutput
from headrace.engine.scheduler import Scheduler
from headrace.engine.sequence import Sequence, State
from headrace.engine.speculation.planner import MAX_DRAFTS, Speculation
from headrace.engine.step import StepPart, step_shape
from headrace.engine.tuning.calibration import CostFile
from headrace.engine.tuning.tuner import Tuning
from headrace.values.errors import (
    ContextOverflowError,
    EngineClosedError,
    GenerationError,
    InvalidRequestError,
    QueueFullError,
)
from headrace.values.request import Request
from headrace.values.results import EngineMetrics

__all__ = ["Engine"]

_T = TypeVar("_T")


class Engine:
    """Runs many streams on one runner, with one batch per step, on its own thread.

    Public methods may be called from any thread. A reader passes a channel to `submit` and gets its tokens there. The
    channel gets exactly one End, even if the engine dies.

    Args:
        runner: computes the steps; the engine closes it.
        max_streams: the most streams that decode together, at least 1.
        max_queue: the most streams that may wait, at least 0.
        step_target_ms: how long a step with prefill should take at most, in milliseconds.
        prefix_cache_mb: main memory for offloaded KV of unused prefixes, in millions of bytes; 0 for none.
        costs: the file that keeps measured step times from one start to the next; None to forget them.
        debug: check every invariant whenever the engine is idle. None reads the variable HEADRACE_DEBUG.

    Raises:
        InvalidRequestError: a limit is out of range, or more than this runner can do.
        Exception: whatever the runner's warm-up raises.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        max_streams: int = 16,
        max_queue: int = 64,
        step_target_ms: float = 150.0,
        prefix_cache_mb: float = 256,
        costs: CostFile | None = None,
        debug: bool | None = None,
    ) -> None:
        limit = min(runner.num_rows, runner.max_batch)
        if not 1 <= max_streams <= limit:
            raise InvalidRequestError("max_streams", max_streams, f"1 to {limit}")
        if max_queue < 0:
            raise InvalidRequestError("max_queue", max_queue, "at least 0")
        if not step_target_ms > 0:
            raise InvalidRequestError("step_target_ms", step_target_ms, "above 0")
        self.max_streams = max_streams
        self.max_queue = max_queue
        self.max_length = runner.max_length
        self.kv_format = runner.kv_format
        self.max_saved = runner.max_saved
        self._runner = runner
        self._debug = os.environ.get("HEADRACE_DEBUG", "0") not in ("", "0") if debug is None else debug
        self._counts = Counts()
        self._live = Live(self._counts)
        offloaded = OffloadedKV(round(prefix_cache_mb * 1e6), runner.max_saved) if prefix_cache_mb else None
        kv = KVCache(runner, num_cells=runner.num_cells, num_rows=runner.num_rows, offloaded=offloaded)
        # Drafts add rows of logits: one stream with drafts needs as many as several streams without.
        max_rows = max(max_streams, min(1 + MAX_DRAFTS, runner.max_outputs, runner.max_batch))
        self._tuning = Tuning(runner, target=step_target_ms / 1000, max_streams=max_rows, file=costs)
        self._scheduler = Scheduler(
            kv,
            self._tuning.cost,
            max_streams=max_streams,
            max_batch=runner.max_batch,
            max_outputs=runner.max_outputs,
            speculation=Speculation(self._tuning.cost.decode_time, runner.max_length, runner.drafter),
            claim=self._live.claim,
        )
        self._delivery = Delivery(runner, self._scheduler, self._live, self._counts)
        self._execution = Execution(runner, self._scheduler, update=self._delivery.update, fail=self._delivery.fail)
        self._inbox: SimpleQueue[Message] = SimpleQueue()  # put() is safe even during garbage collection
        self._closing = False
        self._death: str | None = None
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._main, name="headrace-engine", daemon=True)
        self._thread.start()
        exit_hooks.register(self)
        try:
            self._ready.result()
        except BaseException:  # the warm-up failed, or Ctrl-C came: end the thread
            self.close()
            raise

    # Called by other threads.

    @property
    def is_dead(self) -> bool:
        """Whether the engine thread failed. False after an ordinary `close`."""
        return self._death is not None

    @property
    def is_closed(self) -> bool:
        """Whether the engine refuses new requests: closed or dead."""
        return self._closing or self._death is not None

    def check_open(self) -> None:
        """Raise EngineClosedError, with the cause, if the engine is closed or dead."""
        if self._death is not None:
            raise EngineClosedError(self._death)
        if self._closing:
            raise EngineClosedError("the model was closed; load it again")

    def check_room(self, num_streams: int) -> None:
        """Raise QueueFullError if `num_streams` more streams would exceed `max_streams` + `max_queue`."""
        if self._live.num_staying() + num_streams > self.max_streams + self.max_queue:
            raise QueueFullError(self.max_queue, self._retry_after())

    def submit(self, request: Request, channel: Channel, stats: StreamStats) -> None:
        """Queue a request.

        Args:
            request: the prompt and the settings.
            channel: gets the tokens and the End.
            stats: gets the counts and times.

        Raises:
            EngineClosedError: the engine is closed or dead.
            ContextOverflowError: the prompt is longer than the context.
            QueueFullError: the queue is full.
            InvalidRequestError: a setting that does not fit the model, or an id that a live stream has.
        """
        self.check_open()
        if len(request.prompt) > self.max_length:
            raise ContextOverflowError(len(request.prompt), self.max_length)
        sequence = Sequence(request, channel, self._runner.make_sampler(request), stats)
        if request.output_format.is_constrained:
            sequence.constraint = Constraint(
                request.output_format, sequence.output, self._runner.piece, self._runner.eog_tokens
            )
        channel.bind(self.wake)
        with self._live.lock:
            self.check_open()
            self._live.check_id(request.id)
            self.check_room(1)
            self._live.add(sequence)
            self._inbox.put(Submit(sequence))

    def cancel(self, stream_id: str) -> None:
        """End a stream as "cancelled": at once while it is queued, otherwise within a step. No effect after its end."""
        self.abandon(stream_id)
        with self._live.lock:
            sequence = self._live.get(stream_id)
            if sequence is not None and sequence.state is State.WAITING:
                self._live.end(sequence, "cancelled")
                wake((sequence.channel,))

    def abandon(self, stream_id: str) -> None:
        """Cancel without taking a lock, so that it is safe during garbage collection. The End comes within a step."""
        sequence = self._live.get(stream_id)
        if sequence is not None:
            sequence.is_leaving = True
            self._inbox.put(Cancel(sequence))
            self._execution.interrupt(sequence)

    def wake(self) -> None:
        """Make the engine thread look again at which paused streams can resume."""
        self._inbox.put(_WAKE)

    def metrics(self) -> EngineMetrics:
        """Returns a snapshot of the engine's counters and gauges."""
        states, scheduler = self._live.states(), self._scheduler
        return self._counts.snapshot(
            scheduler.kv,
            queued=states[State.WAITING],
            running=states[State.RUNNING],
            paused=states[State.PAUSED],
            preemptions=scheduler.num_preemptions,
        )

    def clear_cache(self) -> None:
        """Drop every cached prefix, offloaded ones included."""
        self.with_cache(KVCache.drop_all)

    def with_cache(self, function: Callable[[KVCache], _T]) -> _T:
        """Call a function with the KV cache on the engine thread, between two steps. Steps wait until it returns."""
        return self._call(lambda: function(self._scheduler.kv))

    def check_integrity(self) -> None:
        """Raise AssertionError if an invariant does not hold. Waits for the end of the running step."""
        self._call(self._check_integrity)

    @property
    def tuning(self) -> Tuning:
        """Measured step times. The engine thread writes them; other threads may only read."""
        return self._tuning

    def close(self, timeout: float | None = None) -> None:
        """End every stream as "cancelled", stop the thread and free the model's memory. May be called again.

        Args:
            timeout: seconds to wait for the thread; None waits until the running step is over.
        """
        self.close_soon()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def close_soon(self) -> None:
        """Close without waiting and without taking a lock."""
        self._closing = True
        self._inbox.put(_WAKE)
        self._execution.interrupt()

    def _call(self, function: Callable[[], _T]) -> _T:
        answer: Future[Any] = Future()
        self._inbox.put(Call(function, answer))
        while self._thread.is_alive():
            with contextlib.suppress(TimeoutError):
                return answer.result(timeout=0.1)
        if not answer.done():  # the thread has ended, so this thread may use its data
            return function()
        return answer.result()

    def _retry_after(self) -> float:
        """Returns how long to wait for a free slot, in seconds: the mean time of a stream over the number of slots."""
        return max(1.0, (self._counts.stream_time.value or 1.0) / self.max_streams)

    # Called by the engine thread.

    def _main(self) -> None:
        try:
            self._warm_up()
            while not self._closing:
                self._step()
        except BaseException as error:
            death = f"the engine thread failed: {type(error).__name__}: {error}"
            self._death = death
            cause = error
            self._end_all(lambda: caused_error(death, cause))
        else:
            self._end_all(None)
        finally:
            try:
                self._tuning.save()
                self._scheduler.kv.close()
            finally:
                self._runner.close()

    def _warm_up(self) -> None:
        try:
            self._runner.warm_up()
        except BaseException as error:
            self._ready.set_exception(error)
            raise
        self._scheduler.kv.can_drop_partial = self._runner.can_drop_partial
        self._ready.set_result(None)

    def _step(self) -> None:
        now = time.perf_counter()
        self._receive()
        for sequence, deadline in self._live.expired(now):
            self._delivery.finish(sequence, "timeout", timeout=deadline)
        self._resume(now)
        now = time.perf_counter()  # handling messages does not count as time of the step
        parts = self._scheduler.schedule(now)
        planned = time.perf_counter()  # nor do KV copies and drafts: they do not predict the next step's time
        if parts:
            num_decodes, num_prefill = shape = step_shape(parts)
            is_repeatable = len(parts) == 1 and parts[0].sequence.is_seeded
            room = self._scheduler.kv.room_besides(sum(shape))
            padding = self._tuning.begin(num_decodes, num_prefill, room=room, repeatable=is_repeatable)
            done, output = self._execution.run(parts, padding)
            self._delivery.update(done, output)
            self._delivery.notify()
            planning = planned - now - self._scheduler.draft_seconds
            self._account((num_decodes + padding, num_prefill), done, output, time.perf_counter() - planned, planning)
            self._scheduler.kv.offload_unused()
        else:
            self._delivery.notify()
            if not self._scheduler.running:
                self._sleep()

    def _receive(self) -> None:
        """Handle the messages that other threads sent since the last step."""
        while not self._inbox.empty():
            self._handle(self._inbox.get_nowait())

    def _handle(self, message: Message) -> None:
        if isinstance(message, Submit):
            sequence = message.sequence
            if sequence.state is State.WAITING:
                self._scheduler.enqueue(sequence)
                self._live.watch(sequence)
        elif isinstance(message, Cancel):
            self._delivery.finish(message.sequence, "cancelled")
        elif isinstance(message, Call):
            try:
                message.answer.set_result(message.function())
            except BaseException as error:
                message.answer.set_exception(error)

    def _resume(self, now: float) -> None:
        """Resume the paused sequences whose readers have caught up."""
        if not self._scheduler.paused:
            return
        for sequence in [sequence for sequence in self._scheduler.paused if sequence.channel.can_resume]:
            sequence.channel.is_paused = False
            sequence.stats.resume(now)
            self._scheduler.resume(sequence)
            self._live.watch(sequence)

    def _account(
        self, shape: tuple[int, int], parts: list[StepPart], output: StepOutput, seconds: float, planning: float
    ) -> None:
        if not parts:
            return
        self._tuning.end(*shape, seconds)
        seconds += planning
        self._counts.steps += 1
        self._counts.step_time.add(seconds)
        self._counts.sampling.add(output.sample_seconds)
        self._counts.overhead.add(seconds - output.decode_seconds - output.sample_seconds)

    def _sleep(self) -> None:
        """Wait for a message, a deadline, or the time at which a paused stream loses its slot; nothing is running."""
        if self._debug:
            self._check_integrity()
        if not self._scheduler.kv.num_used and self._inbox.empty() and self._tuning.use_idle_time():
            return
        until = min(self._live.next_deadline, self._scheduler.next_parking() or float("inf"))
        # A far deadline may exceed the longest timeout of the platform, so the sleep is cut.
        timeout = None if until == float("inf") else min(max(0.0, until - time.perf_counter()), _LONGEST_SLEEP)
        kv = self._scheduler.kv
        if kv.can_copy_ahead:
            timeout = _COPY_DELAY if timeout is None else min(timeout, _COPY_DELAY)
        try:
            self._handle(self._inbox.get(timeout=timeout))
        except Empty:
            while kv.can_copy_ahead and self._inbox.empty() and time.perf_counter() < until:
                kv.copy_ahead()

    def _end_all(self, make_error: Callable[[], GenerationError] | None) -> None:
        self._closing = True
        self._delivery.end_all(make_error)

    def _check_integrity(self) -> None:
        self._scheduler.check_integrity()
        assert not self._live.states()[State.FINISHED], "an ended stream is still live"

    def after_fork(self) -> None:
        """End all streams in a forked child: the child has no engine thread, and must not touch the model."""
        self._live.after_fork()
        self._death = "this process is a fork, and a model cannot be used after a fork; load it again in this process"
        self._end_all(lambda: GenerationError(self._death or ""))


_WAKE = Wake()
_LONGEST_SLEEP = 3600.0  # seconds
# Idle time before KV is copied ahead, in seconds: readers of the last step's tokens often send another request.
_COPY_DELAY = 0.01
