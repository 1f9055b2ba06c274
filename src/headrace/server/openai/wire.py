"""Types for request bodies: `Wire`, a strict model; `Unsupported` and `Ignored`, for refused and ignored parameters."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, WithJsonSchema
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import no_info_plain_validator_function

__all__ = ["Ignored", "Unsupported", "Wire"]


class Wire(BaseModel):
    """A strict pydantic model: JSON types are not converted, and unknown fields are refused."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Unsupported:
    """In `Annotated`, the type of a parameter that is not supported: any value that would ask for something is refused.

    Args:
        neutral: values that are allowed beside null, because they ask for what happens anyway.
    """

    def __init__(self, *neutral: Any) -> None:
        self._neutral = (None, *neutral)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"enum": list(self._neutral)}

    def _check(self, value: Any) -> Any:
        if any(type(value) is type(neutral) and value == neutral for neutral in self._neutral):
            return value
        allowed = " or ".join(json.dumps(neutral) for neutral in self._neutral)
        raise PydanticCustomError("unsupported", "it is not supported here; allowed: {allowed}", {"allowed": allowed})


# A parameter without effect on the output; any value is accepted.
Ignored = Annotated[Any, WithJsonSchema({})]
