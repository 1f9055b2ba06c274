"""Functions, classes and mappings that the tests give as tools."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from nowhere import OnlyForTypeCheckers  # pyright: ignore

F = TypeVar("F", bound=Callable[..., Any])


class Unit(enum.Enum):
    CELSIUS = "c"
    FAHRENHEIT = "f"


class Place(BaseModel):
    """Somewhere on earth."""

    latitude: float = Field(ge=-90, le=90)
    longitude: float


class Tree(BaseModel):
    """A tree."""

    leaf: str
    branches: list[Tree] = []


@dataclasses.dataclass
class Pair:
    left: int
    right: int = 2


def forecast(
    place: Place,
    day: datetime.date,
    unit: Unit = Unit.CELSIUS,
    note: Annotated[str, Field(description="Its own words.", max_length=5)] = "",
    anything=None,
) -> OnlyForTypeCheckers:
    """Tell the weather.

    It is always right.

    Args:
        place: Where,
            to the degree.
        day (date): When.
        note: Not these words.

    Returns:
        What the weather will be.
    """
    return place, day, unit, note, anything


async def later(count: int) -> int:
    """Count."""
    return count + 1


def positional(first: int, second: str = "b", /, third: float = 0.5, *, fourth: bool) -> tuple[Any, ...]:
    return first, second, third, fourth


def shadowing(schema: int, json: int, model_config: int, copy: int, self: int, _hidden: int = 6) -> tuple[int, ...]:
    """Names that a model could not have as fields."""
    return schema, json, model_config, copy, self, _hidden


def aliased(from_: Annotated[str, Field(alias="from")], to: int = Field(default=3, ge=1)) -> str:
    return f"{from_} {to}"


class Counter:
    """Counts up."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, by: int = 1) -> int:
        self.count += by
        return self.count

    def up(self, by: int) -> int:
        """Count up."""
        return self(by)

    @classmethod
    def made(cls, name: str) -> str:
        return cls.__name__ + name

    @staticmethod
    def plain(name: str) -> str:
        return name


@functools.cache
def cached(number: int) -> int:
    """Remembers."""
    return number


class AsyncCallable:
    async def __call__(self, a: int) -> int:
        return a


def logged(function: F) -> F:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return cast("F", wrapper)


DICT = {
    "type": "function",
    "function": {
        "name": "given",
        "description": "As a dict.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
        "strict": True,
    },
}
FLAT = {"type": "function", "name": "flat", "parameters": {"properties": {"a": {}}}, "strict": None}
