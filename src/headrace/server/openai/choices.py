"""`Choices`: an answer of `n` choices, streamed or not. Base of chat and completions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, ClassVar

from headrace.api.job import Job
from headrace.api.stream import AsyncTokenStream
from headrace.server.http.errors import ApiError
from headrace.server.http.json_text import dumps
from headrace.server.http.sse import event
from headrace.server.openai.wire import Ignored, Wire
from headrace.server.serving.served_model import ServedModel
from headrace.server.serving.timings import progress_of, timings_of
from headrace.server.serving.usage import Measured, usage_of
from headrace.values.results import FinishReason, GenerationResult

__all__ = ["FINISH_REASONS", "MAX_CHOICES", "Choices", "StreamOptions"]

# Choices that one request may ask for: its prompts times `n`.
MAX_CHOICES = 128

FINISH_REASONS: dict[FinishReason, str] = {
    "stop": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
}


class StreamOptions(Wire):
    """How a stream is written."""

    include_usage: bool | None = None
    include_obfuscation: Ignored = None


class Choices:
    """Base of exchanges whose answer is a list of choices.

    Args:
        id: the answer's id.
        kind: the chunks' `object`.
        served: the model.
        num_choices: `n`, the choices for each prompt.
        options: `stream_options`.
        has_index: `return_token_index`.
        is_streamed: `stream`.

    Raises:
        ApiError: 400, stream options are given, but the answer is not streamed.
    """

    # An empty choice of a chunk.
    _empty_choice: ClassVar[dict[str, Any]]

    def __init__(
        self,
        *,
        id: str,
        kind: str,
        served: ServedModel,
        num_choices: int,
        options: StreamOptions | None,
        has_index: bool,
        is_streamed: bool,
    ) -> None:
        for name, is_given in (("stream_options", options is not None), ("return_token_index", has_index)):
            if is_given and not is_streamed:
                raise ApiError(400, f"{name} is given, but stream is not true", param=name)
        self._served = served
        self._num_choices = num_choices
        self._has_index = has_index
        self._has_usage = options is not None and bool(options.include_usage)
        self._chunk_end = ',"usage":null}' if self._has_usage else "}"
        self._common_fields = {"id": id, "object": kind, "created": int(time.time()), "model": served.name}
        # Each chunk begins with this text and a number. The rest of a plain token's chunk is prepared too.
        self._chunk_start = f'data: {dumps(self._common_fields)[:-1]},"choices":[{{"index":'

    def progress(self, choice: int, stream: AsyncTokenStream) -> list[bytes]:
        """Returns a chunk with the progress of a prompt."""
        return [self._chunk({"index": choice}, prompt_progress=progress_of(stream))]

    def ending(self, choice: int, result: GenerationResult) -> list[bytes]:
        """Returns the last chunk of a choice."""
        last = {"index": choice, "finish_reason": FINISH_REASONS[result.finish_reason]}
        return [self._chunk(last, timings=timings_of(result))]

    def closing(self, results: Sequence[GenerationResult]) -> list[bytes]:
        """Returns the usage, if `include_usage` is set, and `[DONE]`."""
        usage = [self._usage_chunk(results)] if self._has_usage else []
        return [*usage, event("[DONE]")]

    def failure(self, error: ApiError, streams: Sequence[AsyncTokenStream]) -> list[bytes]:
        """Returns the usage so far, if `include_usage` is set, and the error, which ends the stream."""
        usage = [self._usage_chunk(streams, timings=timings_of(streams[0]))] if self._has_usage else []
        return [*usage, event(error.json())]

    def _for_each_choice(self, job: Job) -> list[Job]:
        """Returns a job for each choice of a prompt. Structured output is not parsed, as it is sent as text."""
        return job._replace(parse=None).times(self._num_choices)

    def _usage_chunk(self, results: Sequence[Measured], **extra: Any) -> bytes:
        return event(dumps({**self._common_fields, "choices": [], "usage": self._usage(results), **extra}))

    def _usage(self, results: Sequence[Measured]) -> dict[str, Any]:
        return usage_of(results, self._num_choices, self._served.pricing)

    def _chunk(self, choice: dict[str, Any], **extra: Any) -> bytes:
        choices = [{**self._empty_choice, **choice}]
        return event(dumps({**self._common_fields, "choices": choices, **extra})[:-1] + self._chunk_end)
