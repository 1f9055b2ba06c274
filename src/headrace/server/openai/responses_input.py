"""`Input`: the input of a request for a response. `Conversation` turns it into messages for a chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

from pydantic import Discriminator, Field, Tag, WithJsonSchema

from headrace.server.http.errors import ApiError
from headrace.server.openai.messages import template_role
from headrace.server.openai.wire import Ignored, Unsupported, Wire

__all__ = ["Conversation", "Input"]

_KINDS = ("message", "function_call", "function_call_output", "reasoning")

Id = Annotated[str | None, Field(max_length=512)]
Status = Literal["in_progress", "completed", "incomplete"] | None


def _kind_of_text(value: Any) -> str | None:
    return "=text" if isinstance(value, str) else "=list" if isinstance(value, list) else None


_TEXT_OR_LIST = Discriminator(
    _kind_of_text, custom_error_type="text_or_list", custom_error_message="input should be a string or a list"
)


class InputPart(Wire):
    """Text in a message: of a user, of a tool, or of a former response."""

    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: Ignored = None
    logprobs: Ignored = None
    parsed: Ignored = None  # openai-node adds it to the outputs that it returns
    prompt_cache_breakpoint: Ignored = None


Content = Annotated[
    Annotated[str, Tag("=text")]
    | Annotated[list[InputPart], Tag("=list"), Field(min_length=1, max_length=1024, fail_fast=True)],
    _TEXT_OR_LIST,
]


class InputMessage(Wire):
    """A message, also one from the output of a former response."""

    # An item of an unknown type is parsed as a message, so that the error of this field names all types.
    type: Annotated[
        Literal["message", "function_call", "function_call_output", "reasoning"] | None,
        WithJsonSchema({"enum": ["message", None]}),
    ] = None
    role: Literal["user", "assistant", "system", "developer"]
    content: Content
    id: Id = None
    status: Status = None
    phase: Literal["commentary", "final_answer"] | None = None


class InputCall(Wire):
    """A tool call of a former response."""

    type: Literal["function_call"]
    call_id: str = Field(min_length=1, max_length=512)
    name: str = Field(min_length=1, max_length=512)
    arguments: str
    parsed_arguments: Ignored = None  # openai-node adds it to the outputs that it returns
    id: Id = None
    status: Status = None
    caller: Annotated[Any, Unsupported()] = None
    namespace: Annotated[Any, Unsupported()] = None


class InputCallOutput(Wire):
    """The output of a tool call."""

    type: Literal["function_call_output"]
    call_id: str = Field(min_length=1, max_length=512)
    output: Content
    id: Id = None
    status: Status = None
    caller: Annotated[Any, Unsupported()] = None
    namespace: Annotated[Any, Unsupported()] = None


class ThoughtPart(Wire):
    """Text of a thought."""

    type: Literal["reasoning_text"]
    text: str


class SummaryPart(Wire):
    """Text of a thought's summary."""

    type: Literal["summary_text"]
    text: str


class InputThought(Wire):
    """A thought of a former response. The summary is used if there is no content."""

    type: Literal["reasoning"]
    content: list[ThoughtPart] | None = Field(default=None, max_length=1024)
    summary: list[SummaryPart] | None = Field(default=None, max_length=1024)
    encrypted_content: Annotated[Any, Unsupported()] = None
    id: Id = None
    status: Status = None


def _kind_of_item(value: Any) -> str:
    kind = cast("dict[str, object]", value).get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return f"={kind}" if kind in _KINDS else "=message"


Item = Annotated[
    Annotated[InputMessage, Tag("=message")]
    | Annotated[InputCall, Tag("=function_call")]
    | Annotated[InputCallOutput, Tag("=function_call_output")]
    | Annotated[InputThought, Tag("=reasoning")],
    Discriminator(_kind_of_item),
]
Input = Annotated[
    Annotated[str, Tag("=text")]
    | Annotated[list[Item], Tag("=list"), Field(min_length=1, max_length=10_000, fail_fast=True)],
    _TEXT_OR_LIST,
]


class Conversation:
    """The instructions and the input of a request as messages. All items of one answer become one message.

    Args:
        instructions: the system message.
        input: the request's input.

    Attributes:
        messages: for `Caller.chat_job`.
        names: the request's names for parts of these messages, for errors; see `as_api_error`.

    Raises:
        ApiError: 400, there is an output of an unknown tool call.
    """

    def __init__(self, instructions: str | None, input: str | Sequence[Item]) -> None:
        self.messages: list[dict[str, Any]] = []
        self.names: dict[str, str] = {}
        self._tools: dict[str, str] = {}  # names of the called tools, by call id
        if instructions is not None:
            self._add_message("system", instructions, "instructions")
        if isinstance(input, str):
            self._add_message("user", input, "input")
        else:
            for i, item in enumerate(input):
                self._add_item(item, f"input[{i}]")

    def _add_item(self, item: Item, place: str) -> None:
        if isinstance(item, InputThought):
            self._add_thought(item, place)
        elif isinstance(item, InputCall):
            self._add_call(item, place)
        elif isinstance(item, InputCallOutput):
            self._add_call_output(item, place)
        elif item.role == "assistant" and self._is_open and not self._last["content"] and not self._calls:
            self._last["content"] = _text_of(item.content)
            self._set_name("content", f"{place}.content")
        else:
            self._add_message(template_role(item.role), _text_of(item.content), f"{place}.content")

    def _add_thought(self, item: InputThought, place: str) -> None:
        thought = "".join(part.text for part in item.content or item.summary or ())
        if not (self._is_open and not self._last["content"] and not self._calls):
            self._add_message("assistant", "", place)
        if thought:
            before = self._last.get("reasoning_content")
            self._last["reasoning_content"] = thought if before is None else f"{before}\n{thought}"
            self._set_name("reasoning_content", f"{place}.content" if item.content else f"{place}.summary")

    def _add_call(self, item: InputCall, place: str) -> None:
        if not self._is_open:
            self._add_message("assistant", "", place)
        last = self._last
        last["content"] = last["content"] or None
        calls = last.setdefault("tool_calls", [])
        self._set_name(f"tool_calls[{len(calls)}].function", place)
        self._set_name(f"tool_calls[{len(calls)}].id", f"{place}.call_id")
        function = {"name": item.name, "arguments": item.arguments}
        calls.append({"id": item.call_id, "type": "function", "function": function})
        self._tools[item.call_id] = item.name

    def _add_call_output(self, item: InputCallOutput, place: str) -> None:
        name = self._tools.get(item.call_id)
        if name is None:
            message = f"{place}.call_id is {item.call_id[:100]!r}; allowed: the call_id of a function_call before it"
            raise ApiError(400, message, param=f"{place}.call_id", code="invalid_value")
        self._add_message("tool", _text_of(item.output), f"{place}.output")
        self._last.update(tool_call_id=item.call_id, name=name)

    def _add_message(self, role: str, content: str, place: str) -> None:
        self.messages.append({"role": role, "content": content})
        self._set_name("content", place)

    def _set_name(self, part: str, place: str) -> None:
        self.names[f"messages[{len(self.messages) - 1}].{part}"] = place

    @property
    def _last(self) -> dict[str, Any]:
        return self.messages[-1]

    @property
    def _is_open(self) -> bool:
        """Whether the last message is an answer, to which further items may be added."""
        return bool(self.messages) and self._last["role"] == "assistant"

    @property
    def _calls(self) -> Sequence[Any]:
        return self._last.get("tool_calls", ())


def _text_of(content: str | Sequence[InputPart]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)
