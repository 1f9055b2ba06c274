"""`Session`: the frames that client and server may send on one WebSocket, and their order. A state machine, no I/O."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from headrace.server.http.body import parse
from headrace.server.http.errors import ApiError
from headrace.server.http.json_text import dumps, quoted
from headrace.server.serving.logprobs import HeldLogprobs, logprob_entry
from headrace.server.websocket.ack_window import AckWindow
from headrace.server.websocket.frames import (
    MAX_FRAME,
    MAX_ID,
    PLAIN_ID,
    AckFrame,
    CancelFrame,
    FrameHead,
    Generate,
    PingFrame,
    is_plain,
)
from headrace.values.errors import shortened
from headrace.values.results import GenerationResult, Part, Token, ToolCallDelta

__all__ = ["Action", "Cancel", "Proceed", "Reply", "Session", "Start"]

# Streams that one socket may have at a time. Streams whose tokens wait for an ack count too.
_MAX_LIVE = 1024
# Ended streams that are remembered, because a late ack or cancel for them is no error.
_MAX_REMEMBERED = 256


# Actions: the answers of `Session.receive` to a client's frame.


@dataclass(frozen=True, slots=True)
class Start:
    """Start a stream, then call `Session.started` or `Session.failed`."""

    request: Generate


@dataclass(frozen=True, slots=True)
class Cancel:
    """Cancel a stream, then call `Session.done`. The stream may have been cancelled before."""

    id: str


@dataclass(frozen=True, slots=True)
class Proceed:
    """Check `Session.room` again: an ack may have made room for more tokens of a stream."""

    id: str


@dataclass(frozen=True, slots=True)
class Reply:
    """Send a frame. If it reports an error, `error` is that error."""

    frame: str
    error: ApiError | None = None


Action = Start | Cancel | Proceed | Reply | None


@dataclass
class _LiveStream:
    """A stream from its `generate` to its end.

    Attributes:
        id: the stream's id.
        window: how many of the stream's tokens were sent, and how many may be sent.
        frame_start: the start of each `token` frame, up to the token's text.
        logprobs: holds the log probabilities back; None if they are not wanted.
        is_started: whether the `started` frame was sent.
    """

    id: str
    window: AckWindow
    frame_start: str
    logprobs: HeldLogprobs | None
    is_started: bool = False


@dataclass
class Session:
    """The state of one socket. `receive` gets each frame of the client and returns an action.

    For each `Start`, the session's owner calls `started` once, then `tokens` any number of times, then `done`; or
    `failed` at any point. Each call returns the frames to send. A wrong order raises RuntimeError.

    In an `error` frame with an id, `final` says whether the stream with this id has ended. If it is false, only a frame
    of the client was refused.
    """

    has_input: bool = True  # False once the client sends no more
    _live: dict[str, _LiveStream] = field(default_factory=dict[str, _LiveStream])
    _remembered: dict[str, int] = field(default_factory=dict[str, int])  # ended streams: number of tokens sent, by id

    @property
    def has_live(self) -> bool:
        """Whether any stream has not ended."""
        return bool(self._live)

    # Frames of the client.

    def receive(self, frame: str | bytes) -> Action:
        """Handle a frame of the client. Returns the action that it requires, if any."""
        if not self.has_input:
            raise RuntimeError("a frame came after the end of the input")
        id: str | None = None
        try:
            if isinstance(frame, bytes):
                raise ApiError(400, "the frame is binary; allowed: text", code="invalid_frame")
            if len(frame) > MAX_FRAME or len(frame) * 4 > MAX_FRAME < len(frame.encode(errors="replace")):
                raise ApiError(
                    400,
                    f"the frame has {len(frame.encode(errors='replace'))} bytes; allowed: {MAX_FRAME}",
                    code="frame_too_large",
                )
            if is_plain(frame):
                id = PLAIN_ID
                # A tool that sends lines, such as websocat, sends their line ends too.
                prompt = frame.removesuffix("\n").removesuffix("\r")
                return self._start(Generate(type="generate", id=id, prompt=prompt))
            head = parse(FrameHead, frame, "the frame")
            id = head.id if isinstance(head.id, str) and 1 <= len(head.id) <= MAX_ID else None
            return self._act(head.type, frame)
        except ApiError as error:
            return Reply(self._error(id, error), error)

    def end_input(self) -> None:
        """Record that the client sends no more, but still listens."""
        self.has_input = False

    def _act(self, type: Any, frame: str) -> Action:
        if type == "generate":
            return self._start(parse(Generate, frame, "the frame"))
        if type == "cancel":
            return self._cancel(parse(CancelFrame, frame, "the frame"))
        if type == "ack":
            return self._acknowledge(parse(AckFrame, frame, "the frame"))
        if type == "ping":
            parse(PingFrame, frame, "the frame")
            return Reply('{"type":"pong"}')
        message = f"type is {shortened(type)}; allowed: generate, cancel, ack, ping"
        raise ApiError(400, message, param="type", code="unknown_type")

    def _start(self, request: Generate) -> Start:
        request.check()
        if request.id in self._live:
            message = f"id is {shortened(request.id)}, which a running stream of this socket has; allowed: another id"
            raise ApiError(409, message, param="id", code="id_in_use")
        if len(self._live) >= _MAX_LIVE:
            message = f"this socket has {_MAX_LIVE} streams that are not over; allowed: {_MAX_LIVE}"
            raise ApiError(429, message, code="too_many_streams")
        frame_start = f'{{"type":"token","id":{quoted(request.id)},"text":'
        logprobs = HeldLogprobs() if "logprobs" in request.settings() else None
        self._live[request.id] = _LiveStream(request.id, AckWindow(request.window), frame_start, logprobs)
        self._remembered.pop(request.id, None)
        return Start(request)

    def _cancel(self, frame: CancelFrame) -> Cancel | None:
        if frame.id in self._live:
            return Cancel(frame.id)
        self._check_remembered(frame.id)
        return None  # the stream ended before the frame came

    def _acknowledge(self, frame: AckFrame) -> Proceed | None:
        live = self._live.get(frame.id)
        num_sent = self._check_remembered(frame.id) if live is None else live.window.num_sent
        if frame.index >= num_sent:
            sent = f"at most {num_sent - 1}, the last that was sent" if num_sent else "none, since nothing was sent yet"
            raise ApiError(400, f"index is {frame.index}; allowed: {sent}", param="index", code="invalid_value")
        return Proceed(frame.id) if live is not None and live.window.acknowledge(frame.index) else None

    def _check_remembered(self, id: str) -> int:
        """Returns how many tokens of an ended stream were sent. Raises ApiError if no stream had this id."""
        if id not in self._remembered:
            message = f"id is {shortened(id)}; allowed: the id of a stream of this socket"
            raise ApiError(404, message, param="id", code="unknown_id")
        return self._remembered[id]

    # Frames of the server.

    def room(self, id: str) -> int | None:
        """Returns how many tokens of a stream may be sent now; None for no limit."""
        return self._get_started(id).window.room

    def started(self, id: str) -> str:
        """Returns the `started` frame of a stream that the engine has accepted."""
        live = self._get(id)
        if live.is_started:
            raise RuntimeError(f"the stream {id!r} started twice")
        live.is_started = True
        return f'{{"type":"started","id":{quoted(id)}}}'

    def tokens(self, id: str, tokens: Sequence[Token]) -> list[str]:
        """Returns a frame for each of a stream's next tokens, tokens without text included."""
        live = self._get_started(id)
        window = live.window
        if window.room is not None and len(tokens) > window.room:
            raise RuntimeError(f"{len(tokens)} tokens of the stream {id!r}, which has room for {window.room}")
        frames: list[str] = []
        for token in tokens:
            if token.index != window.num_sent:
                raise RuntimeError(f"token {token.index} of the stream {id!r} comes where {window.num_sent} belongs")
            window.num_sent += 1
            extras = _extras(token.tool_call, token.rest)
            if live.logprobs is not None:
                entries = [{"index": ready.index, **logprob_entry(ready)} for ready in live.logprobs.feed([token])]
                extras["logprobs"] = entries
            tail = f",{dumps(extras)[1:]}" if extras else "}"
            text = quoted(token.text)
            frames.append(f'{live.frame_start}{text},"index":{token.index},"kind":"{token.kind}"{tail}')
        return frames

    def done(self, id: str, result: GenerationResult) -> str:
        """Returns the last frame of a stream that ended well, or that was cancelled, even before it started."""
        if result.finish_reason != "cancelled":
            self._get_started(id)
        self._forget(id)
        usage = {**dataclasses.asdict(result.usage), "total_tokens": result.usage.total_tokens}
        metrics = {name: _rounded(value) for name, value in dataclasses.asdict(result.metrics).items()}
        reason = {"finish_reason": result.finish_reason, "stop_sequence": result.stop_sequence}
        calls = [dataclasses.asdict(call) for call in result.tool_calls]
        return dumps({"type": "done", "id": id, **reason, "tool_calls": calls, "usage": usage, "metrics": metrics})

    def failed(self, id: str, error: ApiError) -> str:
        """Returns the last frame of a stream that failed, or that could not be started."""
        self._forget(id)
        return self._error(id, error)

    def _get(self, id: str) -> _LiveStream:
        live = self._live.get(id)
        if live is None:
            raise RuntimeError(f"there is no stream {id!r}")
        return live

    def _get_started(self, id: str) -> _LiveStream:
        live = self._get(id)
        if not live.is_started:
            raise RuntimeError(f"the stream {id!r} has not started")
        return live

    def _forget(self, id: str) -> None:
        live = self._get(id)
        del self._live[id]
        self._remembered[id] = live.window.num_sent
        if len(self._remembered) > _MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]

    def _error(self, id: str | None, error: ApiError) -> str:
        is_final = id is not None and id not in self._live
        return dumps({"type": "error", "id": id, "message": error.message, "code": error.code, "final": is_final})


def _extras(call: ToolCallDelta | None, rest: Sequence[Part]) -> dict[str, Any]:
    """Returns a token's further fields: its part of a tool call, and the parts that are left at the stream's end."""
    extras: dict[str, Any] = {} if call is None else {"tool_call": dataclasses.asdict(call)}
    if rest:
        extras["rest"] = [{"text": part.text, "kind": part.kind, **_extras(part.tool_call, ())} for part in rest]
    return extras


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
