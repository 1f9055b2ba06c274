"""`Generation`: the streams of one request. `Renderer`: writes their tokens as the events of one endpoint."""

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

__all__ = ["FinishedChoice", "Generation", "Renderer"]

_logger = logging.getLogger("headrace.server")

# Seconds between two reports of a prompt's progress.
_PROGRESS_INTERVAL = 0.1

# Errors for a client whose stream was cancelled by somebody else, by the reason of the cancel.
_CANCELLED = {
    "request": ApiError(499, "the stream was cancelled by its id", type="cancelled_error", code="cancelled"),
    "shutdown": ApiError(503, "the server is shutting down", type="server_error", code="server_shutdown"),
}


class Renderer(Protocol):
    """Writes a generation's tokens as the events of one endpoint. Each method returns whole events."""

    @property
    def wants_progress(self) -> bool:
        """Whether `progress` should be called during prefill."""
        ...

    def opening(self) -> list[bytes]:
        """Returns the events before the first token."""
        ...

    def progress(self, choice: int, stream: AsyncTokenStream) -> list[bytes]:
        """Returns the progress of a prompt; only called if `wants_progress`."""
        ...

    def tokens(self, choice: int, tokens: Sequence[Token]) -> list[bytes]:
        """Returns the events for the tokens of a step."""
        ...

    def ending(self, choice: int, result: GenerationResult) -> list[bytes]:
        """Returns the events at the end of one choice, after its last tokens."""
        ...

    def closing(self, results: Sequence[GenerationResult]) -> list[bytes]:
        """Returns the events after the end of all choices."""
        ...

    def failure(self, error: ApiError, streams: Sequence[AsyncTokenStream]) -> list[bytes]:
        """Returns the last events of a generation that failed. All its streams have ended."""
        ...


class FinishedChoice(NamedTuple):
    """A finished choice, for a response that is not streamed."""

    result: GenerationResult
    tokens: list[Token]


class Generation:
    """The streams of one request.

    Args:
        id: the request's id.
        model: the model's name.
        streams: one stream for each choice.
        prompts: of these, one stream for each prompt.
        on_end: called once, when all streams have ended.

    Attributes:
        outcome: the finish reason that the client got, if it is not that of the streams.
        cancelled_by: the reason given to the first `cancel`.
        error: the error that the client got.
        on_cancel: called by `cancel`, to wake a reader that is not waiting for a token.
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
        self.outcome: str | None = None
        self.cancelled_by: str | None = None
        self.error: ApiError | None = None
        self.on_cancel: Callable[[], None] = lambda: None
        self._on_end = on_end
        self._ending: asyncio.Future[None] | None = None

    @property
    def finish_reason(self) -> str:
        """The finish reason of the first stream that failed, timed out or was cancelled; otherwise of the first one."""
        if self.outcome is not None:
            return self.outcome
        reasons = [stream.finish_reason or "error" for stream in self.streams]
        return next((reason for reason in reasons if reason in ("error", "timeout", "cancelled")), reasons[0])

    def cancel(self, reason: str) -> None:
        """Cancel all streams.

        Args:
            reason: "disconnect", "stall", "request" (cancelled by its id) or "shutdown".
        """
        if self.cancelled_by is None:
            self.cancelled_by = reason
        self._cancel_all()
        self.on_cancel()
        if reason in ("disconnect", "stall"):
            self.end()  # nobody reads the end

    async def events(self, renderer: Renderer) -> Source:
        """Yields the events of a streamed response, a batch for each step of the engine."""
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
                        yield batch  # now, because `checked` or `result` raises
                        batch = []
                    results[choice] = self.checked(await stream.result())
                    batch += renderer.ending(choice, results[choice])
                if len(results) == len(self.streams):
                    batch += renderer.closing([results[choice] for choice in sorted(results)])
                yield batch
        except Exception as error:  # the client must learn that the answer is incomplete
            self.error = self._api_error(error)
            self._cancel_all()
            await self._all_ended()
            yield renderer.failure(self.error, self.streams)
        finally:
            self.end()

    async def results(self, *, with_tokens: bool) -> list[FinishedChoice]:
        """Wait for the end of all choices. Returns their results.

        Args:
            with_tokens: whether to return the tokens as well.

        Raises:
            ApiError: a stream failed or was cancelled.
        """
        try:
            results = await asyncio.gather(*(stream.result() for stream in self.streams))
            for result in results:
                self.checked(result)
            tokens = [await stream.read() if with_tokens else [] for stream in self.streams]
            return [FinishedChoice(*choice) for choice in zip(results, tokens, strict=True)]
        except asyncio.CancelledError:  # the client has left
            self.cancel("disconnect")
            raise
        except Exception as error:
            self.error = self._api_error(error)
            raise self.error from None
        finally:
            self.end()

    def _api_error(self, error: Exception) -> ApiError:
        """Returns the error that the client gets. Failures of the server are logged."""
        if isinstance(error, ApiError):
            return error
        known = error if isinstance(error, HeadraceError) else HeadraceError()
        api_error = as_api_error(known)
        if api_error.type == "server_error":
            _logger.error("failed", exc_info=error, extra={"fields": {"id": self.id, "model": self.model}})
        return api_error

    def end(self) -> asyncio.Future[None]:
        """Cancel the streams that still run. May be called any number of times.

        Returns:
            A future that is done when all streams have ended and the request's id is free again.
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
        """Returns a stream's result; raises ApiError if the stream was cancelled."""
        if result.finish_reason == "cancelled":
            raise _CANCELLED.get(self.cancelled_by or "", _CANCELLED["shutdown"])
        return result

    async def _steps(self, renderer: Renderer) -> AsyncGenerator[list[tuple[int, list[Token]]], None]:
        """Yields, for each step of the engine, the choices that have news, with their new tokens.

        A choice without new tokens may have progressed in its prompt, or ended.
        """
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


# Finish reasons of streams that have no result to send. None stands for a failure.
_UNFINISHED = (None, "cancelled", "timeout")
