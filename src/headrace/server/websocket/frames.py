"""The frames of a client: `Generate`, `CancelFrame`, `AckFrame` and `PingFrame`, or a prompt as plain text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from headrace.api.caller import Caller
from headrace.api.chat_options import CHAT_OPTIONS
from headrace.api.job import Job
from headrace.server.http.errors import ApiError
from headrace.server.openai.json_schema import JsonSchema
from headrace.server.openai.messages import Messages, template_messages
from headrace.server.openai.overrides import Overrides
from headrace.server.openai.stop_sequences import Stop, stop_sequences_of
from headrace.server.openai.template_kwargs import TemplateKwargs
from headrace.server.openai.tools import ToolChoice, Tools, tool_overrides
from headrace.server.openai.wire import Wire
from headrace.values.config import StreamConfig
from headrace.values.errors import shortened

__all__ = [
    "MAX_FRAME",
    "MAX_ID",
    "PLAIN_ID",
    "AckFrame",
    "CancelFrame",
    "FrameHead",
    "Generate",
    "PingFrame",
    "is_plain",
]

MAX_FRAME = 1024 * 1024  # bytes
MAX_ID = 128  # characters
# The id of a stream whose prompt came as plain text.
PLAIN_ID = "0"

# All fields but the prices, which only the server sets.
_SETTINGS = frozenset(field.name for field in dataclasses.fields(StreamConfig)) - {"pricing"}


class FrameHead(BaseModel):
    """The fields that every frame has. They are parsed first, to find the frame's type."""

    type: Any = None
    id: Any = None


class Generate(Wire):
    """`generate`: start a stream.

    The fields of `StreamConfig` may be given as well. `StreamConfig` itself checks their values.
    """

    model_config = ConfigDict(extra="allow")

    type: Literal["generate"]
    id: str = Field(min_length=1, max_length=MAX_ID)
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
        """This frame's names of settings that `StreamConfig` names differently, by the names in `StreamConfig`."""
        return self._tools.names if self.stop is None else {**self._tools.names, "stop_sequences": "stop"}

    @property
    def _tools(self) -> Overrides:
        return tool_overrides(self.tools, self.tool_choice, self.parallel_tool_calls)

    def settings(self) -> dict[str, Any]:
        """Returns the fields of `StreamConfig` that the frame gives."""
        given = {name: value for name, value in (self.model_extra or {}).items() if value is not None}
        if self.json_schema is not None:
            given["json_schema"] = self.json_schema
        if self.stop is not None:
            given["stop_sequences"] = stop_sequences_of(self.stop)
        return given

    def job(self, caller: Caller, changes: Mapping[str, Any]) -> Job:
        """Returns the stream's job.

        Args:
            caller: makes the job.
            changes: the settings.

        Raises:
            HeadraceError: the prompt or a setting is not allowed.
        """
        if self.system_prompt is not None:
            changes = {**changes, "system_prompt": self.system_prompt}
        if self.messages is not None:
            options = {**self._tools.settings, "template_kwargs": self.template_kwargs}
            if self.continue_final_message:
                options["continue_final_message"] = True
            return caller.chat_job(template_messages(self.messages), None, {**changes, **options})
        assert self.prompt is not None
        return caller.job(self.prompt, None, changes)

    def check(self) -> None:
        """Check the rules between fields.

        Raises:
            ApiError: 400, a field is unknown, or fields do not go together.
        """
        for name in self.model_extra or {}:
            if name not in _SETTINGS:
                message = f"{shortened(name)}: there is no such parameter"
                raise ApiError(400, message, param=name[:100], code="unknown_parameter")
        if (self.prompt is None) == (self.messages is None):
            given = "neither prompt nor messages are" if self.prompt is None else "both prompt and messages are"
            code = "missing_required_parameter" if self.prompt is None else "invalid_value"
            raise ApiError(400, f"{given} given; allowed: one of the two", param="prompt", code=code)
        for name in CHAT_OPTIONS:
            if self.messages is None and getattr(self, name) is not None:
                message = f"{name} is given with a prompt; allowed: with messages"
                raise ApiError(400, message, param=name, code="invalid_value")
        _ = self._tools  # raises where tools and tool_choice are wrong
        if self.stop is not None and (self.model_extra or {}).get("stop_sequences") is not None:
            message = "stop and stop_sequences are the same thing; allowed: one of the two"
            raise ApiError(400, message, param="stop", code="invalid_value")


class CancelFrame(Wire):
    """`cancel`: end a stream."""

    type: Literal["cancel"]
    id: str


class AckFrame(Wire):
    """`ack`: the client has all tokens of a stream up to `index`."""

    type: Literal["ack"]
    id: str
    index: int = Field(ge=0)


class PingFrame(Wire):
    """`ping`: the client asks for a `pong`."""

    type: Literal["ping"]


def is_plain(frame: str) -> bool:
    """Returns whether a text frame is a prompt as plain text, not a JSON object."""
    return not frame.lstrip().startswith("{")
