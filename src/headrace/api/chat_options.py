"""`chat_options`: checks the options that only chats have: tools, and variables of the chat template."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from types import NoneType
from typing import Any, cast

from headrace.chat.options import ChatOptions
from headrace.values.errors import InvalidRequestError

__all__ = ["CHAT_OPTIONS", "TEMPLATE_VARIABLES", "chat_options"]

CHAT_OPTIONS = ("tools", "tool_choice", "parallel_tool_calls", "continue_final_message", "template_kwargs")
# Variables of the chat template that headrace sets itself.
TEMPLATE_VARIABLES = (
    "add_generation_prompt",
    "bos_token",
    "continue_final_message",
    "eos_token",
    "messages",
    "self",
    "tools",
)


def chat_options(overrides: Mapping[str, Any]) -> tuple[Callable[[], ChatOptions], dict[str, Any]]:
    """Separate the chat options from the other overrides.

    Returns:
        A function that makes the `ChatOptions`, and the other overrides. It is a function because describing tools
        takes milliseconds, which only the thread that makes the prompt should spend.
    """
    others = dict(overrides)
    given = {name: others.pop(name) for name in CHAT_OPTIONS if name in others}
    for name in ("parallel_tool_calls", "continue_final_message"):
        if type(given.get(name, False)) is not bool:
            raise InvalidRequestError(name, given[name], "True or False")
    template_kwargs = cast("object", given.get("template_kwargs"))
    if not isinstance(template_kwargs, (Mapping, NoneType)):
        raise InvalidRequestError("template_kwargs", template_kwargs, "a mapping from names to values, or None")
    for name in cast("Mapping[object, object]", template_kwargs or {}):
        if not isinstance(name, str) or name in TEMPLATE_VARIABLES:
            allowed = f"names of variables, except {', '.join(TEMPLATE_VARIABLES)}"
            raise InvalidRequestError("a name in template_kwargs", name, allowed)
    options = ChatOptions(
        is_parallel=given.get("parallel_tool_calls", True),
        continues=given.get("continue_final_message", False),
        template_kwargs=dict(cast("Mapping[str, Any]", template_kwargs or {})),
    )
    tools, choice = given.get("tools"), given.get("tool_choice")
    if tools is None and choice is None:
        return lambda: options, others
    if isinstance(tools, list):  # copied, because the caller may change the list later
        tools = list(cast("list[object]", tools))
    return partial(_with_tools, options, tools, choice), others


def _with_tools(options: ChatOptions, given: object, choice: object) -> ChatOptions:
    from headrace.chat.tool_choice import tool_choice_of
    from headrace.chat.tools import tools_of

    tools = tools_of(given)
    chosen = tool_choice_of(choice, tools)
    return dataclasses.replace(options, tools=tools, choice=chosen.mode, named=chosen.name)
