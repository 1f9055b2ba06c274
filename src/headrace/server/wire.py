"""What the requests of the OpenAI-compatible endpoints have in common, as pydantic types."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, WithJsonSchema
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import no_info_plain_validator_function

__all__ = ["MAX_CHOICES", "Ignored", "Only", "Sampling", "Stop", "StreamOptions", "Wire"]

# Choices that one request may ask for; prompts times n.
MAX_CHOICES = 128


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


class Sampling(Wire):
    """The settings of StreamConfig under the names that the field uses for them, and what all requests carry."""

    model: str = Field(max_length=512)
    stream: bool | None = None
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
    resumable: bool | None = None
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
)
