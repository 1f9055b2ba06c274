"""`Paced` and `AsyncPaced`: the view behind `stream.paced()`."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import cast

from headrace.api.readable import MAX_WAIT_MS, AsyncReadable, Readable
from headrace.values.checks import as_float
from headrace.values.results import Token

__all__ = ["AsyncPaced", "Pace", "Paced"]

# The usual gap is the mean of the gaps between this many tokens.
_NUM_GAPS = 32
# Tokens are shown at gaps of this share of the usual one, so that a view that is behind catches up.
_CATCH_UP = 0.9
# A delay below this many seconds is invisible, and not worth a sleep.
_IMPERCEPTIBLE = 0.001


class Pace:
    """Computes when each token is shown.

    Args:
        lag_ms: milliseconds that a token may be held back.

    Attributes:
        held: the token that waits to be shown. It stays here if the wait is interrupted.
    """

    def __init__(self, lag_ms: float) -> None:
        self._lag = as_float("lag_ms", lag_ms, 0, MAX_WAIT_MS) / 1000
        self._gaps: deque[float] = deque(maxlen=_NUM_GAPS)
        self._last_sampled: float | None = None
        self._last_shown = 0.0
        self.held: Token | None = None

    def hold(self, token: Token) -> None:
        """Hold a token that has arrived."""
        if self._last_sampled is not None:
            # A pause of the stream is no usual gap, and the wall clock may be set back.
            self._gaps.append(min(max(0.0, token.timestamp - self._last_sampled), self._lag))
        self._last_sampled = token.timestamp
        self.held = token

    def delay(self, now: float, clock: float) -> float:
        """Return the seconds until the held token is shown.

        Args:
            now: the time, by `time.monotonic()`.
            clock: the time in seconds since the epoch, like the tokens' timestamps.
        """
        token = self.held
        if token is None or not self._gaps:
            return 0.0
        usual_gap = sum(self._gaps) / len(self._gaps)
        age = min(max(0.0, clock - token.timestamp), self._lag)
        delay = min(self._last_shown + usual_gap * _CATCH_UP - now, self._lag - age)
        return delay if delay > _IMPERCEPTIBLE else 0.0

    def show(self, now: float) -> Token:
        """Return the held token, and hold none."""
        token = cast("Token", self.held)
        self.held = None
        self._last_shown = now
        return token


class Paced(Iterator[Token]):
    """A stream's tokens at an even pace."""

    def __init__(self, stream: Readable, pace: Pace) -> None:
        self._stream = stream
        self._pace = pace
        self._tokens = iter(stream)

    def __next__(self) -> Token:
        pace = self._pace
        if pace.held is None:
            pace.hold(next(self._tokens))
        if delay := pace.delay(time.monotonic(), time.time()):
            self._stream.wait_end(delay)
        return pace.show(time.monotonic())


class AsyncPaced(AsyncIterator[Token]):
    """See `Paced`."""

    def __init__(self, stream: AsyncReadable, pace: Pace) -> None:
        self._stream = stream
        self._pace = pace
        self._tokens = aiter(stream)

    async def __anext__(self) -> Token:
        pace = self._pace
        if pace.held is None:
            pace.hold(await anext(self._tokens))
        if delay := pace.delay(time.monotonic(), time.time()):
            await self._stream.wait_end(delay)
        return pace.show(time.monotonic())
