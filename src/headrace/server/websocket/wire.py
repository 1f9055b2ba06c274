"""What the two ends of a WebSocket say to each other, and when they may: a state machine without a socket."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from headrace.api.caller import Caller
from headrace.api.job import Job
from headrace.server.http.body import parse
from headrace.server.http.errors import ApiError
from headrace.server.http.json_text import dumps, quoted
from headrace.server.openai.json_schema import JsonSchema
from headrace.server.openai.messages import Messages, turns_of
from headrace.server.openai.overrides import Overrides
from headrace.server.openai.stop_sequences import Stop, stop_sequences_of
from headrace.server.openai.template_kwargs import TemplateKwargs
from headrace.server.openai.tools import ToolChoice, Tools, tool_overrides
from headrace.server.openai.wire import Wire
from headrace.server.serving.logprobs import HeldLogprobs, logprob_entry
from headrace.values.config import StreamConfig
from headrace.values.errors import shortened
from headrace.values.results import GenerationResult, Part, Token, ToolCallDelta

__all__ = ["MAX_FRAME", "PLAIN_ID", "Action", "Cancel", "Generate", "Proceed", "Reply", "Session", "Start", "is_plain"]

# Bytes that a frame of a client may have.
MAX_FRAME = 1024 * 1024
# The id of a stream whose prompt came as plain text.
PLAIN_ID = "0"

_MAX_ID = 128  # characters
_MAX_LIVE = 1024  # streams of one socket, those whose tokens wait for an ack included
_MAX_REMEMBERED = 256  # streams that have ended, whose acks and cancels may still be on their way

# Prices are the server's.
_SETTINGS = frozenset(field.name for field in dataclasses.fields(StreamConfig)) - {"pricing"}
# What only a chat has.
_CHAT_OPTIONS = ("tools", "tool_choice", "parallel_tool_calls", "continue_final_message", "template_kwargs")


# What a client says.


class _Head(BaseModel):
    """What tells the kinds of frames apart; the rest is looked at later."""

    type: Any = None
    id: Any = None


class Generate(Wire):
    """`generate`: beside what stands here it has the fields of StreamConfig, which know best what they may be."""

    model_config = ConfigDict(extra="allow")

    type: Literal["generate"]
    id: str = Field(min_length=1, max_length=_MAX_ID)
    model: str | None = Field(default=None, max_length=512)
    prompt: str | Annotated[list[int], Field(fail_fast=True)] | None = None
    messages: Messages | None = None
    system_prompt: str | None = None
    stop: Stop | None = None
    json_schema: JsonSchema | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    continue_final_message: bool | None = None
    template_kwargs: TemplateKwargs | None = None
    window: int | None = Field(default=None, ge=1)

    @property
    def names(self) -> Mapping[str, str]:
        """What this frame calls the settings of StreamConfig, where it is something else."""
        return self._tools.names if self.stop is None else {**self._tools.names, "stop_sequences": "stop"}

    @property
    def _tools(self) -> Overrides:
        return tool_overrides(self.tools, self.tool_choice, self.parallel_tool_calls)

    def settings(self) -> dict[str, Any]:
        """The fields of StreamConfig that were given."""
        given = {name: value for name, value in (self.model_extra or {}).items() if value is not None}
        if self.json_schema is not None:
            given["json_schema"] = self.json_schema
        if self.stop is not None:
            given["stop_sequences"] = stop_sequences_of(self.stop)
        return given

    def job(self, caller: Caller, changes: Mapping[str, Any]) -> Job:
        """What is to be generated.

        Args:
            caller: where.
            changes: the settings.

        Raises:
            HeadraceError: it cannot be.
        """
        if self.system_prompt is not None:
            changes = {**changes, "system_prompt": self.system_prompt}
        if self.messages is not None:
            options = {**self._tools.settings, "template_kwargs": self.template_kwargs}
            if self.continue_final_message:
                options["continue_final_message"] = True
            return caller.chat_job(turns_of(self.messages), None, {**changes, **options})
        assert self.prompt is not None
        return caller.job(self.prompt, None, changes)

    def check(self) -> None:
        """Raise ApiError for what no single field can tell."""
        for name in self.model_extra or {}:
            if name not in _SETTINGS:
                message = f"{shortened(name)}: there is no such parameter"
                raise ApiError(400, message, param=name[:100], code="unknown_parameter")
        if (self.prompt is None) == (self.messages is None):
            given = "neither prompt nor messages are" if self.prompt is None else "both prompt and messages are"
            code = "missing_required_parameter" if self.prompt is None else "invalid_value"
            raise ApiError(400, f"{given} given; allowed: one of the two", param="prompt", code=code)
        for name in _CHAT_OPTIONS:
            if self.messages is None and getattr(self, name) is not None:
                message = f"{name} is given with a prompt; allowed: with messages"
                raise ApiError(400, message, param=name, code="invalid_value")
        _ = self._tools  # raises
        if self.stop is not None and (self.model_extra or {}).get("stop_sequences") is not None:
            message = "stop and stop_sequences are the same thing; allowed: one of the two"
            raise ApiError(400, message, param="stop", code="invalid_value")


class _Cancel(Wire):
    type: Literal["cancel"]
    id: str


class _Ack(Wire):
    type: Literal["ack"]
    id: str
    index: int = Field(ge=0)


class _Ping(Wire):
    type: Literal["ping"]


# What is to be done about it.


@dataclass(frozen=True, slots=True)
class Start:
    """Start a stream, and then say `started`, or `failed`."""

    ask: Generate


@dataclass(frozen=True, slots=True)
class Cancel:
    """Cancel a stream, and then say `done`; it may have been cancelled before."""

    id: str


@dataclass(frozen=True, slots=True)
class Proceed:
    """A stream may have more room than it had."""

    id: str


@dataclass(frozen=True, slots=True)
class Reply:
    """Send a frame; an error tells here as well what it is."""

    frame: str
    error: ApiError | None = None


Action = Start | Cancel | Proceed | Reply | None


@dataclass
class _Live:
    """A stream: asked for, then started, and then, when it is over, no longer here."""

    id: str
    window: int | None
    before_text: str
    logprobs: HeldLogprobs | None
    is_started: bool = False
    num_sent: int = 0
    num_acked: int = 0

    @property
    def room(self) -> int | None:
        return None if self.window is None else self.num_acked + self.window - self.num_sent


@dataclass
class Session:
    """One socket's conversation: a frame of the client goes in, and what to do about it comes out.

    For each stream that was asked for, its owner calls `started` once, `tokens` any number of times, and then `done`;
    or `failed` at any point. Each gives the frames to send. Another order is an error of the owner: RuntimeError.

    An `error` with an id says in `final` whether a stream of that id is over, or only a frame was refused.
    """

    has_input: bool = True  # the client may still say something
    _live: dict[str, _Live] = field(default_factory=dict[str, _Live])
    _remembered: dict[str, int] = field(default_factory=dict[str, int])  # tokens that were sent, by id

    @property
    def has_live(self) -> bool:
        """Whether a stream is not over yet."""
        return bool(self._live)

    # What the client says.

    def receive(self, frame: str | bytes) -> Action:
        """Take in a frame of the client."""
        if not self.has_input:
            raise RuntimeError("a frame came after the end of the input")
        id: str | None = None
        try:
            if isinstance(frame, bytes):
                raise ApiError(400, "the frame is binary; allowed: text", code="invalid_frame")
            if len(frame) > MAX_FRAME or len(frame) * 4 > MAX_FRAME < len(frame.encode(errors="replace")):
                raise ApiError(400, f"the frame is too long; allowed: {MAX_FRAME} bytes", code="frame_too_large")
            if is_plain(frame):
                id = PLAIN_ID
                # Tools that send lines send their ends as well.
                prompt = frame.removesuffix("\n").removesuffix("\r")
                return self._start(Generate(type="generate", id=id, prompt=prompt))
            head = parse(_Head, frame, "the frame")
            id = head.id if isinstance(head.id, str) and 1 <= len(head.id) <= _MAX_ID else None
            return self._act(head.type, frame)
        except ApiError as error:
            return Reply(self._error(id, error), error)

    def end_input(self) -> None:
        """The client says no more, but listens."""
        self.has_input = False

    def _act(self, type: Any, frame: str) -> Action:
        if type == "generate":
            return self._start(parse(Generate, frame, "the frame"))
        if type == "cancel":
            return self._cancel(parse(_Cancel, frame, "the frame"))
        if type == "ack":
            return self._acknowledge(parse(_Ack, frame, "the frame"))
        if type == "ping":
            parse(_Ping, frame, "the frame")
            return Reply('{"type":"pong"}')
        message = f"type is {shortened(type)}; allowed: generate, cancel, ack, ping"
        raise ApiError(400, message, param="type", code="unknown_type")

    def _start(self, ask: Generate) -> Start:
        ask.check()
        if ask.id in self._live:
            message = f"id is {shortened(ask.id)}, which a living stream of this socket has; allowed: another one"
            raise ApiError(409, message, param="id", code="id_in_use")
        if len(self._live) >= _MAX_LIVE:
            message = f"{_MAX_LIVE} streams of this socket are not over, which is as many as there may be"
            raise ApiError(429, message, code="too_many_streams")
        before_text = f'{{"type":"token","id":{quoted(ask.id)},"text":'
        held = HeldLogprobs() if "logprobs" in ask.settings() else None
        self._live[ask.id] = _Live(ask.id, ask.window, before_text, held)
        self._remembered.pop(ask.id, None)
        return Start(ask)

    def _cancel(self, said: _Cancel) -> Cancel | None:
        if said.id in self._live:
            return Cancel(said.id)
        self._check_remembered(said.id)
        return None  # it was over before this came

    def _acknowledge(self, said: _Ack) -> Proceed | None:
        live = self._live.get(said.id)
        num_sent = self._check_remembered(said.id) if live is None else live.num_sent
        if said.index >= num_sent:
            sent = f"at most {num_sent - 1}, the last that was sent" if num_sent else "none, since nothing was sent yet"
            raise ApiError(400, f"index is {said.index}; allowed: {sent}", param="index", code="invalid_value")
        if live is None or said.index < live.num_acked:
            return None  # it says nothing new
        live.num_acked = said.index + 1
        return Proceed(said.id)

    def _check_remembered(self, id: str) -> int:
        if id not in self._remembered:
            message = f"id is {shortened(id)}; allowed: the id of a stream of this socket"
            raise ApiError(404, message, param="id", code="unknown_id")
        return self._remembered[id]

    # What the server says.

    def room(self, id: str) -> int | None:
        """How many tokens of a stream may be sent now; None where there is no limit."""
        return self._started(id).room

    def started(self, id: str) -> str:
        """The engine has accepted a stream."""
        live = self._get(id)
        if live.is_started:
            raise RuntimeError(f"the stream {id!r} started twice")
        live.is_started = True
        return f'{{"type":"started","id":{quoted(id)}}}'

    def tokens(self, id: str, tokens: Sequence[Token]) -> list[str]:
        """The next tokens of a stream, a frame each, those without text too."""
        live = self._started(id)
        room = live.room
        if room is not None and len(tokens) > room:
            raise RuntimeError(f"{len(tokens)} tokens of the stream {id!r}, which has room for {room}")
        frames: list[str] = []
        for token in tokens:
            if token.index != live.num_sent:
                raise RuntimeError(f"token {token.index} of the stream {id!r} comes where {live.num_sent} belongs")
            live.num_sent += 1
            more = _more(token.tool_call, token.rest)
            if live.logprobs is not None:
                entries = [{"index": one.index, **logprob_entry(one)} for one in live.logprobs.feed([token])]
                more["logprobs"] = entries
            tail = f",{dumps(more)[1:]}" if more else "}"
            text = quoted(token.text)
            frames.append(f'{live.before_text}{text},"index":{token.index},"kind":"{token.kind}"{tail}')
        return frames

    def done(self, id: str, result: GenerationResult) -> str:
        """A stream is over: it ended well, or the client cancelled it, even before it started."""
        if result.finish_reason != "cancelled":
            self._started(id)
        self._forget(id)
        usage = {**dataclasses.asdict(result.usage), "total_tokens": result.usage.total_tokens}
        metrics = {name: _rounded(value) for name, value in dataclasses.asdict(result.metrics).items()}
        reason = {"finish_reason": result.finish_reason, "stop_sequence": result.stop_sequence}
        calls = [dataclasses.asdict(call) for call in result.tool_calls]
        return dumps({"type": "done", "id": id, **reason, "tool_calls": calls, "usage": usage, "metrics": metrics})

    def failed(self, id: str, error: ApiError) -> str:
        """A stream is over, or could not be started."""
        self._forget(id)
        return self._error(id, error)

    def _get(self, id: str) -> _Live:
        live = self._live.get(id)
        if live is None:
            raise RuntimeError(f"there is no stream {id!r}")
        return live

    def _started(self, id: str) -> _Live:
        live = self._get(id)
        if not live.is_started:
            raise RuntimeError(f"the stream {id!r} has not started")
        return live

    def _forget(self, id: str) -> None:
        live = self._get(id)
        del self._live[id]
        self._remembered[id] = live.num_sent
        if len(self._remembered) > _MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]

    def _error(self, id: str | None, error: ApiError) -> str:
        final = id is not None and id not in self._live
        return dumps({"type": "error", "id": id, "message": error.message, "code": error.code, "final": final})


def is_plain(frame: str) -> bool:
    """Whether a text frame is a prompt as it stands, and no JSON object."""
    return not frame.lstrip().startswith("{")


def _more(call: ToolCallDelta | None, rest: Sequence[Part]) -> dict[str, Any]:
    """What a token may have besides a text: a call that this is a piece of, and what is left at the stream's end."""
    more: dict[str, Any] = {} if call is None else {"tool_call": dataclasses.asdict(call)}
    if rest:
        more["rest"] = [{"text": one.text, "kind": one.kind, **_more(one.tool_call, ())} for one in rest]
    return more


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
