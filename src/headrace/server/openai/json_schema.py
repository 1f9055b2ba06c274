"""`JsonSchema`: a JSON schema in a request, bounded by `check_size`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, cast

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

__all__ = ["MAX_VALUES", "JsonSchema", "check_size"]

# Values in one JSON schema, or in all schemas of a request. Walking through more would delay other requests noticeably.
MAX_VALUES = 20_000


def check_size(value: object, max_values: int, name: str) -> None:
    """Check that a JSON value does not have too many values in it.

    Args:
        value: a JSON value.
        max_values: how many values it may have, at any depth.
        name: the value's name in an error.

    Raises:
        PydanticCustomError: it has more.
    """
    pending, count = [value], 0
    while pending:
        outer = pending.pop()
        values: Collection[object] = ()
        if isinstance(outer, dict):
            values = cast("dict[str, object]", outer).values()
        elif isinstance(outer, list):
            values = cast("list[object]", outer)
        count += len(values)
        if count > max_values:
            raise PydanticCustomError("too_many", "{what} may have {most} values", {"what": name, "most": max_values})
        pending += values


def _check_schema(schema: Any) -> Any:
    check_size(schema, MAX_VALUES, "a schema")
    return schema


JsonSchema = Annotated[dict[str, Any] | bool, AfterValidator(_check_schema)]
