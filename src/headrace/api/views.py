"""`Views` and `AsyncViews`: other ways to iterate a stream: as text, in lists, at an even pace, as a growing object."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

from headrace.api.buffered_view import AsyncGroups, Group, Groups
from headrace.api.object_view import AsyncObjects, Objects, check_objects
from headrace.api.paced_view import AsyncPaced, Pace, Paced
from headrace.api.readable import AsyncReadable, Readable
from headrace.api.text_view import AsyncTexts, Texts
from headrace.values.config import StreamConfig
from headrace.values.results import Token

__all__ = ["AsyncViews", "Views"]


class Views:
    """The views of a TokenStream. A view is the stream's one iteration: leaving it cancels the stream."""

    _config: StreamConfig

    def text(self) -> Iterator[str]:
        """Iterate the texts of kind "text", without thinking and tool calls; none is empty."""
        return Texts(cast("Readable", self))

    def buffered(self, n: int, max_wait_ms: float | None = None) -> Iterator[list[Token]]:
        """Iterate lists of n sampled tokens; the last list may be shorter. An error comes after the tokens before it.

        Args:
            n: tokens in a list, at least 1.
            max_wait_ms: milliseconds from a list's first token after which it is handed out although it is not full,
                so that a slow stream still shows something; None for no limit.
        """
        return Groups(cast("Readable", self), Group(n, max_wait_ms))

    def paced(self, lag_ms: float = 250) -> Iterator[Token]:
        """Iterate the tokens at an even pace, for display: tokens that arrive in a burst are shown one by one.

        The pace is the mean gap between the last 32 tokens. No token is lost or reordered, and none is held back for
        longer than `lag_ms` after it was sampled. When the stream has ended, for whatever reason, the rest is handed
        out at once.

        Args:
            lag_ms: milliseconds that a token may be held back, 0 to 3,600,000.
        """
        return Paced(cast("Readable", self), Pace(lag_ms))

    def objects(self) -> Iterator[Any]:
        """Iterate the growing object of a stream with a `json_schema`: each value extends the one before.

        If the output is complete, the last value is `result().parsed`: an instance of the type that was given as the
        schema, or plain JSON values. If the output was cut off, the last value is the part that was written.

        Raises:
            InvalidRequestError: the stream has no `json_schema`, or its thinking is "raw" and so part of its text.
        """
        check_objects(self._config)
        return Objects(cast("Readable", self))


class AsyncViews:
    """The views of an AsyncTokenStream. A view is the stream's one iteration: leaving it cancels the stream."""

    _config: StreamConfig

    def text(self) -> AsyncIterator[str]:
        """Iterate the texts of kind "text"; see `TokenStream.text`."""
        return AsyncTexts(cast("AsyncReadable", self))

    def buffered(self, n: int, max_wait_ms: float | None = None) -> AsyncIterator[list[Token]]:
        """Iterate lists of n tokens; see `TokenStream.buffered`."""
        return AsyncGroups(cast("AsyncReadable", self), Group(n, max_wait_ms))

    def paced(self, lag_ms: float = 250) -> AsyncIterator[Token]:
        """Iterate the tokens at an even pace; see `TokenStream.paced`."""
        return AsyncPaced(cast("AsyncReadable", self), Pace(lag_ms))

    def objects(self) -> AsyncIterator[Any]:
        """Iterate the growing object; see `TokenStream.objects`."""
        check_objects(self._config)
        return AsyncObjects(cast("AsyncReadable", self))
