"""`POST /v1/responses`: OpenAI's newer endpoint, streamed as typed events or not. Responses are not stored."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from headrace.api.caller import Caller
from headrace.api.job import Job
from headrace.api.stream import AsyncTokenStream
from headrace.server.http.body import request_body
from headrace.server.http.errors import ApiError
from headrace.server.http.routes import router_of
from headrace.server.openai.answer_schema import answer_description
from headrace.server.openai.reasoning_effort import effort_overrides
from headrace.server.openai.response_format import format_overrides
from headrace.server.openai.responses_input import Conversation
from headrace.server.openai.responses_output import OutputWriter
from headrace.server.openai.responses_request import INCLUDE_LOGPROBS, ResponseRequest
from headrace.server.openai.responses_schema import ResponseObject
from headrace.server.openai.tools import FlatTool, tool_overrides
from headrace.server.serving.exchange import generate
from headrace.server.serving.generation import FinishedChoice
from headrace.server.serving.logprobs import HeldLogprobs, logprob_entry
from headrace.server.serving.served_model import ServedModel
from headrace.server.serving.service import Service
from headrace.server.serving.timings import timings_of
from headrace.values.results import GenerationResult, Part, Token

__all__ = ["ResponseExchange", "responses_router"]

_NAMES = {"max_tokens": "max_output_tokens", "messages": "input", "prompt": "input", "stop_sequences": "stop"}


class ResponseExchange:
    """One request for a response, and the response: thoughts, answers and tool calls."""

    wants_progress = False

    def __init__(self, body: ResponseRequest, served: ServedModel, id: str) -> None:
        self._has_logprobs = INCLUDE_LOGPROBS in (body.include or ())
        if body.top_logprobs and not self._has_logprobs:
            message = f'top_logprobs is {body.top_logprobs}, but include does not have "{INCLUDE_LOGPROBS}"'
            raise ApiError(400, message, param="top_logprobs")
        if body.stream_options is not None and not body.stream:
            raise ApiError(400, "stream_options is given, but stream is not true", param="stream_options")
        # With tools, only the tokens tell whether a text came before a tool call or after it.
        self.wants_tokens = self._has_logprobs or bool(body.tools)
        self.names: Mapping[str, str] = _NAMES
        self._body = body
        self._served = served
        self._id = f"resp_{id}"
        self._created = int(time.time())
        self._writer = OutputWriter(id)
        self._held_logprobs = HeldLogprobs()

    def jobs(self, caller: Caller) -> list[Job]:
        """Returns the request's only job."""
        body = self._body
        conversation = Conversation(body.instructions, body.input)
        tools = tool_overrides(body.tools, body.tool_choice, body.parallel_tool_calls)
        format = format_overrides(body, body.text.format if body.text is not None else None, "text.format")
        effort = body.reasoning.effort if body.reasoning is not None else None
        template = self._served.core.vocabulary.chat_template
        reasoning = effort_overrides(effort, "reasoning.effort", body, template, body.chat_template_kwargs)
        self.names = {**_NAMES, **conversation.names, **tools.names, **format.names, **reasoning.names}
        limit = body.max_output_tokens
        changes = {**body.settings(), **tools.settings, **format.settings, **reasoning.settings}
        changes["max_tokens"] = self._served.max_tokens if limit is None else limit
        if self._has_logprobs:
            changes["logprobs"] = body.top_logprobs or 0
        return [caller.chat_job(conversation.messages, None, changes)]

    # Streamed.

    def opening(self) -> list[bytes]:
        """Returns the first events, with a response that is still empty."""
        response = self._response("in_progress")
        return [
            self._writer.event("response.created", response=response),
            self._writer.event("response.in_progress", response=response),
        ]

    def progress(self, choice: int, stream: AsyncTokenStream) -> list[bytes]:
        """Returns nothing: responses have no event for the progress of a prompt."""
        return []

    def tokens(self, choice: int, tokens: Sequence[Token]) -> list[bytes]:
        """Returns the events for the next tokens: begins and ends of items, and deltas."""
        events: list[bytes] = []
        for token in tokens:
            events += self._writer.feed(token.parts, self._logprobs(token))
        return events

    def ending(self, choice: int, result: GenerationResult) -> list[bytes]:
        """Returns the events that end the last item."""
        return self._writer.close(self._last_status(result))

    def closing(self, results: Sequence[GenerationResult]) -> list[bytes]:
        """Returns the last event, with the complete response."""
        return [self._writer.event(f"response.{_status(results[0])}", response=self._ended_response(results[0]))]

    def failure(self, error: ApiError, streams: Sequence[AsyncTokenStream]) -> list[bytes]:
        """Returns a `response.failed` event with the output so far.

        There is no `error` event beside it: with one, clients would not see the output.
        """
        response = self._response(
            "failed",
            # Clients know only a few codes. The type is more precise.
            error={"code": "server_error", "message": error.message, "type": error.type, "param": error.param},
            output=self._writer.output("incomplete"),
        )
        return [self._writer.event("response.failed", response=response)]

    # Not streamed.

    def full_response(self, choices: Sequence[FinishedChoice]) -> dict[str, Any]:
        """Returns the body of a response that is not streamed."""
        result, tokens = choices[0]
        if self.wants_tokens:
            self.tokens(0, tokens)
        else:
            self._writer.feed(_parts_of(result))
        self.ending(0, result)
        return self._ended_response(result)

    # Streamed or not.

    def _logprobs(self, token: Token) -> list[dict[str, Any]]:
        return [logprob_entry(ready) for ready in self._held_logprobs.feed([token])] if self._has_logprobs else []

    def _last_status(self, result: GenerationResult) -> str:
        """Returns the status of the last item. A tool call may be complete although the token limit came after it."""
        if self._writer.is_calling:
            return "completed" if result.tool_calls[-1].is_complete else "incomplete"
        return _status(result)

    def _ended_response(self, result: GenerationResult) -> dict[str, Any]:
        status = _status(result)
        is_complete = status == "completed"
        return self._response(
            status,
            completed_at=int(time.time()) if is_complete else None,
            incomplete_details=None if is_complete else {"reason": "max_output_tokens"},
            output=self._writer.output(status),
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
            "text": {"format": _format(body)},
            "reasoning": None if body.reasoning is None else {"effort": body.reasoning.effort, "summary": None},
            "truncation": "disabled",
            "tools": [_tool(tool) for tool in body.tools or ()],
            "tool_choice": _tool_choice(body),
            "parallel_tool_calls": _or(body.parallel_tool_calls, True),
            "max_tool_calls": None,
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


def _parts_of(result: GenerationResult) -> list[Part]:
    """Returns a result without tool calls as parts, as tokens have them."""
    thought = [Part("thinking", result.thinking)] if result.thinking else []
    return [*thought, Part("text", result.text)] if result.text else thought


def _tool(tool: FlatTool) -> dict[str, Any]:
    """Returns a tool as responses show it: `strict` unless the request says otherwise."""
    return {**tool.model_dump(), "strict": _or(tool.strict, True)}


def _tool_choice(body: ResponseRequest) -> Any:
    choice = _or(body.tool_choice, "auto")
    return choice if isinstance(choice, str) else choice.model_dump()


def _format(body: ResponseRequest) -> dict[str, Any]:
    format = body.text.format if body.text is not None else None
    if format is None:
        return {"type": "text"}
    shown = format.model_dump(by_alias=True)
    return {**shown, "strict": _or(shown["strict"], True)} if "strict" in shown else shown


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
        **({} if usage.cost is None else {"cost": usage.cost, "cost_currency": usage.currency}),
    }


def _or(given: Any, default: Any) -> Any:
    return default if given is None else given


def responses_router(service: Service) -> APIRouter:
    """Returns the route, to be included in an app."""
    router = router_of(service.keys, "OpenAI")
    answer = answer_description(ResponseObject)

    @router.post("/v1/responses", openapi_extra=request_body(ResponseRequest), responses=answer)
    async def responses(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Answer a text or a conversation."""
        return await generate(service, request, ResponseRequest, ResponseExchange)

    return router
