"""`Delivery`: turns the samples of a step into tokens in the readers' channels, and ends streams."""

from __future__ import annotations

import time
from collections.abc import Callable

from headrace.engine.channel import Channel, wake
from headrace.engine.live import Live
from headrace.engine.metrics import Counts
from headrace.engine.runner import Runner, StepOutput, verified
from headrace.engine.scheduler import Scheduler
from headrace.engine.sequence import Sequence, State
from headrace.engine.step import StepPart
from headrace.values.errors import GenerationError
from headrace.values.events import Sample
from headrace.values.results import FinishReason, TopLogprob

__all__ = ["Delivery", "caused_error"]


class Delivery:
    """Updates the sequences after a step, and puts tokens and Ends into their channels. Used by the engine thread.

    Readers sleep until `notify` is called: once at the end of each step.

    Args:
        runner: gives the bytes of a token and the tokens that end a generation.
        scheduler: is told which sequences computed, paused or ended.
        live: the streams that have not ended.
        counts: the engine's counters.
    """

    def __init__(self, runner: Runner, scheduler: Scheduler, live: Live, counts: Counts) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._live = live
        self._counts = counts
        self._max_length = runner.max_length
        self._channels_to_wake: list[Channel] = []

    def update(self, parts: list[StepPart], output: StepOutput) -> None:
        """Update the sequences with the tokens that a step computed and sampled."""
        samples = iter(output.samples)
        now, timestamp = time.perf_counter(), time.time()
        for part in parts:
            if part.drafts:
                self._accept_drafts(part, verified(part.drafts, samples), now, timestamp)
                continue
            self._scheduler.computed(part)
            if part.num_tokens > 1 or not part.samples:
                self._counts.prefill_tokens += part.num_tokens
            if part.samples:
                self._emit(part.sequence, next(samples), now, timestamp)

    def finish(self, sequence: Sequence, reason: FinishReason, timeout: str | None = None) -> None:
        """End a stream with this finish reason; a deadline is named by `timeout`."""
        self._scheduler.remove(sequence)  # first, so that its KV is free when its reader sees the End
        self._live.end(sequence, reason, timeout=timeout)
        self._channels_to_wake.append(sequence.channel)

    def fail(self, sequence: Sequence, error: Exception) -> None:
        """End a stream with a GenerationError."""
        self._scheduler.remove(sequence)
        self._live.end(sequence, None, error=caused_error(f"this stream failed: {error}", error))
        self._channels_to_wake.append(sequence.channel)

    def end_all(self, make_error: Callable[[], GenerationError] | None) -> None:
        """End every live stream, as "cancelled" or with an error, and wake all readers: the engine is about to stop."""
        sequences = self._live.all()
        for sequence in sequences:
            if make_error is None:
                self._live.end(sequence, "cancelled")
            else:
                self._live.end(sequence, None, error=make_error())
        # The list also holds streams that ended earlier in an interrupted step.
        self._channels_to_wake += [sequence.channel for sequence in sequences]
        self.notify()

    def notify(self) -> None:
        """Wake the readers of all channels that were written to since the last call."""
        if self._channels_to_wake:
            wake(self._channels_to_wake)
            self._channels_to_wake.clear()

    def _accept_drafts(self, part: StepPart, samples: list[Sample | Exception], now: float, timestamp: float) -> None:
        """Deliver several samples of one sequence. Samples after its end are dropped."""
        sequence = part.sequence
        self._scheduler.computed(part, len(samples) - 1)
        for number, sample in enumerate(samples):
            for counts in (self._counts, sequence.stats):  # before the End, since a reader may read them right after it
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
                max_length=self._max_length,
                now=now,
                timestamp=timestamp,
                logprob=logprob,
                top=None if top is None else tuple(TopLogprob(id, value, runner.piece(id)) for id, value in top),
            )
        except Exception as error:  # only this stream fails
            self.fail(sequence, error)
            return
        self._counts.completion_tokens += 1
        channel = sequence.channel
        channel.put(event)
        self._channels_to_wake.append(channel)
        if event.number == 0:
            self._counts.cached_tokens += sequence.stats.cached_tokens
        if reason is not None:
            self.finish(sequence, reason)
        elif channel.is_full:
            # If the reader takes tokens before `is_paused` is set, the next step resumes the sequence.
            channel.is_paused = True
            sequence.stats.pause(now)
            self._scheduler.pause(sequence)
            self._live.watch(sequence)


def caused_error(message: str, cause: BaseException) -> GenerationError:
    """Returns a GenerationError with this message and `__cause__`."""
    error = GenerationError(message)
    error.__cause__ = cause
    return error
