"""`StreamBase`: the base of `TokenStream` and `AsyncTokenStream`: submission, cancelling, counts, results, errors."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from typing import NoReturn

from headrace.api.observer import Observer
from headrace.api.tee import TeeableStream
from headrace.chat.prompts import Prepared
from headrace.engine.channel import wake
from headrace.engine.loop import Engine
from headrace.engine.metrics import StreamStats
from headrace.values.config import StreamConfig
from headrace.values.errors import EngineClosedError, GenerationError, StreamTimeoutError
from headrace.values.events import End, TokenEvent
from headrace.values.output_format import PLAIN
from headrace.values.pricing import Pricing
from headrace.values.request import LastTokens, Request
from headrace.values.results import FinishReason, GenerationResult, Metrics, Token, Usage

__all__ = ["StreamBase"]

_DEADLINES = {
    "total": ("timeout_ms", "generating"),
    "queue": ("queue_timeout_ms", "waiting for a slot"),
    "first_token": ("first_token_timeout_ms", "waiting for its first token"),
    "stall": ("stall_timeout_ms", "paused because its reader did not read"),
}
_NO_PROMPT = Prepared((), PLAIN)


class StreamBase(TeeableStream):
    """The base of TokenStream and AsyncTokenStream. Any thread may use any of its members, at any time.

    Args:
        engine: the engine that generates.
        owner: an object that is kept alive as long as the stream, so that the engine is not closed meanwhile.
        config: the settings.
        id: the stream's id.
        model: the model's name.
        flow: the stream's flow in the fair queue.
        closing_token: whether the iteration ends with an extra Token whose `is_last` is True.
        parse: makes an object of a complete output; raises an error for an output that it cannot use.
        pricing: prices of tokens, if the settings have none.
        observer: records the tokens that the reader was shown; None for none.
        last_tokens: where the stream's tokens are stored when it ends.
    """

    def __init__(
        self,
        engine: Engine,
        owner: object,
        config: StreamConfig,
        *,
        id: str,
        model: str,
        flow: Hashable,
        closing_token: bool,
        parse: Callable[[str], object] | None = None,
        pricing: Pricing | None = None,
        observer: Observer | None = None,
        last_tokens: LastTokens | None = None,
    ) -> None:
        super().__init__(config.buffer_size)
        self.id = id
        self._engine = engine
        self._owner = owner
        self._config = config
        self._model = model
        self._flow = flow
        self._parse = parse
        self._stats = StreamStats(time.perf_counter(), config.pricing or pricing)
        self._is_submitted = False
        self._is_cancelled = False
        self._wants_closing_token = closing_token
        self._observer = observer
        self._last_tokens = last_tokens

    def submit(self, prepared: Prepared) -> None:
        """Hand the prompt to the engine."""
        # First of all: from now on, a cancel() leaves it to this method or the engine to end the stream.
        self._is_submitted = True
        if self._is_cancelled:
            self._finish_early(None)
            return
        if self._observer is not None:
            self._config = self._observer.fitted(self._config)
        request = Request(self.id, prepared.prompt, self._config, self._flow, prepared.output_format, self._last_tokens)
        self._engine.submit(request, self._source, self._stats)
        if self._is_cancelled:
            self._engine.cancel(self.id)

    def submit_later(self, prepare: Callable[[], Prepared]) -> None:
        """Make the prompt, and hand it to the engine. An error does not propagate: it becomes the end of the stream."""
        try:
            self.submit(_NO_PROMPT if self._is_cancelled else prepare())
        except EngineClosedError as error:
            self._finish_early(error if self._engine.is_dead else None)  # close() ends every stream as "cancelled"
        except BaseException as error:
            self._finish_early(None if self._is_cancelled else error)

    def cancel(self) -> None:
        """End the stream as "cancelled", without an exception. Any thread or task may call it, and again.

        If `tee` made several readers, the stream ends for all of them.
        """
        self._is_cancelled = True
        if self._teed_from is not None:
            self._teed_from.cancel()
        elif self._is_submitted:
            self._engine.cancel(self.id)
        else:
            self._finish_early(None)

    def _finish_early(self, error: BaseException | None) -> None:
        """End a stream that did not reach the engine."""
        if self._source.finish(End("", None if error else "cancelled", error=error)):
            self._stats.ended = time.perf_counter()
            wake((self._source,))

    @property
    def is_read(self) -> bool:
        """Whether the stream has ended and all its tokens were read."""
        return self._channel.end is not None and len(self._channel) == 0

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the stream ended; None while it runs, and if it failed."""
        end = self._channel.end
        return end.finish_reason if end is not None else None

    @property
    def usage(self) -> Usage:
        """Token counts so far; exact."""
        return self._stats.usage()

    @property
    def metrics(self) -> Metrics:
        """Times so far."""
        return self._stats.metrics()

    @property
    def time_to_first_token_ms(self) -> float | None:
        """Milliseconds from the request to the first token; None until there is one."""
        first = self._stats.first_token
        return None if first is None else (first - self._stats.created) * 1000

    @property
    def gaps(self) -> Sequence[float]:
        """Inter-token latencies so far, in seconds, without pauses."""
        return self._stats.gaps[:]

    @property
    def prefilled_tokens(self) -> int:
        """Tokens of the prompt whose KV is computed so far, cached ones included."""
        return min(self._stats.computed_tokens, self._stats.prompt_tokens)

    def tokens_generated(self) -> int:
        """Return the tokens sampled so far, read or not."""
        return self._stats.completion_tokens

    def tokens_per_second(self) -> float:
        """Return the decode speed so far: tokens after the first over the time after the first, without pauses."""
        return self._stats.tokens_per_second()

    def __repr__(self) -> str:
        state = "running" if self._channel.end is None else self.finish_reason or "failed"
        return f"<{type(self).__name__} {self.id}: {self.tokens_generated()} tokens, {state}>"

    def __del__(self) -> None:
        # Takes no lock, because a garbage collection runs this at any point of a thread.
        if hasattr(self, "_observer"):
            self._abandon()

    def _leave(self) -> None:
        self._is_closed = True
        end = self._source.end
        is_read = not len(self._source)  # checked after `end`, because no token follows the End
        self._channel.discard()
        if self._observer is not None and self._channel.is_deserted:
            self._observer.ended(end if is_read else None, ())

    def _abandon(self) -> None:
        self._leave()
        if self._channel.is_deserted and self._channel.end is None:
            (self._teed_from or self)._is_cancelled = True
            self._engine.abandon(self.id)

    def _close(self) -> None:
        self._leave()
        if self._channel.is_deserted and self._channel.end is None:
            self.cancel()

    def _tokens_from(self, event: TokenEvent | End | None, limit: int | None) -> list[Token]:
        """Return the token of this event, and the unread tokens behind it."""
        tokens: list[Token] = []
        while type(event) is TokenEvent:
            tokens.append(self._token(event))
            if len(tokens) == limit:
                return tokens
            event = self._channel.get_nowait()
        if isinstance(event, End) and not tokens:
            self._after_end(event)
        return tokens

    def _token(self, event: TokenEvent) -> Token:
        text, id, number, timestamp, piece, logprob, top_logprobs, kind, tool_call, rest = event
        token = Token(text, id, number, timestamp, False, kind, piece, logprob, top_logprobs, tool_call, rest)
        if self._observer is not None:
            self._observer.shown(token)
        return token

    def _after_end(self, end: End) -> Token | None:
        """Handle the End when the iteration reaches it: raise its error, or return the closing token or None."""
        if self._is_closed:
            return None
        if self._observer is not None:
            self._observer.ended(end, ())
        if self._is_failure(end):
            self._is_closed = True
            self._raise(end)
        if self._wants_closing_token:
            self._wants_closing_token = False
            return Token("", -1, self._stats.completion_tokens, time.time(), is_last=True)
        self._is_closed = True
        return None

    def _outcome(self, end: End) -> GenerationResult:
        if self._observer is not None:
            self._observer.ended(end, self._source.unread())
        if self._is_failure(end):
            self._raise(end)
        return self._result(end, self._parsed(end))

    def _is_failure(self, end: End) -> bool:
        return end.error is not None or end.timeout is not None

    def _result(self, end: End, parsed: object = None) -> GenerationResult:
        return GenerationResult(
            text=end.text,
            finish_reason=end.finish_reason or "cancelled",
            stop_sequence=end.stop_sequence,
            usage=self._stats.usage(),
            metrics=self._stats.metrics(),
            model=self._model,
            thinking=end.thinking,
            tool_calls=end.tool_calls,
            parsed=parsed,
        )

    def _parsed(self, end: End) -> object:
        if self._parse is None or not end.is_complete:
            return None
        try:
            return self._parse(end.text[end.answer_start :])
        except Exception as error:  # the validators of a user's type may raise anything
            message = f"the output fits the JSON schema, but the type that the schema was made from refuses it: {error}"
            raise GenerationError(message, self._result(end)) from error

    def _raise(self, end: End) -> NoReturn:
        # A new exception each time, because the partial result that goes into it is known only now.
        if end.timeout is not None:
            field, activity = _DEADLINES[end.timeout]
            limit = getattr(self._config, field)
            message = f"the stream spent more than {limit:.15g} ms {activity} ({field})"
            raise StreamTimeoutError(message, end.timeout, self._result(end))
        if isinstance(end.error, GenerationError):
            raise GenerationError(str(end.error), self._result(end)) from end.error.__cause__
        assert end.error is not None
        raise end.error.with_traceback(None)
