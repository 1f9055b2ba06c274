"""The engine: one thread that owns the model, and what other threads may ask of it."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from headrace.engine import lifetime
from headrace.engine.channel import Channel, wake
from headrace.engine.constraint import Constraint
from headrace.engine.execution import Execution
from headrace.engine.kv.cache import KVCache
from headrace.engine.kv.offload import OffloadedKV
from headrace.engine.live import Live
from headrace.engine.messages import Call, Cancel, Message, Submit, Wake
from headrace.engine.metrics import Counts, StreamStats
from headrace.engine.runner import Runner, StepOutput, verified
from headrace.engine.scheduler import Part, Scheduler, step_shape
from headrace.engine.sequence import Sequence, State
from headrace.engine.speculation.planner import MAX_DRAFTS, Speculation
from headrace.engine.tuning.calibration import CostFile
from headrace.engine.tuning.tuner import Tuning
from headrace.values.errors import (
    ContextOverflowError,
    EngineClosedError,
    GenerationError,
    InvalidRequestError,
    QueueFullError,
)
from headrace.values.events import Sample
from headrace.values.request import Request
from headrace.values.results import EngineMetrics, FinishReason, TopLogprob

__all__ = ["Engine"]

_T = TypeVar("_T")


class Engine:
    """Runs many streams on one runner, one batch a step, on a thread of its own.

    Everything public may be called from any thread. A reader gets its tokens through the channel that it hands to
    `submit`; whatever happens, the channel gets exactly one End.

    Args:
        runner: what computes; the engine closes it.
        max_streams: streams that decode together at most, at least 1.
        max_queue: streams that may wait at most, at least 0.
        step_target_ms: what a step should take at most while a prompt is read, in milliseconds.
        prefix_cache_mb: main memory for copies of the KV of prefixes that nobody is using, in millions of bytes;
            0 for none.
        costs: where what steps cost is kept from one start to the next; None to forget it.
        debug: check every invariant whenever the engine is idle.

    Raises:
        InvalidRequestError: a limit that this runner cannot keep.
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
        most = min(runner.num_rows, runner.max_batch)
        if not 1 <= max_streams <= most:
            raise InvalidRequestError("max_streams", max_streams, f"1 to {most}")
        if max_queue < 0:
            raise InvalidRequestError("max_queue", max_queue, "at least 0")
        if not step_target_ms > 0:
            raise InvalidRequestError("step_target_ms", step_target_ms, "above 0")
        self.max_streams = max_streams
        self.max_queue = max_queue
        self.max_length = runner.max_length
        self.kv_format = runner.kv_format
        self.most_saved = runner.most_saved
        self._runner = runner
        self._debug = os.environ.get("HEADRACE_DEBUG", "0") not in ("", "0") if debug is None else debug
        self._counts = Counts()
        self._live = Live(self._counts)
        offloaded = OffloadedKV(round(prefix_cache_mb * 1e6), runner.most_saved) if prefix_cache_mb else None
        kv = KVCache(runner, num_cells=runner.num_cells, num_rows=runner.num_rows, offloaded=offloaded)
        # With guesses, a few streams have as many rows in a step as many streams without.
        most_rows = max(max_streams, min(1 + MAX_DRAFTS, runner.max_outputs, runner.max_batch))
        self._tuning = Tuning(runner, target=step_target_ms / 1000, max_streams=most_rows, file=costs)
        self._scheduler = Scheduler(
            kv,
            self._tuning.cost,
            max_streams=max_streams,
            max_batch=runner.max_batch,
            max_outputs=runner.max_outputs,
            speculation=Speculation(self._tuning.cost.decode_time, runner.max_length, runner.drafter),
            claim=self._live.claim,
        )
        self._execution = Execution(runner, self._scheduler, update=self._update, fail=self._fail)
        self._inbox: SimpleQueue[Message] = SimpleQueue()  # its put() is safe even inside a garbage collection
        self._closing = False
        self._death: str | None = None
        self._touched: list[Channel] = []  # whose readers to wake at the end of the step
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._main, name="headrace-engine", daemon=True)
        self._thread.start()
        lifetime.register(self)
        try:
            self._ready.result()
        except BaseException:  # the warm-up has failed; or Ctrl-C, which must not leave the thread behind
            self.close()
            raise

    # What other threads ask for.

    @property
    def is_dead(self) -> bool:
        """Whether it failed, rather than being closed."""
        return self._death is not None

    @property
    def is_closed(self) -> bool:
        """Whether it takes no more requests."""
        return self._closing or self._death is not None

    def check_open(self) -> None:
        """Raise EngineClosedError, with the cause, where it takes no more requests."""
        if self._death is not None:
            raise EngineClosedError(self._death)
        if self._closing:
            raise EngineClosedError("the model was closed; load it again")

    def check_room(self, num_streams: int) -> None:
        """Raise QueueFullError where so many more streams would be too many."""
        if self._live.num_staying() + num_streams > self.max_streams + self.max_queue:
            raise QueueFullError(self.max_queue, self._retry_after())

    def submit(self, request: Request, channel: Channel, stats: StreamStats) -> None:
        """Queue a request: its tokens and its End go to the channel, its counts and times to the stats.

        Raises:
            EngineClosedError: the engine is closed or dead.
            ContextOverflowError: the prompt is longer than the context.
            QueueFullError: too many streams wait already.
            InvalidRequestError: a setting that does not fit the model.
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
        """End a stream as "cancelled": at once while it is queued, otherwise within a step; an ended one stays so."""
        self.abandon(stream_id)
        with self._live.lock:
            sequence = self._live.get(stream_id)
            if sequence is not None and sequence.state is State.WAITING:
                self._live.end(sequence, "cancelled")
                wake((sequence.channel,))

    def abandon(self, stream_id: str) -> None:
        """The same, without any lock and not at once: for a garbage collection, which may strike anywhere."""
        sequence = self._live.get(stream_id)
        if sequence is not None:
            sequence.is_leaving = True
            self._inbox.put(Cancel(sequence))
            self._execution.interrupt(sequence)

    def wake(self) -> None:
        """Make the engine look again at who may go on."""
        self._inbox.put(_WAKE)

    def metrics(self) -> EngineMetrics:
        """A snapshot."""
        states, scheduler = self._live.states(), self._scheduler
        return self._counts.snapshot(
            scheduler.kv,
            queued=states[State.WAITING],
            running=states[State.RUNNING],
            paused=states[State.PAUSED],
            preemptions=scheduler.num_preemptions,
        )

    def clear_cache(self) -> None:
        """Drop every cached prefix."""
        self.with_cache(KVCache.forget)

    def with_cache(self, function: Callable[[KVCache], _T]) -> _T:
        """Call a function with the KV cache between two steps, which wait for it."""
        return self._call(lambda: function(self._scheduler.kv))

    def check_integrity(self) -> None:
        """Raise AssertionError where an invariant of the engine does not hold; waits for the step that is running."""
        self._call(self._check_integrity)

    @property
    def tuning(self) -> Tuning:
        """What is known of the cost of steps. It is the engine thread's: others may look, and no more."""
        return self._tuning

    def close(self, timeout: float | None = None) -> None:
        """End every stream as "cancelled", stop the thread, free the model's memory. Any number of times.

        Args:
            timeout: seconds to wait for the step that is running; None for as long as it takes.
        """
        self.close_soon()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def close_soon(self) -> None:
        """The same without waiting, and without any lock."""
        self._closing = True
        self._inbox.put(_WAKE)
        self._execution.interrupt()

    def _call(self, function: Callable[[], _T]) -> _T:
        answer: Future[Any] = Future()
        self._inbox.put(Call(function, answer))
        while self._thread.is_alive():
            with contextlib.suppress(TimeoutError):
                return answer.result(timeout=0.1)
        if not answer.done():  # the thread has ended, so nothing changes any more
            return function()
        return answer.result()

    def _retry_after(self) -> float:
        """Until a place is free: of those that run at once, one ends every so often."""
        return max(1.0, (self._counts.stream_time.value or 1.0) / self.max_streams)

    # The engine thread.

    def _main(self) -> None:
        try:
            self._warm_up()
            while not self._closing:
                self._step()
        except BaseException as error:
            death = f"the engine thread failed: {type(error).__name__}: {error}"
            self._death = death
            cause = error
            self._end_all(lambda: _failure(death, cause))
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
            self._finish(sequence, "timeout", timeout=deadline)
        self._resume(now)
        now = time.perf_counter()  # what others asked for is no part of what the step takes
        parts = self._scheduler.schedule(now)
        planned = time.perf_counter()  # what is copied, or guessed, to plan it says nothing of what the next one costs
        if parts:
            num_decodes, num_prefill = shape = step_shape(parts)
            is_repeatable = len(parts) == 1 and parts[0].sequence.is_seeded
            room = self._scheduler.kv.room_besides(sum(shape))
            padding = self._tuning.begin(num_decodes, num_prefill, room=room, repeatable=is_repeatable)
            done, output = self._execution.run(parts, padding)
            self._update(done, output)
            self._notify()
            planning = planned - now - self._scheduler.draft_seconds
            self._account((num_decodes + padding, num_prefill), done, output, time.perf_counter() - planned, planning)
            self._scheduler.kv.tidy()
        else:
            self._notify()
            if not self._scheduler.running:
                self._sleep()

    def _receive(self) -> None:
        """Take in what other threads asked for since the last step."""
        while not self._inbox.empty():
            self._handle(self._inbox.get_nowait())

    def _handle(self, message: Message) -> None:
        if isinstance(message, Submit):
            sequence = message.sequence
            if sequence.state is State.WAITING:
                self._scheduler.enqueue(sequence)
                self._live.watch(sequence)
        elif isinstance(message, Cancel):
            self._finish(message.sequence, "cancelled")
        elif isinstance(message, Call):
            try:
                message.answer.set_result(message.function())
            except BaseException as error:
                message.answer.set_exception(error)

    def _resume(self, now: float) -> None:
        """Let those go on whose readers have caught up."""
        if not self._scheduler.paused:
            return
        for sequence in [sequence for sequence in self._scheduler.paused if sequence.channel.can_resume]:
            sequence.channel.is_paused = False
            sequence.stats.resume(now)
            self._scheduler.resume(sequence)
            self._live.watch(sequence)

    def _update(self, parts: list[Part], output: StepOutput) -> None:
        """Take in what the step computed and sampled."""
        samples = iter(output.samples)
        now, timestamp = time.perf_counter(), time.time()
        for part in parts:
            if part.drafts:
                self._take_in_drafts(part, verified(part.drafts, samples), now, timestamp)
                continue
            self._scheduler.computed(part)
            if part.num_tokens > 1 or not part.samples:
                self._counts.prefill_tokens += part.num_tokens
            if part.samples:
                self._emit(part.sequence, next(samples), now, timestamp)

    def _take_in_drafts(self, part: Part, samples: list[Sample | Exception], now: float, timestamp: float) -> None:
        """Take in several samples of one sequence, up to where it ends."""
        sequence = part.sequence
        self._scheduler.computed(part, len(samples) - 1)
        for number, sample in enumerate(samples):
            for counts in (self._counts, sequence.stats):  # first, since a reader may count as soon as the end is there
                counts.drafted_tokens += 0 if number else len(part.drafts)
                counts.accepted_tokens += number > 0 and not isinstance(sample, Exception)
            self._emit(sequence, sample, now, timestamp)
            if sequence.state is State.FINISHED:
                break

    def _emit(self, sequence: Sequence, sample: Sample | Exception, now: float, timestamp: float) -> None:
        try:
            if isinstance(sample, Exception):
                raise sample
            token, logprob, top = sample
            runner = self._runner
            event, reason = sequence.accept(
                token,
                runner.piece(token),
                ends=token in runner.eog_tokens,
                max_length=self.max_length,
                now=now,
                timestamp=timestamp,
                logprob=logprob,
                top=None if top is None else tuple(TopLogprob(id, value, runner.piece(id)) for id, value in top),
            )
        except Exception as error:  # this stream's trouble stays its own
            self._fail(sequence, error)
            return
        self._counts.completion_tokens += 1
        channel = sequence.channel
        channel.put(event)
        self._touched.append(channel)
        if event.number == 0:
            self._counts.cached_tokens += sequence.stats.cached_tokens
        if reason is not None:
            self._finish(sequence, reason)
        elif channel.is_full:
            channel.is_paused = True  # where the reader read on before it could see this, the next step finds out
            sequence.stats.pause(now)
            self._scheduler.pause(sequence)
            self._live.watch(sequence)

    def _account(
        self, shape: tuple[int, int], parts: list[Part], output: StepOutput, seconds: float, planning: float
    ) -> None:
        if not parts:
            return
        self._tuning.end(*shape, seconds)
        seconds += planning
        self._counts.steps += 1
        self._counts.step_time.add(seconds)
        self._counts.sampling.add(output.sample_seconds)
        self._counts.overhead.add(seconds - output.decode_seconds - output.sample_seconds)

    def _notify(self) -> None:
        """Wake readers: once a step."""
        if self._touched:
            wake(self._touched)
            self._touched.clear()

    def _sleep(self) -> None:
        """Nothing to compute: wait for a message, a deadline, or the moment a paused stream must give up its place."""
        if self._debug:
            self._check_integrity()
        if not self._scheduler.kv.num_used and self._inbox.empty() and self._tuning.use_idle_time():
            return
        until = min(self._live.next_deadline, self._scheduler.next_parking() or float("inf"))
        # A deadline may lie further ahead than the platform's clock can wait; looking again now and then does no harm.
        timeout = None if until == float("inf") else min(max(0.0, until - time.perf_counter()), _LONGEST_SLEEP)
        kv = self._scheduler.kv
        if kv.can_copy_ahead:
            timeout = _MOMENT if timeout is None else min(timeout, _MOMENT)
        try:
            self._handle(self._inbox.get(timeout=timeout))
        except Empty:
            while kv.can_copy_ahead and self._inbox.empty() and time.perf_counter() < until:
                kv.copy_ahead()

    def _finish(self, sequence: Sequence, reason: FinishReason, timeout: str | None = None) -> None:
        self._scheduler.remove(sequence)  # first, so that its KV is free when its reader learns of the end
        self._live.end(sequence, reason, timeout=timeout)
        self._touched.append(sequence.channel)

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        self._scheduler.remove(sequence)
        self._live.end(sequence, None, error=_failure(f"this stream failed: {error}", error))
        self._touched.append(sequence.channel)

    def _end_all(self, make_error: Callable[[], GenerationError] | None) -> None:
        """The thread is about to end: nobody may be left waiting for it."""
        self._closing = True
        sequences = self._live.all()
        for sequence in sequences:
            if make_error is None:
                self._live.end(sequence, "cancelled")
            else:
                self._live.end(sequence, None, error=make_error())
        # Also those whose streams ended earlier in a step that never came to its end.
        self._touched += [sequence.channel for sequence in sequences]
        self._notify()

    def _check_integrity(self) -> None:
        self._scheduler.check_integrity()
        assert not self._live.states()[State.FINISHED], "an ended stream is still live"

    def after_fork(self) -> None:
        """The child has this object, but not the thread: end what it cannot go on with, and never touch the model."""
        self._live.after_fork()
        self._death = "this process was forked, and an engine does not survive that; load the model in the child"
        self._end_all(lambda: GenerationError(self._death or ""))


_WAKE = Wake()
_LONGEST_SLEEP = 3600.0  # seconds
# Of idleness until something is done ahead: readers take in what the last step brought, and often ask for more.
_MOMENT = 0.01  # seconds


def _failure(message: str, cause: BaseException) -> GenerationError:
    error = GenerationError(message)
    error.__cause__ = cause
    return error
