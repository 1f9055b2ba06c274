"""`POST /v1/chat/completions`: OpenAI's chat, streamed or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Request, Response
from pydantic import Field

from headrace.api.caller import Caller
from headrace.api.job import Job
from headrace.server.http.body import request_body
from headrace.server.http.errors import ApiError
from headrace.server.http.json_text import dumps, quoted
from headrace.server.http.routes import router_of
from headrace.server.openai.answer_schema import ChatCompletion, answer_description
from headrace.server.openai.choices import FINISH_REASONS, MAX_CHOICES, Choices, StreamOptions
from headrace.server.openai.messages import Messages, template_messages
from headrace.server.openai.reasoning_effort import Effort, effort_overrides
from headrace.server.openai.response_format import Format, format_overrides
from headrace.server.openai.sampling import Sampling
from headrace.server.openai.template_kwargs import TemplateKwargs
from headrace.server.openai.tools import ToolChoice, Tools, tool_overrides
from headrace.server.openai.wire import Unsupported
from headrace.server.serving.exchange import generate
from headrace.server.serving.generation import FinishedChoice
from headrace.server.serving.logprobs import HeldLogprobs, logprob_entry
from headrace.server.serving.served_model import ServedModel
from headrace.server.serving.service import Service
from headrace.server.serving.timings import timings_of
from headrace.values.results import GenerationResult, Part, Token

__all__ = ["Chat", "ChatRequest", "chat_router"]


class ChatRequest(Sampling):
    """The body of a chat request."""

    messages: Messages
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    stream_options: StreamOptions | None = None
    return_progress: bool | None = None
    return_token_index: bool | None = None
    response_format: Format | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Effort | None = None
    chat_template_kwargs: TemplateKwargs | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    functions: Annotated[Any, Unsupported([])] = None
    function_call: Annotated[Any, Unsupported()] = None
    modalities: Annotated[Any, Unsupported(["text"])] = None
    audio: Annotated[Any, Unsupported()] = None
    prediction: Annotated[Any, Unsupported()] = None
    verbosity: Annotated[Any, Unsupported()] = None
    web_search_options: Annotated[Any, Unsupported()] = None


class Chat(Choices):
    """One chat request and its answer."""

    _empty_choice: ClassVar[dict[str, Any]] = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": None}

    def __init__(self, body: ChatRequest, served: ServedModel, id: str) -> None:
        if body.top_logprobs is not None and not body.logprobs:
            raise ApiError(400, "top_logprobs is given, but logprobs is not true", param="top_logprobs")
        super().__init__(
            id=f"chatcmpl-{id}",
            kind="chat.completion.chunk",
            served=served,
            num_choices=body.n or 1,
            options=body.stream_options,
            has_index=bool(body.return_token_index),
            is_streamed=bool(body.stream),
        )
        if body.max_tokens is not None and body.max_completion_tokens not in (None, body.max_tokens):
            message = "max_tokens and max_completion_tokens are the same thing, and were given different values"
            raise ApiError(400, message, param="max_completion_tokens")
        self.wants_progress = bool(body.return_progress and body.stream)
        self.wants_tokens = bool(body.logprobs)
        limit = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
        self.names = {"stop_sequences": "stop", "max_tokens": limit, "prompt": "messages"}
        self._messages = template_messages(body.messages)
        self._settings = self._settings_of(body)
        self._held_logprobs = [HeldLogprobs() for _ in range(self._num_choices)]
        self._delta_starts = {"text": ',"delta":{"content":', "thinking": ',"delta":{"reasoning_content":'}
        self._end_after_text = '},"logprobs":null,"finish_reason":null}]' + self._chunk_end + "\n\n"

    def _settings_of(self, body: ChatRequest) -> dict[str, Any]:
        """Returns the settings of the streams. Their wire names are added to `names`."""
        settings = body.settings()
        limit = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
        settings["max_tokens"] = self._served.max_tokens if limit is None else limit
        if body.logprobs:
            settings["logprobs"] = body.top_logprobs or 0
        is_continued = bool(body.continue_final_message)
        if body.add_generation_prompt is is_continued:
            message = (
                f"add_generation_prompt is {dumps(is_continued)}; allowed: the opposite of continue_final_message, "
                "as the answer is either a new message or the rest of the last one"
            )
            raise ApiError(400, message, param="add_generation_prompt", code="invalid_value")
        if is_continued:
            settings["continue_final_message"] = True
        template = self._served.core.vocabulary.chat_template
        for overrides in (
            tool_overrides(body.tools, body.tool_choice, body.parallel_tool_calls),
            format_overrides(body, body.response_format, "response_format"),
            effort_overrides(body.reasoning_effort, "reasoning_effort", body, template, body.chat_template_kwargs),
        ):
            settings |= overrides.settings
            self.names |= overrides.names
        return settings

    def jobs(self, caller: Caller) -> list[Job]:
        """Returns a job for each choice."""
        return self._for_each_choice(caller.chat_job(self._messages, None, self._settings))

    # Streamed.

    def opening(self) -> list[bytes]:
        """Returns a chunk with the role for each choice, in order: clients add choices in the order of arrival."""
        delta = {"role": "assistant", "content": ""}
        return [self._chunk({"index": i, "delta": delta}) for i in range(self._num_choices)]

    def tokens(self, choice: int, tokens: Sequence[Token]) -> list[bytes]:
        """Returns the chunks for a choice's next tokens; without `token_index`, a token without text has none."""
        if self.wants_tokens or self._has_index:
            return [chunk for token in tokens for chunk in self._detailed_chunks(choice, token)]
        chunks: list[bytes] = []
        head = f"{self._chunk_start}{choice}"
        for token in tokens:
            if token.rest or token.tool_call is not None:
                chunks += [chunk for part in token.parts for chunk in self._part_chunks(choice, part)]
            elif token.text:
                chunks.append(
                    f"{head}{self._delta_starts[token.kind]}{quoted(token.text)}{self._end_after_text}".encode()
                )
        return chunks

    def _part_chunks(self, choice: int, part: Part) -> list[bytes]:
        return [self._chunk({"index": choice, "delta": delta}) for delta in _deltas(part)]

    def _detailed_chunks(self, choice: int, token: Token) -> list[bytes]:
        """Returns the chunks of a token with its log probabilities and its index, as far as they are asked for."""
        parts, logprobs = list(token.parts), None
        if self.wants_tokens and (ready := self._held_logprobs[choice].feed([token])):
            logprobs = {"content": [logprob_entry(ready_token) for ready_token in ready], "refusal": None}
            if not any(part.kind == "text" for part in parts):
                parts.append(Part("text", ""))  # the text of the ready tokens was sent before
        last_text = max((i for i, part in enumerate(parts) if part.kind == "text"), default=None)
        choices = [
            {"index": choice, "delta": delta, "logprobs": logprobs if i == last_text else None}
            for i, part in enumerate(parts)
            for delta in _deltas(part)
        ]
        if self._has_index:
            # The index comes with the token's last chunk, so that a reader knows when the token is complete.
            choices = choices or [{"index": choice, "delta": _NO_TEXT[token.kind]}]
            choices[-1]["token_index"] = token.index
        return [self._chunk(chunk_choice) for chunk_choice in choices]

    # Not streamed.

    def full_response(self, choices: Sequence[FinishedChoice]) -> dict[str, Any]:
        """Returns the body of a response that is not streamed."""
        results = [choice.result for choice in choices]
        return {
            **self._common_fields,
            "object": "chat.completion",
            "choices": [
                {
                    "index": i,
                    "message": _message(result),
                    "logprobs": self._all_logprobs(i, tokens),
                    "finish_reason": FINISH_REASONS[result.finish_reason],
                }
                for i, (result, tokens) in enumerate(choices)
            ],
            "usage": self._usage(results),
            "timings": timings_of(results[0]),
        }

    def _all_logprobs(self, choice: int, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if not self.wants_tokens:
            return None
        return {
            "content": [logprob_entry(token) for token in self._held_logprobs[choice].feed(tokens)],
            "refusal": None,
        }


# Deltas of tokens whose text is held back, by kind of token.
_NO_TEXT: dict[str, dict[str, Any]] = {
    "text": {"content": ""},
    "thinking": {"reasoning_content": ""},
    "tool_call": {"tool_calls": []},
}


def _deltas(part: Part) -> list[dict[str, Any]]:
    """Returns the deltas of a part. A tool call begins with a delta that has its name, but no arguments."""
    call = part.tool_call
    if call is None:
        return [{"reasoning_content" if part.kind == "thinking" else "content": part.text}]
    deltas: list[dict[str, Any]] = []
    if call.id is not None:
        head = {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
        deltas.append({"tool_calls": [{"index": call.index, **head}]})
    if call.arguments:
        deltas.append({"tool_calls": [{"index": call.index, "function": {"arguments": call.arguments}}]})
    return deltas


def _message(result: GenerationResult) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": (result.text or None) if result.tool_calls else result.text,
        "refusal": None,
        "annotations": [],
    }
    if result.thinking is not None:
        message["reasoning_content"] = result.thinking
    if result.tool_calls:
        message["tool_calls"] = [call.as_openai() for call in result.tool_calls]
    return message


def chat_router(service: Service) -> APIRouter:
    """Returns the route, to be included in an app."""
    router = router_of(service.keys, "OpenAI")

    @router.post(
        "/v1/chat/completions", openapi_extra=request_body(ChatRequest), responses=answer_description(ChatCompletion)
    )
    async def chat_completions(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Answer a conversation."""
        return await generate(service, request, ChatRequest, Chat)

    return router
