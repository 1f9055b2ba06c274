"""What the requests of the OpenAI-compatible endpoints have in common, as pydantic types."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Annotated, Any, Literal, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import no_info_plain_validator_function

from headrace.server.serving.exchange import GenerationBody

__all__ = [
    "MAX_CHOICES",
    "MAX_VALUES",
    "Ignored",
    "JsonSchema",
    "Only",
    "Sampling",
    "Stop",
    "StreamOptions",
    "Wire",
    "check_size",
]

# Choices that one request may ask for; prompts times n.
MAX_CHOICES = 128
# Values in a JSON schema, or in all that a request has: more, and looking through them would be felt by others.
MAX_VALUES = 20_000


class Wire(BaseModel):
    """A type of the wire: JSON types are taken as they are, and nothing unknown is let through."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Only:
    """Put into Annotated, the type of a parameter that can do nothing here: whatever else is given is refused by name.

    Args:
        neutral: what may be given beside null, because it asks for what happens anyway.
    """

    def __init__(self, *neutral: Any) -> None:
        self._neutral = (None, *neutral)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"enum": list(self._neutral)}

    def _check(self, value: Any) -> Any:
        if any(type(value) is type(one) and value == one for one in self._neutral):
            return value
        allowed = " or ".join(json.dumps(one) for one in self._neutral)
        raise PydanticCustomError("unsupported", "it is not supported here; allowed: {allowed}", {"allowed": allowed})


# Parameters that have no effect on the output, whatever they are.
Ignored = Annotated[Any, WithJsonSchema({})]


class StreamOptions(Wire):
    """How a stream is written."""

    include_usage: bool | None = None
    include_obfuscation: Ignored = None


# What is looked for in every text is made into a machine first, a state for each character.
StopSequence = Annotated[str, Field(max_length=256)]
Stop = StopSequence | Annotated[list[StopSequence], Field(max_length=64, fail_fast=True)]


def check_size(value: object, most: int, what: str) -> None:
    """Raise PydanticCustomError where there are more values in a value than that.

    Args:
        value: of JSON's kinds.
        most: how many there may be, with the keys of objects.
        what: what the error calls it.
    """
    pending, count = [value], 0
    while pending:
        one = pending.pop()
        values: Collection[object] = ()
        if isinstance(one, dict):
            values = cast("dict[str, object]", one).values()
        elif isinstance(one, list):
            values = cast("list[object]", one)
        count += len(values)
        if count > most:
            raise PydanticCustomError("too_many", "{what} may have {most} values", {"what": what, "most": most})
        pending += values


def _check_schema(schema: Any) -> Any:
    check_size(schema, MAX_VALUES, "a schema")
    return schema


JsonSchema = Annotated[dict[str, Any] | bool, AfterValidator(_check_schema)]


class Sampling(Wire, GenerationBody):
    """The settings of StreamConfig under the names that the field uses for them, and what all requests carry."""

    model: str = Field(max_length=512)
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repeat_penalty: float | None = None
    logit_bias: dict[str, float] | None = Field(default=None, max_length=4096)
    stop: Stop | None = None
    ignore_eos: bool | None = None
    json_schema: JsonSchema | None = None
    regex: str | None = None
    grammar: str | None = None
    thinking: Literal["split", "hide", "raw"] | None = None
    thinking_budget: int | None = None
    thinking_tags: tuple[str, str] | None = None
    speculation: Literal["auto", "on", "off"] | None = None
    user: Ignored = None
    metadata: Ignored = None
    store: Ignored = None
    service_tier: Ignored = None
    safety_identifier: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_retention: Ignored = None

    def settings(self) -> dict[str, Any]:
        """The fields of StreamConfig that were given."""
        given = {name: value for name in _SAME_NAMES if (value := getattr(self, name)) is not None}
        if self.stop is not None:
            given["stop_sequences"] = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        return given


_SAME_NAMES = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "frequency_penalty",
    "presence_penalty",
    "repeat_penalty",
    "logit_bias",
    "ignore_eos",
    "json_schema",
    "regex",
    "grammar",
    "thinking",
    "thinking_budget",
    "thinking_tags",
    "speculation",
)
