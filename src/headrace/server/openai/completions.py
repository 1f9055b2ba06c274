"""`POST /v1/completions`: OpenAI's older endpoint, which continues texts or token ids, streamed or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, cast

from fastapi import APIRouter, Request, Response
from pydantic import Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from headrace.api.caller import Caller
from headrace.api.job import Job
from headrace.server.http.body import request_body
from headrace.server.http.errors import ApiError
from headrace.server.http.json_text import quoted
from headrace.server.http.routes import router_of
from headrace.server.openai.answer_schema import TextCompletion, answer_description
from headrace.server.openai.choices import FINISH_REASONS, MAX_CHOICES, Choices, StreamOptions
from headrace.server.openai.json_schema import MAX_VALUES, check_size
from headrace.server.openai.sampling import Sampling
from headrace.server.openai.wire import Unsupported
from headrace.server.serving.exchange import generate
from headrace.server.serving.generation import FinishedChoice
from headrace.server.serving.logprobs import HeldLogprobs, answer_text_of, logprob, token_text
from headrace.server.serving.served_model import ServedModel
from headrace.server.serving.service import Service
from headrace.server.serving.timings import timings_of
from headrace.text.detokenizer import Detokenizer
from headrace.values.errors import ContextOverflowError
from headrace.values.results import Token

__all__ = ["Completion", "CompletionRequest", "completions_router"]

# OpenAI's default for this endpoint.
_MAX_TOKENS = 16

TokenIds = Annotated[list[int], Field(min_length=1, fail_fast=True)]


def _kind_of_prompt(prompt: Any) -> str:
    """Returns which of the four types a prompt is, by its first element, so that errors are about that type only."""
    if not isinstance(prompt, list):
        return "=text"
    first = cast("list[Any]", prompt)[:1]
    return "=texts" if not first or isinstance(first[0], str) else "=lists" if isinstance(first[0], list) else "=ids"


Prompt = Annotated[
    Annotated[str, Tag("=text")]
    | Annotated[TokenIds, Tag("=ids")]
    | Annotated[list[str], Tag("=texts"), Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)]
    | Annotated[list[TokenIds], Tag("=lists"), Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)],
    Discriminator(_kind_of_prompt),
]


class CompletionRequest(Sampling):
    """The body of a completion request."""

    prompt: Prompt
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    max_tokens: int | None = None
    echo: bool | None = None
    logprobs: int | None = Field(default=None, ge=0, le=20)
    stream_options: StreamOptions | None = None
    return_progress: bool | None = None
    return_token_index: bool | None = None
    best_of: Annotated[Any, Unsupported(1)] = None
    suffix: Annotated[Any, Unsupported("")] = None


class Completion(Choices):
    """One completion request and its answer: `n` choices for each prompt, one prompt after the other."""

    _empty_choice: ClassVar[dict[str, Any]] = {"index": 0, "text": "", "logprobs": None, "finish_reason": None}

    def __init__(self, body: CompletionRequest, served: ServedModel, id: str) -> None:
        super().__init__(
            id=f"cmpl-{id}",
            kind="text_completion",
            served=served,
            num_choices=body.n or 1,
            options=body.stream_options,
            has_index=bool(body.return_token_index),
            is_streamed=bool(body.stream),
        )
        if body.echo and body.logprobs is not None:
            message = "logprobs is given together with echo; the prompt's own log probabilities are not computed"
            raise ApiError(400, message, param="logprobs", code="unsupported_parameter")
        self.wants_progress = bool(body.return_progress and body.stream)
        self.wants_tokens = body.logprobs is not None
        if body.thinking == "split":
            message = 'thinking is "split", but a completion is one text; allowed: "raw", "hide"'
            raise ApiError(400, message, param="thinking", code="invalid_value")
        self.names = {"stop_sequences": "stop"}
        self._body = body
        self._prompts = _prompts(body.prompt)
        if len(self._prompts) * self._num_choices > MAX_CHOICES:
            given = f"{len(self._prompts)} prompts with {self._num_choices} choices each"
            raise ApiError(400, f"n makes {given}; allowed: {MAX_CHOICES} choices in all", param="n")
        if body.json_schema is not None:
            _check_schema(body.json_schema, len(self._prompts))
        self._logprobs = [_Logprobs() for _ in self._prompts for _ in range(self._num_choices)]
        self._end_after_text = ',"logprobs":null,"finish_reason":null}]' + self._chunk_end + "\n\n"

    def jobs(self, caller: Caller) -> list[Job]:
        """Returns a job for each choice of each prompt."""
        body = self._body
        changes = body.settings()
        changes["max_tokens"] = _MAX_TOKENS if body.max_tokens is None else body.max_tokens
        changes.setdefault("thinking", "raw")  # a completion has only one text, so thoughts stay in it
        if body.logprobs is not None:
            changes["logprobs"] = body.logprobs
        jobs: list[Job] = []
        for prompt in self._prompts:
            if not isinstance(prompt, str) and len(prompt) > self._served.max_tokens:
                raise ContextOverflowError(len(prompt), self._served.max_tokens)  # before each token id is checked
            jobs += self._for_each_choice(caller.job(prompt, None, changes))
        return jobs

    # Streamed.

    def opening(self) -> list[bytes]:
        """Returns the prompts as chunks, if `echo` is set."""
        if not self._body.echo:
            return []
        return [self._chunk({"index": i, "text": self._echo(i)}) for i in range(len(self._logprobs))]

    def tokens(self, choice: int, tokens: Sequence[Token]) -> list[bytes]:
        """Returns the chunks for a choice's next tokens; without `token_index`, a token without text has none."""
        chunks: list[bytes] = []
        head = f'{self._chunk_start}{choice},"text":'
        for token in tokens:
            text = answer_text_of(token)
            logprobs = self._logprobs[choice].feed([token]) if self.wants_tokens else None
            if self._has_index:
                chunk_choice = {"index": choice, "text": text, "logprobs": logprobs, "token_index": token.index}
                chunks.append(self._chunk(chunk_choice))
            elif logprobs is not None and (text or logprobs["tokens"]):
                chunks.append(self._chunk({"index": choice, "text": text, "logprobs": logprobs}))
            elif text:
                chunks.append(f"{head}{quoted(text)}{self._end_after_text}".encode())
        return chunks

    # Not streamed.

    def full_response(self, choices: Sequence[FinishedChoice]) -> dict[str, Any]:
        """Returns the body of a response that is not streamed."""
        results = [choice.result for choice in choices]
        return {
            **self._common_fields,
            "choices": [
                {
                    "index": i,
                    "text": (self._echo(i) if self._body.echo else "") + result.text,
                    "logprobs": self._logprobs[i].feed(tokens) if self.wants_tokens else None,
                    "finish_reason": FINISH_REASONS[result.finish_reason],
                }
                for i, (result, tokens) in enumerate(choices)
            ],
            "usage": self._usage(results),
            "timings": timings_of(results[0]),
        }

    def _echo(self, choice: int) -> str:
        prompt = self._prompts[choice // self._num_choices]
        return prompt if isinstance(prompt, str) else token_text(self._served.core.vocabulary.detokenize(prompt))


class _Logprobs:
    """Log probabilities of one choice, with the place of each token in the text."""

    def __init__(self) -> None:
        self._held_logprobs = HeldLogprobs()
        self._detokenizer = Detokenizer()
        self._offset = 0

    def feed(self, tokens: Sequence[Token]) -> dict[str, Any]:
        """Take tokens in. Returns the log probabilities of the tokens whose text has been sent by now."""
        ready = self._held_logprobs.feed(tokens)
        offsets: list[int] = []
        for token in ready:
            offsets.append(self._offset)
            self._offset += len(self._detokenizer.feed(token.bytes))
        return {
            "tokens": [token_text(token.bytes) for token in ready],
            "token_logprobs": [logprob(token.logprob) for token in ready],
            "top_logprobs": [
                {token_text(top.bytes): logprob(top.logprob) for top in token.top_logprobs or ()} for token in ready
            ],
            "text_offset": offsets,
        }


def _check_schema(schema: object, num_prompts: int) -> None:
    """Check the schema's size. It is walked through for each prompt, and a long walk delays other requests."""
    try:
        check_size(schema, MAX_VALUES // num_prompts, "json_schema, once for each prompt,")
    except PydanticCustomError as error:
        raise ApiError(400, error.message(), param="json_schema", code="invalid_value") from None


def _prompts(prompt: Any) -> list[str | list[int]]:
    is_one = isinstance(prompt, str) or isinstance(prompt[0], int)
    return [prompt] if is_one else list(prompt)


def completions_router(service: Service) -> APIRouter:
    """Returns the route, to be included in an app."""
    router = router_of(service.keys, "OpenAI")

    @router.post(
        "/v1/completions", openapi_extra=request_body(CompletionRequest), responses=answer_description(TextCompletion)
    )
    async def completions(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Continue a text."""
        return await generate(service, request, CompletionRequest, Completion)

    return router
