"""`Sampling`: the sampling parameters of a request, the same for every endpoint."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from headrace.server.openai.json_schema import JsonSchema
from headrace.server.openai.stop_sequences import Stop, stop_sequences_of
from headrace.server.openai.wire import Ignored, Wire
from headrace.server.serving.exchange import GenerationBody

__all__ = ["Sampling"]


class Sampling(Wire, GenerationBody):
    """The settings of `StreamConfig` under their usual wire names, and the parameters that every request may have."""

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
        """Returns the fields of `StreamConfig` that the request gives."""
        given = {name: value for name in _SAME_NAMES if (value := getattr(self, name)) is not None}
        if self.stop is not None:
            given["stop_sequences"] = stop_sequences_of(self.stop)
        return given


# Parameters with the same name in `StreamConfig`.
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
