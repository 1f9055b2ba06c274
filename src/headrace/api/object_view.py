"""`Objects` and `AsyncObjects`: the view behind `stream.objects()`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from headrace.api.readable import AsyncReadable, Readable
from headrace.api.text_view import text_of
from headrace.values.config import StreamConfig
from headrace.values.errors import InvalidRequestError
from headrace.values.results import GenerationResult

if TYPE_CHECKING:
    from headrace.structured.partial_json import PartialJson

__all__ = ["AsyncObjects", "Objects", "check_objects"]


class Objects(Iterator[Any]):
    """The growing JSON value of a stream, each time it has changed."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._json = _partial_json()
        self._tokens = iter(stream)
        self._is_over = False

    def __next__(self) -> Any:
        for token in self._tokens:
            if self._json.feed(text_of(token)):
                return self._json.value
        if not self._is_over and _has_result(self._stream):
            self._is_over = True
            for value in _last_value(self._json, self._stream.result()):
                return value
        raise StopIteration


class AsyncObjects(AsyncIterator[Any]):
    """See `Objects`."""

    def __init__(self, stream: AsyncReadable) -> None:
        self._stream = stream
        self._json = _partial_json()
        self._tokens = aiter(stream)
        self._is_over = False

    async def __anext__(self) -> Any:
        async for token in self._tokens:
            if self._json.feed(text_of(token)):
                return self._json.value
        if not self._is_over and _has_result(self._stream):
            self._is_over = True
            for value in _last_value(self._json, await self._stream.result()):
                return value
        raise StopAsyncIteration


def check_objects(config: StreamConfig) -> None:
    """Raise InvalidRequestError if the settings of a stream do not allow `objects()`."""
    if config.json_schema is None:
        raise InvalidRequestError("json_schema", None, "a schema, for a stream of objects")
    if config.thinking == "raw":
        raise InvalidRequestError("thinking", "raw", '"split" or "hide", for a stream of objects')


def _partial_json() -> PartialJson:
    from headrace.structured.partial_json import PartialJson  # imports jiter, which few streams need

    return PartialJson()


def _has_result(stream: Readable | AsyncReadable) -> bool:
    """Whether the stream has a result: not after a failure or a timeout, nor while it runs for other readers."""
    return stream.finish_reason not in (None, "timeout")


def _last_value(json: PartialJson, result: GenerationResult) -> tuple[Any, ...]:
    """The value after the last token, if it differs from the last one."""
    parsed = result.parsed
    if parsed is None:  # the output was cut off, or it is null, which is the last value already
        return (json.value,) if json.flush(is_complete=False) else ()
    is_known = json.has_value and type(json.value) is type(parsed) and json.value == parsed
    return () if is_known else (parsed,)
