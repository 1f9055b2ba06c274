"""`Tool`: something that a model may call. `result_text`: a tool's result, as the model reads it."""

from __future__ import annotations

import contextlib
import copy
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from pydantic_core import to_json

from headrace.structured.schema import Schema
from headrace.values.errors import InvalidRequestError

__all__ = ["ALLOWED_TOOLS", "Tool", "result_text"]

# The values that can be made a tool, for errors.
ALLOWED_TOOLS = 'a function, a Pydantic model, or a mapping {"type": "function", "function": {"name": ..., ...}}'


@dataclass(frozen=True, slots=True, eq=False)
class Tool:
    """Something that a model may call.

    Attributes:
        name: 1 to 64 letters, digits, "_" and "-".
        description: what it is for.
        parameters: JSON schema of its arguments, an object.
        function: the function or class that runs it; None for a tool given as a mapping, which only the caller can run.
    """

    name: str
    description: str | None
    parameters: dict[str, Any]
    function: Callable[..., Any] | None = None
    _schema: Schema | None = field(default=None, repr=False)
    _positional: tuple[str, ...] = field(default=(), repr=False)

    @property
    def is_async(self) -> bool:
        """Whether the function is certain to return an awaitable at once."""
        function: Any = self.function
        if function is None or isinstance(function, type):
            return False
        return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)

    def as_openai(self) -> dict[str, Any]:
        """Returns a new mapping that describes the tool as OpenAI's chat API and chat templates want it."""
        described = {} if self.description is None else {"description": self.description}
        parameters = copy.deepcopy(self.parameters)
        return {"type": "function", "function": {"name": self.name, **described, "parameters": parameters}}

    def run(self, arguments: str) -> Any:
        """Call the tool.

        Args:
            arguments: JSON. It is checked against the function's signature and converted to the annotated types.

        Returns:
            The function's result, which is an awaitable from an async function; for a class, the instance.

        Raises:
            InvalidRequestError: the arguments do not fit, or the tool has no `function`.
            Exception: whatever the function raises.
        """
        if self.function is None or self._schema is None:
            raise InvalidRequestError("tools", self.name, "a tool that was given as a function, so that it can be run")
        values = self._parsed(self._schema, arguments)
        if isinstance(self.function, type):
            return values
        positional = [values.pop(name) for name in self._positional]
        return self.function(*positional, **values)

    def _parsed(self, schema: Schema, arguments: str) -> Any:
        try:
            return schema.parse(arguments)
        except ValidationError as error:
            errors = error.errors(include_url=False, include_context=False, include_input=False)
            reasons = [_reason(one["type"], one["msg"], one["loc"]) for one in errors]
        except ValueError as error:
            reasons = [str(error)]
        message = f"the arguments of {self.name} do not fit: {'; '.join(reasons)}"
        raise InvalidRequestError("arguments", arguments, "JSON that fits the tool's parameters", message)


def result_text(value: object) -> str:
    """Returns a tool's result as the model reads it.

    Text stays as it is, an exception becomes {"error": "..."}, and anything else becomes JSON.

    Raises:
        ValueError: JSON cannot hold the value.
    """
    if isinstance(value, BaseException):
        text = json.dumps({"error": _error_text(value)}, ensure_ascii=False)
    elif isinstance(value, str):
        text = str.__str__(value)
    else:
        return to_json(value, inf_nan_mode="strings").decode()
    # A prompt cannot hold lone surrogates, which file names may have, or NUL, which binary files have.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "\ufffd")


def _reason(kind: str, message: str, place: Sequence[object]) -> str:
    # A model does not know Python's kinds of arguments.
    message = {"missing_keyword_only_argument": "Missing", "unexpected_keyword_argument": "Unknown"}.get(kind, message)
    return f"{'.'.join(map(str, place)) or 'arguments'}: {message}"


def _error_text(error: BaseException) -> str:
    text = ""
    with contextlib.suppress(Exception):  # a foreign __str__ may raise anything
        text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
