"""A server for the page: scripted models whose tokens come when a test says so."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from harness import BYTES, PATIENCE, Scripted, ids, scripted, wait_until
from playwright.sync_api import Page
from server.live import live

from headrace.engine.runner import Slice
from headrace.server import Settings, create_app
from headrace.server.serving.service import Service

# Shows all that it is given as JSON, which a script can read again; the comment says that it knows tools and thoughts.
TEMPLATE = (
    '{# <think></think> <tool_call> "arguments" #}'
    '{"messages": {{ messages | tojson }}, "tools": {{ tools | default([]) | tojson }}}'
)
MODEL = "scripted"
# A thought, an answer, a call: what a model writes. A string is cut into words, a list is the tokens themselves.
Answer = str | Sequence[str]
Answers = MutableMapping[str, Answer]
_WORDS = re.compile(r"\s*\S+|\s+$")


def tokens_of(answer: Answer) -> Sequence[str]:
    """The pieces of an answer: each word with the space before it."""
    return _WORDS.findall(answer) if isinstance(answer, str) else answer


def call(name: str, arguments: str) -> str:
    """What a model writes to call a tool."""
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


class Tap:
    """Holds a model's engine before each step that brings tokens; a test lets as many through as it wants.

    Args:
        rate: tokens a second for each stream; None for as fast as they go.
        counts_prompts: whether steps that only read prompts are held, too.
    """

    def __init__(self, *, rate: float | None = None, counts_prompts: bool = False) -> None:
        self._changed = threading.Condition()
        self._allowed = 0
        self._is_open = False
        self._is_ending = threading.Event()
        self._rate = rate
        self._counts_prompts = counts_prompts

    def __call__(self, slices: Sequence[Slice]) -> None:
        """Called by the runner, on the engine's thread."""
        if not self._counts_prompts and all(part.sampler is None for part in slices):
            return
        with self._changed:
            assert self._changed.wait_for(lambda: self._is_open or self._allowed, PATIENCE), "nobody opened the tap"
            if not self._is_open:
                self._allowed -= 1
        if self._rate is not None:
            self._is_ending.wait(1 / self._rate)

    def let(self, count: int = 1) -> None:
        """Let so many more steps run: a token each for every stream."""
        with self._changed:
            self._allowed += count
            self._changed.notify_all()

    def open(self) -> None:
        """Let everything run."""
        with self._changed:
            self._is_open = True
            self._changed.notify_all()

    def end(self) -> None:
        """Let everything run, and at once."""
        self._rate = None
        self._is_ending.set()
        self.open()


@dataclass(frozen=True)
class Seen:
    """A request as the server saw it."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any


@dataclass
class Site:
    """A server on a real socket with scripted models.

    Attributes:
        url: where the page is.
        answers: what is written in answer to which last message; a test may change it at any time.
        taps: what holds the tokens of each model.
        requests: what came in, oldest first.
        call_soon: calls a function on the server's thread.
    """

    url: str
    port: int
    answers: Answers
    models: Mapping[str, Scripted]
    taps: Mapping[str, Tap]
    service: Service
    requests: list[Seen]
    call_soon: Callable[..., object]

    @property
    def tap(self) -> Tap:
        """The tap of the only model."""
        (tap,) = self.taps.values()
        return tap

    @property
    def chats(self) -> list[dict[str, Any]]:
        """The bodies of the requests for answers."""
        return [one.body for one in self.requests if one.path.endswith("/v1/chat/completions")]

    @property
    def last_chat(self) -> dict[str, Any]:
        """The body of the last of them."""
        return self.chats[-1]

    def finished(self, model: str = MODEL) -> dict[str, int]:
        """How the streams of a model have ended, and how many in each way."""
        return dict(self.models[model].engine.metrics().streams_finished)

    def await_finished(self, model: str = MODEL, **reasons: int) -> None:
        """Wait until streams have ended in just these ways."""
        wait_until(lambda: sum(self.finished(model).values()) >= sum(reasons.values()))
        assert {reason: count for reason, count in self.finished(model).items() if count} == reasons

    def await_running(self, count: int, model: str = MODEL) -> None:
        """Wait until so many streams decode."""
        wait_until(lambda: self.models[model].engine.metrics().running == count)


class _Recorder:
    """ASGI in front of the app: notes each request with its body."""

    def __init__(self, app: Any) -> None:
        self.requests: list[Seen] = []
        self.loop: asyncio.AbstractEventLoop | None = None
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.loop = asyncio.get_running_loop()
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        body = b""

        async def noting() -> Any:
            nonlocal body
            message = await receive()
            if message["type"] == "http.request":
                body += message.get("body", b"")
                if not message.get("more_body"):
                    is_json = headers.get("content-type", "").startswith("application/json")
                    note(json.loads(body) if body and is_json else None)
            return message

        def note(content: Any) -> None:
            self.requests.append(Seen(scope["method"], scope["path"], headers, content))

        if "content-length" not in headers:
            note(None)
            await self._app(scope, receive, send)
        else:
            await self._app(scope, noting, send)


@contextmanager
def site(
    page: Page,
    answers: Mapping[str, Answer],
    *,
    models: Sequence[str] = (MODEL,),
    make_app: Callable[[FastAPI], Any] = lambda app: app,
    path: str = "/",
    rate: float | None = None,
    is_held: bool = True,
    counts_prompts: bool = False,
    settings: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Iterator[Site]:
    """Serve the page with scripted models.

    Args:
        page: who visits it; leaves before the server ends, so that what it sees of that end is no error.
        answers: what is written in answer to which last message of a conversation.
        models: the models' names; each begins its answers with its name where there is more than one.
        make_app: makes of the server's app what is served.
        path: where the page is in that.
        rate: tokens a second.
        is_held: whether the taps are closed at first.
        counts_prompts: whether the taps hold steps that only read prompts.
        settings: the server's settings.
        **kwargs: for each `scripted` model.
    """
    known: Answers = dict(answers)
    prefixes = {name: [f"{name}: "] if len(models) > 1 else [] for name in models}
    texts = [word for tokens in (*prefixes.values(), *map(tokens_of, known.values())) for word in tokens]
    pieces = dict(BYTES)
    for number, word in enumerate(dict.fromkeys(texts)):
        if len(word.encode()) > 1:
            pieces[1000 + number] = word.encode()
    by_text = {piece: token for token, piece in pieces.items() if piece}

    def spell(tokens: Sequence[str]) -> list[int]:
        return [id for one in tokens for id in ([by_text[one.encode()]] if one.encode() in by_text else ids(one))]

    def script_of(model: str) -> Callable[[tuple[int, ...]], list[int]]:
        def script(prompt: tuple[int, ...]) -> list[int]:
            conversation = json.loads(b"".join(pieces[token] for token in prompt))
            asked = conversation["messages"][-1]["content"]
            answer = known.get(asked, f"Nobody said what to answer to {asked[:100]!r}.")
            return spell([*prefixes[model], *tokens_of(answer)])

        return script

    taps = {name: Tap(rate=rate, counts_prompts=counts_prompts) for name in models}
    with ExitStack() as stack:
        made: dict[str, Scripted] = {}
        for name in models:
            given = {"pieces": pieces, "chat_template": TEMPLATE, "num_cells": 30_000, "max_batch": 30_000} | kwargs
            # So that a prompt is read in one step, unless max_batch says otherwise.
            given.setdefault("step_target_ms", 1e6)
            made[name] = stack.enter_context(scripted(script_of(name), before_step=taps[name], **given))
        for tap in taps.values():
            stack.callback(tap.end)
        app = create_app(
            {name: one.model for name, one in made.items()}, Settings(**{"timeout_ms": 0, **(settings or {})})
        )
        service: Service = app.state.service
        recorder = _Recorder(make_app(app))
        port = stack.enter_context(live(recorder))

        def end_streams() -> None:
            for tap in taps.values():
                tap.end()
            if recorder.loop is not None:
                call_soon(service.cut_off)

        def call_soon(function: Callable[..., object], *args: object) -> None:
            assert recorder.loop is not None, "nobody asked for anything yet"
            recorder.loop.call_soon_threadsafe(function, *args)

        stack.callback(end_streams)
        if not is_held:
            for tap in taps.values():
                tap.open()
        stack.callback(lambda: [one.goto("about:blank") for one in page.context.pages])
        yield Site(f"http://127.0.0.1:{port}{path}", port, known, made, taps, service, recorder.requests, call_soon)
