"""A WebSocket with FastAPI: several answers at once on one socket, and each can be cancelled.

    pip install 'headrace[server]'
    python examples/fastapi_websocket.py [model]
    websocat ws://127.0.0.1:8000/ws

    > {"type": "generate", "id": "a", "prompt": "Why is the sky blue?"}
    < {"type": "token", "id": "a", "text": "The"}
    < {"type": "done", "id": "a", "finish_reason": "stop", "tokens": 57}
    > {"type": "cancel", "id": "a"}
    < {"type": "error", "id": "a", "message": "..."}

`headrace serve --websocket` is a complete server. This example shows how to build your own.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any, Literal

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.websockets import WebSocketState
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from headrace import AsyncModel, AsyncTokenStream, Context, HeadraceError


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[dict[str, Any], None]:
    """Load one model before the first socket, and close it after the last. Its streams decode together."""
    async with await AsyncModel.load(app.state.model) as model:
        yield {"model": model}  # every socket finds it in websocket.state


app = FastAPI(lifespan=lifespan)
app.state.model = "smollm2"


class Generate(BaseModel):
    """A frame that asks for an answer, with an id that the client chooses."""

    type: Literal["generate"]
    id: str
    prompt: str
    max_tokens: int = 200


class Cancel(BaseModel):
    """A frame that ends an answer."""

    type: Literal["cancel"]
    id: str


FRAME: TypeAdapter[Generate | Cancel] = TypeAdapter(Annotated[Generate | Cancel, Field(discriminator="type")])


@app.websocket("/ws")
async def talk(websocket: WebSocket) -> None:
    """Serve one socket until the client leaves."""
    await websocket.accept()
    await Session(websocket, websocket.state.model).run()


class Session:
    """The state of one socket. One task receives the frames; each answer is sent by a task of its own."""

    def __init__(self, websocket: WebSocket, model: AsyncModel) -> None:
        self._websocket = websocket
        self._context = Context(model, buffer_size=32)  # a context per socket: closing it cancels only its own streams
        self._streams: dict[str, AsyncTokenStream] = {}
        self._sending = asyncio.Lock()

    async def run(self) -> None:
        """Handle the frames until the client leaves."""
        # Leaving this block first closes the context, which cancels all its streams, running or queued. So the answers
        # end, and the task group waits for them.
        async with asyncio.TaskGroup() as answers, self._context:
            while (message := await self._websocket.receive())["type"] == "websocket.receive":
                try:
                    frame = FRAME.validate_json(message.get("text") or message.get("bytes") or "")
                except ValidationError as error:
                    await self._send(type="error", id=None, message=str(error))
                    continue
                stream = self._streams.get(frame.id)
                if isinstance(frame, Cancel):
                    if stream is not None:
                        stream.cancel()
                elif stream is not None:
                    await self._send(type="error", id=frame.id, message="this id is being answered")
                else:
                    await self._start(frame, answers)

    async def _start(self, frame: Generate, answers: asyncio.TaskGroup) -> None:
        try:
            stream = self._context.generate_stream(
                frame.prompt, system_prompt="You are a helpful assistant.", max_tokens=frame.max_tokens
            )
        except HeadraceError as error:  # a value out of range
            await self._send(type="error", id=frame.id, message=str(error))
        else:
            self._streams[frame.id] = stream
            answers.create_task(self._answer(frame.id, stream))

    async def _answer(self, id: str, stream: AsyncTokenStream) -> None:
        """Send the tokens as they come, then the end."""
        try:
            async with stream:
                async for token in stream:
                    # This waits until the socket takes more. Meanwhile at most `buffer_size` tokens are generated.
                    await self._send(type="token", id=id, text=token.text)
                result = await stream.result()
            await self._send(type="done", id=id, finish_reason=result.finish_reason, tokens=result.tokens_used)
        except HeadraceError as error:  # a full queue, a deadline, a prompt that is too long; the socket stays open
            await self._send(type="error", id=id, message=str(error))
        finally:
            del self._streams[id]

    async def _send(self, **frame: object) -> None:
        """Send a frame, unless the client has left; then `run` notices it, too, and cleans up."""
        async with self._sending:
            if self._websocket.application_state is WebSocketState.CONNECTED:
                with suppress(WebSocketDisconnect):
                    await self._websocket.send_json(frame)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        app.state.model = sys.argv[1]
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")), timeout_graceful_shutdown=5)
