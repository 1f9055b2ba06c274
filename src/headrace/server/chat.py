"""`POST /v1/chat/completions`: OpenAI's chat, streamed and whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Request, Response
from pydantic import Discriminator, Field, Tag

from headrace.lane import Job, Lane
from headrace.results import Token
from headrace.server.answers import ChatCompletion, answer_of
from headrace.server.body import request_body
from headrace.server.choices import Choices
from headrace.server.common import (
    FINISH_REASONS,
    HeldLogprobs,
    logprob_entry,
    quoted,
    role_of,
    timings_of,
    usage_of,
)
from headrace.server.endpoint import generate, router_of
from headrace.server.errors import ApiError
from headrace.server.generation import Generated
from headrace.server.service import Served, Service
from headrace.server.wire import MAX_CHOICES, Only, Sampling, StreamOptions, Wire

__all__ = ["Chat", "ChatMessage", "ChatRequest", "chat_router", "turn_of"]


class TextPart(Wire):
    """A piece of a message."""

    type: Literal["text"]
    text: str


def _content_kind(value: Any) -> str:
    return "=parts" if isinstance(value, list) else "=text"


Content = Annotated[
    Annotated[str, Tag("=text")]
    | Annotated[list[TextPart], Tag("=parts"), Field(min_length=1, max_length=1024, fail_fast=True)],
    Discriminator(_content_kind),
]


class ChatMessage(Wire):
    """A turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    name: str | None = Field(default=None, max_length=256)
    refusal: Annotated[Any, Only("")] = None
    annotations: Annotated[Any, Only([])] = None
    audio: Annotated[Any, Only()] = None
    tool_calls: Annotated[Any, Only([])] = None
    function_call: Annotated[Any, Only()] = None
    reasoning_content: Annotated[Any, Only("")] = None


class ChatRequest(Sampling):
    """The body of a chat request."""

    messages: Annotated[list[ChatMessage], Field(fail_fast=True)] = Field(min_length=1, max_length=10_000)
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    stream_options: StreamOptions | None = None
    return_progress: bool | None = None
    response_format: Annotated[Any, Only({"type": "text"})] = None
    tools: Annotated[Any, Only([])] = None
    tool_choice: Annotated[Any, Only()] = None
    parallel_tool_calls: Annotated[Any, Only(True, False)] = None
    functions: Annotated[Any, Only([])] = None
    function_call: Annotated[Any, Only()] = None
    modalities: Annotated[Any, Only(["text"])] = None
    audio: Annotated[Any, Only()] = None
    prediction: Annotated[Any, Only()] = None
    reasoning_effort: Annotated[Any, Only()] = None
    verbosity: Annotated[Any, Only()] = None
    web_search_options: Annotated[Any, Only()] = None


class Chat(Choices):
    """One chat request and its answer."""

    _nothing: ClassVar[dict[str, Any]] = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": None}

    def __init__(self, body: ChatRequest, served: Served, id: str) -> None:
        if body.top_logprobs is not None and not body.logprobs:
            raise ApiError(400, "top_logprobs is given, but logprobs is not true", param="top_logprobs")
        super().__init__(
            id=f"chatcmpl-{id}",
            kind="chat.completion.chunk",
            model=served.name,
            num_choices=body.n or 1,
            options=body.stream_options,
            is_streamed=bool(body.stream),
        )
        if body.max_tokens is not None and body.max_completion_tokens not in (None, body.max_tokens):
            message = "max_tokens and max_completion_tokens are the same thing, and were given different values"
            raise ApiError(400, message, param="max_completion_tokens")
        self.wants_progress = bool(body.return_progress and body.stream)
        self.wants_tokens = bool(body.logprobs)
        limit = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
        self.names = {"stop_sequences": "stop", "max_tokens": limit, "prompt": "messages"}
        self._body = body
        self._served = served
        self._held = [HeldLogprobs() for _ in range(self._num_choices)]
        self._before_text = ',"delta":{"content":'
        self._after_text = '},"logprobs":null,"finish_reason":null}]' + self._tail + "\n\n"

    def jobs(self, lane: Lane) -> list[Job]:
        """A job for each choice."""
        body = self._body
        changes = body.settings()
        limit = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
        changes["max_tokens"] = self._served.max_tokens if limit is None else limit
        if body.logprobs:
            changes["logprobs"] = body.top_logprobs or 0
        messages = [turn_of(message) for message in body.messages]
        return lane.chat_job(messages, None, changes).times(self._num_choices)

    # Streamed.

    def opening(self) -> list[bytes]:
        """The role of each choice, in their order: clients make room for them as they come."""
        delta = {"role": "assistant", "content": ""}
        return [self._chunk({"index": i, "delta": delta}) for i in range(self._num_choices)]

    def tokens(self, choice: int, tokens: Sequence[Token]) -> list[bytes]:
        """A chunk for each token that has text to show."""
        if self.wants_tokens:
            return self._tokens_with_logprobs(choice, tokens)
        head = f"{self._before_index}{choice}{self._before_text}"
        return [f"{head}{quoted(token.text)}{self._after_text}".encode() for token in tokens if token.text]

    def _tokens_with_logprobs(self, choice: int, tokens: Sequence[Token]) -> list[bytes]:
        chunks: list[bytes] = []
        for token in tokens:
            ready = self._held[choice].feed([token])
            if token.text or ready:
                content = [logprob_entry(one) for one in ready]
                logprobs = {"content": content, "refusal": None}
                chunks.append(self._chunk({"index": choice, "delta": {"content": token.text}, "logprobs": logprobs}))
        return chunks

    # Whole.

    def whole(self, choices: Sequence[Generated]) -> dict[str, Any]:
        """The response that is not streamed."""
        results = [choice.result for choice in choices]
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [
                {
                    "index": i,
                    "message": {"role": "assistant", "content": result.text, "refusal": None, "annotations": []},
                    "logprobs": self._whole_logprobs(i, tokens),
                    "finish_reason": FINISH_REASONS[result.finish_reason],
                }
                for i, (result, tokens) in enumerate(choices)
            ],
            "usage": usage_of(results, self._num_choices),
            "timings": timings_of(results[0]),
        }

    def _whole_logprobs(self, choice: int, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if not self.wants_tokens:
            return None
        return {"content": [logprob_entry(token) for token in self._held[choice].feed(tokens)], "refusal": None}


def turn_of(message: ChatMessage) -> dict[str, Any]:
    """A message as chat templates have it."""
    content = message.content if isinstance(message.content, str) else "".join(part.text for part in message.content)
    turn = {"role": role_of(message.role), "content": content}
    return turn if message.name is None else {**turn, "name": message.name}


def chat_router(service: Service) -> APIRouter:
    """The route, to be included in an app."""
    router = router_of(service, "OpenAI")

    @router.post("/v1/chat/completions", openapi_extra=request_body(ChatRequest), responses=answer_of(ChatCompletion))
    async def chat_completions(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Answer a conversation."""
        return await generate(service, request, ChatRequest, Chat)

    return router
