"""The argument `tool_choice` in all its forms."""

from __future__ import annotations

import pytest
from cases import named

from chat.sample_tools import (
    DICT,
    FLAT,
    Counter,
    Place,
    forecast,
    later,
)
from headrace.chat.tool_choice import ToolChoice, tool_choice_of
from headrace.chat.tools import tools_of
from headrace.values.errors import InvalidRequestError


def auto(a: int) -> int:
    """A tool that is called like a word of tool_choice."""
    return a


counted = Counter()
TOOLS = tools_of([auto, forecast, counted.up, Place, DICT, FLAT])


@pytest.mark.parametrize(
    ("value", "mode", "name"),
    [
        (None, "auto", None),
        ("auto", "auto", None),
        ("none", "none", None),
        ("required", "required", None),
        ("forecast", "required", "forecast"),
        (forecast, "required", "forecast"),
        (auto, "required", "auto"),
        (counted.up, "required", "up"),
        (Place, "required", "Place"),
        (TOOLS[4], "required", "given"),
        ({"type": "function", "function": {"name": "auto"}}, "required", "auto"),
        ({"type": "function", "name": "auto"}, "required", "auto"),
        ({"type": "function", "name": "flat"}, "required", "flat"),
    ],
    ids=named,
)
def test_a_choice(value: object, mode: str, name: str | None) -> None:
    choice = tool_choice_of(value, TOOLS)
    assert (choice.mode, choice.name) == (mode, name)


@pytest.mark.parametrize(
    ("value", "place", "message"),
    [
        ("nothing", "tool_choice", '"auto", "none", "required", or one of the tools: auto, forecast, up'),
        ("Auto", "tool_choice", "Auto"),
        (later, "tool_choice", "later"),
        (Counter().up, "tool_choice", "up"),
        (5, "tool_choice", "5"),
        (True, "tool_choice", "True"),
        ({}, "tool_choice.type", '"function"'),
        ({"type": "auto"}, "tool_choice.type", "given as a string"),
        ({"type": "allowed_tools", "mode": "auto"}, "tool_choice.type", "allowed_tools"),
        ({"type": "function"}, "tool_choice.function", "name"),
        ({"type": "function", "function": {}}, "tool_choice.function.name", "auto"),
        ({"type": "function", "function": {"name": "later"}}, "tool_choice.function.name", "later"),
        ({"type": "function", "function": {"name": 5}}, "tool_choice.function.name", "auto"),
        ({"type": "function", "name": "later"}, "tool_choice.name", "later"),
        ({"type": "function", "name": "auto", "more": 1}, "tool_choice.more", "name"),
    ],
    ids=named,
)
def test_what_chooses_no_tool_is_refused(value: object, place: str, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message) as caught:
        tool_choice_of(value, TOOLS)
    assert caught.value.field == place


def test_choices_without_tools() -> None:
    assert tool_choice_of("auto", ()) == tool_choice_of(None, ()) == ToolChoice()
    assert tool_choice_of("none", ()) == ToolChoice("none")
    for value in ("required", "forecast", forecast):
        with pytest.raises(InvalidRequestError, match="tool_choice"):
            tool_choice_of(value, ())
