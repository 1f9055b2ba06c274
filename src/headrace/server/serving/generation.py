"""One request's generation: its streams, from acceptance to their end, and the events made of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import NamedTuple, Protocol

from headrace.api.stream import AsyncTokenStream
from headrace.server.http.errors import ApiError, as_api_error
from headrace.server.http.sse import Source
from headrace.values.errors import HeadraceError
from headrace.values.results import GenerationResult, Token

__all__ = ["Generated", "Generation", "Renderer"]

_logger = logging.getLogger("headrace.server")

# How often the progress of a prompt is reported, in seconds.
_PROGRESS_INTERVAL = 0.1

# What is told to those who still read a stream that somebody else has cancelled.
_CANCELLED = {
    "request": ApiError(499, "the stream was cancelled by name", type="cancelled_error", code="cancelled"),
    "shutdown": ApiError(503, "the server is shutting down", type="server_error", code="server_shutdown"),
}


class Renderer(Protocol):
    """Writes a generation's events in the form of one endpoint; each method returns whole events."""

    @property
    def wants_progress(self) -> bool:
        """Whether `progress` shall be called while prompts are read."""
        ...

    def opening(self) -> list[bytes]:
        """What comes before the first token."""
        ...

    def progress(self, choice: int, stream: AsyncTokenStream) -> list[bytes]:
        """How far the prompt was read; only called where `wants_progress`."""
        ...

    def tokens(self, choice: int, tokens: Sequence[Token]) -> list[bytes]:
        """The tokens of a step."""
        ...

    def ending(self, choice: int, result: GenerationResult) -> list[bytes]:
        """The end of one choice; its last tokens came before."""
        ...

    def closing(self, results: Sequence[GenerationResult]) -> list[bytes]:
        """What comes after the end of all choices."""
        ...

    def failure(self, error: ApiError, streams: Sequence[AsyncTokenStream]) -> list[bytes]:
        """The end of it all where something went wrong; the streams have ended."""
        ...


class Generated(NamedTuple):
    """A choice at its end, for a response that is not streamed."""

    result: GenerationResult
    tokens: list[Token]


class Generation:
    """The streams of one request.

    Args:
        id: the request's.
        model: the model's name.
        streams: one for each choice.
        prompts: of these, one for each prompt.
        on_end: called once, when all have ended.
    """

    def __init__(
        self,
        id: str,
        model: str,
        streams: Sequence[AsyncTokenStream],
        prompts: Sequence[AsyncTokenStream],
        on_end: Callable[[Generation], None],
    ) -> None:
        self.id = id
        self.model = model
        self.streams = streams
        self.prompts = prompts
        self.outcome: str | None = None  # what the client was told, where that is not how the streams ended
        self.cancelled_by: str | None = None
        self.error: ApiError | None = None
        self.on_cancel: Callable[[], None] = lambda: None  # for a reader that waits for something else than a token
        self._on_end = on_end
        self._ending: asyncio.Future[None] | None = None

    @property
    def finish_reason(self) -> str:
        """How it ended: as its first stream that did not end well, or as its first."""
        if self.outcome is not None:
            return self.outcome
        reasons = [stream.finish_reason or "error" for stream in self.streams]
        return next((reason for reason in reasons if reason in ("error", "timeout", "cancelled")), reasons[0])

    def cancel(self, reason: str) -> None:
        """End it, whatever stage it is in.

        Args:
            reason: "disconnect", "stall", "request" (by name) or "shutdown".
        """
        if self.cancelled_by is None:
            self.cancelled_by = reason
        self._cancel_all()
        self.on_cancel()
        if reason in ("disconnect", "stall"):
            self.end()  # nobody is there to read the end

    async def events(self, renderer: Renderer) -> Source:
        """Everything that a streamed response consists of, a batch for each step of the engine."""
        try:
            yield renderer.opening()
            results: dict[int, GenerationResult] = {}
            async for step in self._steps(renderer):
                batch: list[bytes] = []
                for choice, tokens in step:
                    stream = self.streams[choice]
                    if tokens:
                        batch += renderer.tokens(choice, tokens)
                    elif renderer.wants_progress and not stream.is_read:
                        batch += renderer.progress(choice, stream)
                    if not stream.is_read:
                        continue
                    if stream.finish_reason in _UNFINISHED:
                        yield batch
                        batch = []
                    results[choice] = self.checked(await stream.result())
                    batch += renderer.ending(choice, results[choice])
                if len(results) == len(self.streams):
                    batch += renderer.closing([results[choice] for choice in sorted(results)])
                yield batch
        except Exception as error:  # whatever it is, the client must learn that this was not all
            self.error = self._told(error)
            self._cancel_all()
            await self._all_ended()
            yield renderer.failure(self.error, self.streams)
        finally:
            self.end()

    async def results(self, *, with_tokens: bool) -> list[Generated]:
        """Wait for the end of all choices.

        Args:
            with_tokens: whether the tokens are wanted one by one.

        Raises:
            HeadraceError: whatever a stream ended with.
            ApiError: it was cancelled.
        """
        try:
            results = await asyncio.gather(*(stream.result() for stream in self.streams))
            for result in results:
                self.checked(result)
            tokens = [await stream.read() if with_tokens else [] for stream in self.streams]
            return [Generated(result, some) for result, some in zip(results, tokens, strict=True)]
        except asyncio.CancelledError:  # its client has left
            self.cancel("disconnect")
            raise
        except Exception as error:
            self.error = self._told(error)
            raise self.error from None
        finally:
            self.end()

    def _told(self, error: Exception) -> ApiError:
        """What the client is told of an error; what was a fault of ours stands in the log."""
        if isinstance(error, ApiError):
            return error
        known = error if isinstance(error, HeadraceError) else HeadraceError()
        told = as_api_error(known)
        if told.type == "server_error":
            _logger.error("failed", exc_info=error, extra={"fields": {"id": self.id, "model": self.model}})
        return told

    def end(self) -> asyncio.Future[None]:
        """Let go of the streams; what of them still runs is cancelled. Any number of times.

        Returns:
            What is done when all have ended, and the request's id is free again.
        """
        if self._ending is None:
            self._cancel_all()
            self._ending = asyncio.ensure_future(self._report_end())
        return self._ending

    async def _report_end(self) -> None:
        await self._all_ended()
        self._on_end(self)

    def _cancel_all(self) -> None:
        for stream in self.streams:
            stream.cancel()

    async def _all_ended(self) -> None:
        for stream in self.streams:
            await stream.wait_end()

    def checked(self, result: GenerationResult) -> GenerationResult:
        """The result of one of the streams; ApiError where somebody cancelled it."""
        if result.finish_reason == "cancelled":
            raise _CANCELLED.get(self.cancelled_by or "", _CANCELLED["shutdown"])
        return result

    async def _steps(self, renderer: Renderer) -> AsyncGenerator[list[tuple[int, list[Token]]], None]:
        """For each step of the engine, what it brought to each choice; no tokens stand for progress, or the end."""
        if len(self.streams) == 1 and not renderer.wants_progress:
            stream = self.streams[0]
            while True:
                yield [(0, await stream.read())]
                if stream.is_read:
                    return
        reading = {asyncio.ensure_future(stream.read()): choice for choice, stream in enumerate(self.streams)}
        timeout = _PROGRESS_INTERVAL if renderer.wants_progress else None
        try:
            while reading:
                done, _ = await asyncio.wait(reading, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    yield [(choice, []) for choice in sorted(reading.values())]
                    continue
                step: list[tuple[int, list[Token]]] = []
                for task in sorted(done, key=lambda task: reading[task]):
                    choice = reading.pop(task)
                    step.append((choice, task.result()))
                    if not self.streams[choice].is_read:
                        reading[asyncio.ensure_future(self.streams[choice].read())] = choice
                if any(stream.tokens_generated() for stream in self.streams):
                    timeout = None
                yield step
        finally:
            for task in reading:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*reading, return_exceptions=True)


# How streams end of which there is no result to send.
_UNFINISHED = (None, "cancelled", "timeout")
