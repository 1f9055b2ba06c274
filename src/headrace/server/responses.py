"""`POST /v1/responses`: OpenAI's newer endpoint, streamed as typed events and whole; nothing of it is stored."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from headrace.errors import InvalidRequestError
from headrace.lane import Job, Lane
from headrace.results import GenerationResult, Token
from headrace.server.body import request_body
from headrace.server.common import HeldLogprobs, dumps, logprob_entry, quoted, role_of, timings_of
from headrace.server.endpoint import generate, router_of
from headrace.server.errors import ApiError
from headrace.server.generation import Generated
from headrace.server.responses_wire import INCLUDE_LOGPROBS, ResponseRequest
from headrace.server.service import Served, Service
from headrace.server.sse import event
from headrace.stream import AsyncTokenStream

__all__ = ["ResponseExchange", "responses_router"]

_DELTA = "response.output_text.delta"
_CONTENT = re.compile(r"messages\[(\d+)\]\.content")


class ResponseExchange:
    """One request for a response, and that response: a single message of a single part, which is text."""

    wants_progress = False

    def __init__(self, body: ResponseRequest, served: Served, id: str) -> None:
        self.wants_tokens = INCLUDE_LOGPROBS in (body.include or ())
        if body.top_logprobs and not self.wants_tokens:
            message = f'top_logprobs is {body.top_logprobs}, but include does not have "{INCLUDE_LOGPROBS}"'
            raise ApiError(400, message, param="top_logprobs")
        if body.stream_options is not None and not body.stream:
            raise ApiError(400, "stream_options is given, but stream is not true", param="stream_options")
        self.names = {
            "max_tokens": "max_output_tokens",
            "messages": "input",
            "prompt": "input",
            "stop_sequences": "stop",
        }
        self._body = body
        self._served = served
        self._id = f"resp_{id}"
        self._item_id = f"msg_{id}"
        self._created = int(time.time())
        self._num_events = 0
        self._sent: list[str] = []
        self._held = HeldLogprobs()
        self._logprobs: list[dict[str, Any]] = []
        # A delta is these strings with a number and a text between them: nothing else is made per token.
        self._place = {"item_id": self._item_id, "output_index": 0, "content_index": 0}
        self._before_number = f'event: {_DELTA}\ndata: {{"type":"{_DELTA}","sequence_number":'
        self._before_text = f',{dumps(self._place)[1:-1]},"delta":'
        self._after_text = ',"logprobs":[]}\n\n'

    def jobs(self, lane: Lane) -> list[Job]:
        """The one job."""
        body = self._body
        changes = body.settings()
        limit = body.max_output_tokens
        changes["max_tokens"] = self._served.max_tokens if limit is None else limit
        if self.wants_tokens:
            changes["logprobs"] = body.top_logprobs or 0
        places, turns = zip(*_turns(body), strict=True)
        try:
            return [lane.chat_job(turns, None, changes)]
        except InvalidRequestError as error:
            found = _CONTENT.fullmatch(error.field)
            if found is None:
                raise
            # The engine counts the messages as it was given them; the client knows them by other names.
            place = places[int(found[1])]
            message = str(error).replace(error.field, place, 1)
            raise InvalidRequestError(place, error.value, error.allowed, message) from None

    # Streamed.

    def opening(self) -> list[bytes]:
        """The response, its message and the message's part, all of them still empty."""
        response = self._response("in_progress")
        return [
            self._event("response.created", response=response),
            self._event("response.in_progress", response=response),
            self._event("response.output_item.added", output_index=0, item=self._item("in_progress")),
            self._event("response.content_part.added", **self._place, part=self._part("")),
        ]

    def progress(self, choice: int, stream: AsyncTokenStream) -> list[bytes]:
        """There is no event for how far the prompt was read."""
        return []

    def tokens(self, choice: int, tokens: Sequence[Token]) -> list[bytes]:
        """A delta for each token that has text to show."""
        if self.wants_tokens:
            return self._tokens_with_logprobs(tokens)
        events: list[bytes] = []
        for token in tokens:
            if token.text:
                self._sent.append(token.text)
                number = f"{self._before_number}{self._num_events}"
                events.append(f"{number}{self._before_text}{quoted(token.text)}{self._after_text}".encode())
                self._num_events += 1
        return events

    def _tokens_with_logprobs(self, tokens: Sequence[Token]) -> list[bytes]:
        events: list[bytes] = []
        for token in tokens:
            self._sent.append(token.text)
            logprobs = [logprob_entry(one) for one in self._held.feed([token])]
            self._logprobs += logprobs
            if token.text or logprobs:
                events.append(self._event(_DELTA, **self._place, delta=token.text, logprobs=logprobs))
        return events

    def ending(self, choice: int, result: GenerationResult) -> list[bytes]:
        """The part and the message, now complete."""
        part = self._part(result.text)
        item = self._item(_status(result), part)
        return [
            self._event("response.output_text.done", **self._place, text=result.text, logprobs=self._logprobs),
            self._event("response.content_part.done", **self._place, part=part),
            self._event("response.output_item.done", output_index=0, item=item),
        ]

    def closing(self, results: Sequence[GenerationResult]) -> list[bytes]:
        """The response, now complete."""
        return [self._event(f"response.{_status(results[0])}", response=self._ended(results[0]))]

    def failure(self, error: ApiError) -> list[bytes]:
        """The response as far as it came. An `error` beside it would keep clients from seeing it."""
        response = self._response(
            "failed",
            # Clients know few codes, and only this one fits; the type says more.
            error={"code": "server_error", "message": error.message, "type": error.type, "param": error.param},
            output=[self._item("incomplete", self._part("".join(self._sent)))],
        )
        return [self._event("response.failed", response=response)]

    def _event(self, name: str, **fields: Any) -> bytes:
        number = self._num_events
        self._num_events += 1
        return event(dumps({"type": name, "sequence_number": number, **fields}), name=name)

    # Whole.

    def whole(self, choices: Sequence[Generated]) -> dict[str, Any]:
        """The response that is not streamed."""
        result, tokens = choices[0]
        self._logprobs = [logprob_entry(token) for token in self._held.feed(tokens)]
        return self._ended(result)

    # What both consist of.

    def _ended(self, result: GenerationResult) -> dict[str, Any]:
        status = _status(result)
        is_complete = status == "completed"
        return self._response(
            status,
            completed_at=int(time.time()) if is_complete else None,
            incomplete_details=None if is_complete else {"reason": "max_output_tokens"},
            output=[self._item(status, self._part(result.text))],
            usage=_usage(result),
            timings=timings_of(result),
        )

    def _response(self, status: str, **changes: Any) -> dict[str, Any]:
        body, defaults = self._body, self._served.defaults
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "completed_at": None,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "model": self._served.name,
            "output": [],
            "usage": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "temperature": _or(body.temperature, defaults.temperature),
            "top_p": _or(body.top_p, defaults.top_p),
            "presence_penalty": _or(body.presence_penalty, defaults.presence_penalty),
            "frequency_penalty": _or(body.frequency_penalty, defaults.frequency_penalty),
            "top_logprobs": body.top_logprobs or 0,
            "text": {"format": {"type": "text"}},
            "reasoning": None,
            "truncation": "disabled",
            "tools": [],
            "tool_choice": _or(body.tool_choice, "auto"),
            "parallel_tool_calls": _or(body.parallel_tool_calls, True),
            "max_tool_calls": body.max_tool_calls,
            "previous_response_id": None,
            "background": False,
            "store": False,
            "service_tier": "default",
            "metadata": body.metadata or {},
            "user": body.user,
            "safety_identifier": body.safety_identifier,
            "prompt_cache_key": body.prompt_cache_key,
            **changes,
        }

    def _item(self, status: str, *parts: dict[str, Any]) -> dict[str, Any]:
        return {"id": self._item_id, "type": "message", "status": status, "role": "assistant", "content": parts}

    def _part(self, text: str) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": self._logprobs}


def _turns(body: ResponseRequest) -> list[tuple[str, dict[str, Any]]]:
    """The conversation, and where in the request each turn has its text."""
    turns: list[tuple[str, dict[str, Any]]] = []
    if body.instructions is not None:
        turns.append(("instructions", {"role": "system", "content": body.instructions}))
    if isinstance(body.input, str):
        turns.append(("input", {"role": "user", "content": body.input}))
    else:
        for i, message in enumerate(body.input):
            turns.append((f"input[{i}].content", {"role": role_of(message.role), "content": message.text}))
    return turns


def _status(result: GenerationResult) -> str:
    return "incomplete" if result.finish_reason == "length" else "completed"


def _usage(result: GenerationResult) -> dict[str, Any]:
    usage = result.usage
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.thinking_tokens},
        "total_tokens": usage.total_tokens,
    }


def _or(given: Any, default: Any) -> Any:
    return default if given is None else given


def responses_router(service: Service) -> APIRouter:
    """The route, to be included in an app."""
    router = router_of(service, "OpenAI")

    @router.post("/v1/responses", openapi_extra=request_body(ResponseRequest))
    async def responses(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Answer a text or a conversation."""
        return await generate(service, request, ResponseRequest, ResponseExchange)

    return router
