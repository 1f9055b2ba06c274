"""Server-sent events with FastAPI: the answer arrives piece by piece, and a client that hangs up ends the generation.

    pip install 'headrace[server]'
    python examples/fastapi_sse.py [model]
    curl -N http://127.0.0.1:8000/generate --json '{"prompt": "Why is the sky blue?"}'

`headrace serve` is a complete server with OpenAI's endpoints. This example shows how to build your own.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel

from headrace import (
    AsyncModel,
    AsyncTokenStream,
    EngineClosedError,
    HeadraceError,
    InvalidRequestError,
    QueueFullError,
    StreamTimeoutError,
    Token,
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[dict[str, Any], None]:
    """Load one model before the first request, and close it after the last. Its streams decode together."""
    async with await AsyncModel.load(app.state.model) as model:
        yield {"model": model}  # every request finds it in request.state


app = FastAPI(lifespan=lifespan)
app.state.model = "smollm2"


class Question(BaseModel):
    """The body of a request. The engine refuses values that are out of range: see `refused`."""

    prompt: str
    max_tokens: int = 200
    temperature: float = 0.7


async def generation(question: Question, request: Request) -> AsyncGenerator[AsyncTokenStream, None]:
    """Yield a stream that lives as long as its request. The code after `yield` runs when the response is over."""
    model: AsyncModel = request.state.model
    async with model.generate_stream(
        question.prompt,
        system_prompt="You are a helpful assistant.",  # makes the prompt the first message of a chat
        max_tokens=question.max_tokens,
        temperature=question.temperature,
        buffer_size=32,  # when this many tokens wait for a slow client, its generation pauses
        timeout_ms=60_000,
    ) as stream:
        # The body has been read, so the next message can only say that the client has left. The client may leave at
        # any time, also while its request is queued or its prompt is being read.
        leaving = asyncio.ensure_future(request.receive())
        leaving.add_done_callback(lambda _: stream.cancel())
        try:
            yield stream
        finally:
            leaving.cancel()


@app.post("/generate")
async def generate(stream: Annotated[AsyncTokenStream, Depends(generation)]) -> StreamingResponse:
    """Stream the answer."""
    # Wait for the first tokens here: errors before them can still become HTTP statuses.
    tokens = await stream.read()
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # the second header is for nginx
    return StreamingResponse(events(stream, tokens), media_type="text/event-stream", headers=headers)


async def events(stream: AsyncTokenStream, tokens: list[Token]) -> AsyncIterator[str]:
    """Yield the tokens, then the end. Each step of the engine is one write."""
    try:
        while tokens:
            # Starlette resumes this generator when the client's socket takes more. Until then nothing is read.
            yield "".join(event({"text": token.text}) for token in tokens if token.text)
            tokens = await stream.read()
        result = await stream.result()
        yield event({"finish_reason": result.finish_reason, "tokens": result.tokens_used}, name="done")
    except HeadraceError as error:  # too late for an HTTP status
        yield event({"message": str(error)}, name="error")


def event(data: dict[str, object], name: str = "message") -> str:
    """Format one event. A line break would end it early; JSON contains none."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


@app.exception_handler(HeadraceError)
async def refused(_request: Request, error: HeadraceError) -> JSONResponse:
    """Turn an error before the first token into an HTTP status."""
    headers: dict[str, str] = {}
    match error:
        case InvalidRequestError():  # includes a prompt that is too long
            status = 400
        case QueueFullError():
            status, headers["Retry-After"] = 429, str(math.ceil(error.retry_after))
        case EngineClosedError():
            status = 503
        case StreamTimeoutError():
            status = 504
        case _:
            status = 500
    return JSONResponse({"error": str(error)}, status, headers)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        app.state.model = sys.argv[1]
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")), timeout_graceful_shutdown=5)
