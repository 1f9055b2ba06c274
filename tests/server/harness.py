"""A server on a scripted model, and a client that calls the ASGI app itself, so that it controls the socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from harness import PATIENCE, Scripted, scripted

from headrace.server import Settings, create_app
from headrace.server.openai.answer_schema import ChatChunk, ChatCompletion, TextChunk, TextCompletion
from headrace.server.serving.service import Service

# Shows the messages as they were, and is easy to predict.
TEMPLATE = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"
MODEL = "scripted"
USER = [{"role": "user", "content": "hi"}]


@dataclass
class Answer:
    """A complete response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error object of an error's body."""
        return self.json["error"]

    @property
    def events(self) -> list[Event]:
        """The server-sent events of the body."""
        return events_of(self.body)

    @property
    def chunks(self) -> list[dict[str, Any]]:
        """The events' data as JSON, without the closing [DONE]."""
        return [json.loads(one.data) for one in self.events if one.data != "[DONE]"]


@dataclass
class Event:
    """A server-sent event."""

    data: str
    name: str | None = None
    id: str | None = None


def events_of(body: bytes) -> list[Event]:
    """The events of a stream, parsed by the rules of the HTML standard. The last event must be complete."""
    events: list[Event] = []
    fields: dict[str, list[str]] = {}
    lines = body.decode().split("\n")
    assert lines[-1] == "", f"the stream ends inside a line: {lines[-1]!r}"
    for line in lines[:-1]:
        if not line:
            if "data" in fields:
                name, id = fields.get("event", [None])[-1], fields.get("id", [None])[-1]
                events.append(Event("\n".join(fields["data"]), name, id))
            fields = {}
        elif not line.startswith(":"):
            key, _, value = line.partition(":")
            fields.setdefault(key, []).append(value.removeprefix(" "))
    assert not fields, f"the stream ends inside an event: {fields}"
    return events


class Socket:
    """One HTTP request, from the client's end, byte for byte as an ASGI server would carry it.

    Args:
        app: the app.
        method: the HTTP method.
        path: path and query.
        body: what to send; anything but bytes is sent as JSON.
        headers: the request's headers.
    """

    def __init__(
        self, app: Any, method: str, path: str, body: Any = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {"content-type": "application/json", "content-length": str(len(raw)), **(headers or {})}
        path, _, query = path.partition("?")
        self.aborted = False
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in given.items()],
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 8080),
            "state": {},
            "extensions": {"headrace": {"abort": self._abort}},
        }
        self.status = 0
        self.headers: dict[str, str] = {}
        self.writes: list[bytes] = []  # one for each message with a body
        self.is_complete = False
        self._app = app
        self._body: list[bytes] | None = [raw]
        self._left = asyncio.Event()
        self._takes = asyncio.Event()
        self._takes.set()
        self._sent = asyncio.Condition()
        self.task: asyncio.Task[None] | None = None

    def start(self) -> Socket:
        """Send the request."""
        self.task = asyncio.ensure_future(self._app(self.scope, self._receive, self._send))
        return self

    def leave(self) -> None:
        """Close the connection."""
        self._left.set()
        self._takes.set()

    def stop_taking(self) -> None:
        """Let every write wait, as a full socket buffer does."""
        self._takes.clear()

    def go_on_taking(self) -> None:
        """Let writes finish again."""
        self._takes.set()

    @property
    def body(self) -> bytes:
        """The bytes that came so far."""
        return b"".join(self.writes)

    @property
    def answer(self) -> Answer:
        """The response so far."""
        return Answer(self.status, self.headers, self.body)

    async def until(self, text: bytes) -> bytes:
        """Wait until the body contains this."""
        async with asyncio.timeout(PATIENCE), self._sent:
            await self._sent.wait_for(lambda: text in self.body or self.is_complete)
        assert text in self.body, f"the response ended without {text!r}: {self.body!r}"
        return self.body

    async def until_events(self, count: int) -> list[Event]:
        """Wait until this many events came."""
        async with asyncio.timeout(PATIENCE), self._sent:
            await self._sent.wait_for(lambda: self.body.count(b"\n\n") >= count or self.is_complete)
        return events_of(self.body)

    async def until_over(self) -> Answer:
        """Wait until the app is done with this request."""
        assert self.task is not None
        async with asyncio.timeout(PATIENCE):
            await self.task
        return self.answer

    async def _receive(self) -> dict[str, Any]:
        if self._body is not None:
            part = self._body.pop(0)
            more = bool(self._body)
            if not more:
                self._body = None
            return {"type": "http.request", "body": part, "more_body": more}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        await self._takes.wait()
        if self._left.is_set():
            return
        async with self._sent:
            if message["type"] == "http.response.start":
                assert not self.status, "the response began twice"
                self.status = message["status"]
                self.headers = {name.decode(): value.decode("latin-1") for name, value in message["headers"]}
            else:
                assert self.status, "a body came before the response's start"
                assert not self.is_complete, "a body came after the end"
                if message.get("body"):
                    self.writes.append(message["body"])
                self.is_complete = not message.get("more_body", False)
            self._sent.notify_all()

    def _abort(self) -> None:
        self.aborted = True
        self.leave()


@dataclass
class Server:
    """A server on a scripted model."""

    app: FastAPI
    service: Service
    scripted: Scripted
    sockets: list[Socket] = field(default_factory=list[Socket])

    def open(self, method: str, path: str, body: Any = b"", **headers: str) -> Socket:
        """Send a request, and return the connection. In header names, _ stands for -."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        socket = Socket(self.app, method, path, body, named).start()
        self.sockets.append(socket)
        return socket

    async def ask(self, method: str, path: str, body: Any = b"", **headers: str) -> Answer:
        """Send a request, and wait for the complete response."""
        return await self.open(method, path, body, **headers).until_over()

    async def chat(self, **body: Any) -> Answer:
        """A chat request."""
        return await self.ask("POST", "/v1/chat/completions", {"model": MODEL, "messages": USER, **body})

    async def complete(self, prompt: Any = "hi", **body: Any) -> Answer:
        """A completion request. Unlike the endpoint's default, it goes to the end of the script."""
        body = {"model": MODEL, "prompt": prompt, "max_tokens": 10_000, **body}
        return await self.ask("POST", "/v1/completions", body)

    def open_chat(self, **body: Any) -> Socket:
        """The connection of a running, streamed chat request."""
        headers = {"X-Request-Id": body.pop("id")} if "id" in body else {}
        body = {"model": MODEL, "messages": USER, "stream": True, **body}
        return self.open("POST", "/v1/chat/completions", body, **headers)

    async def settled(self) -> None:
        """Wait until no generation is left."""
        async with asyncio.timeout(PATIENCE):
            await self.service.settle()


@contextmanager
def serving(script: Any = "", settings: Mapping[str, Any] | None = None, **kwargs: Any) -> Iterator[Server]:
    """A server on a scripted model. Closing it checks the integrity of its engine."""
    with scripted(script, chat_template=kwargs.pop("chat_template", TEMPLATE), **kwargs) as model:
        app = create_app({MODEL: model.model}, Settings(**{"timeout_ms": 0, **(settings or {})}))
        yield Server(app, app.state.service, model)


@asynccontextmanager
async def running(script: Any = "", settings: Mapping[str, Any] | None = None, **kwargs: Any) -> AsyncIterator[Server]:
    """The same for a coroutine. In the end no generation may be left."""
    with serving(script, settings, **kwargs) as server:
        try:
            yield server
            for socket in server.sockets:
                socket.leave()
            await server.settled()
        finally:
            for gate in server.scripted.gates:
                gate.open()


@asynccontextmanager
async def busy_prompt_workers(server: Server) -> AsyncIterator[None]:
    """In a `with`, all prompt workers are busy, so that no prompt can be made."""
    release = asyncio.Event()
    loop = asyncio.get_running_loop()

    def block() -> None:
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result()

    busy = [server.scripted.core.workers.submit(block) for _ in range(2)]
    try:
        yield
    finally:
        release.set()
        for one in busy:
            await asyncio.wrap_future(one)


def checked(answer: Answer) -> Answer:
    """A chat's or completion's answer, checked against the types in the OpenAPI document."""
    if answer.status == 200:
        is_chat = b'"chat.completion' in answer.body
        if answer.headers["content-type"] == "application/json":
            (ChatCompletion if is_chat else TextCompletion).model_validate_json(answer.body)
        else:
            for chunk in answer.chunks:
                (ChatChunk if is_chat else TextChunk).model_validate(chunk)
    return answer


def content_of(chunks: list[dict[str, Any]], choice: int = 0) -> str:
    """The text of a streamed chat."""
    return "".join(
        one["delta"].get("content", "") for chunk in chunks for one in chunk["choices"] if one["index"] == choice
    )
