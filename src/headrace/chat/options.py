"""`ChatOptions`: the options of a chat besides messages and settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.chat.tool import Tool

__all__ = ["NO_OPTIONS", "ChatOptions"]


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """The options of a chat besides messages and settings.

    Attributes:
        tools: the tools that the model may call.
        choice: "auto" (the model decides), "none", or "required" (it has to call a tool).
        named: name of the one tool that has to be called; None for any.
        is_parallel: whether one answer may have several calls.
        continues: whether the answer continues the last message, which is an assistant's.
        template_kwargs: more variables for the chat template.
    """

    tools: tuple[Tool, ...] = ()
    choice: str = "auto"
    named: str | None = None
    is_parallel: bool = True
    continues: bool = False
    template_kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def offered(self) -> tuple[Tool, ...]:
        """The tools that may be called."""
        if self.named is not None:
            return tuple(tool for tool in self.tools if tool.name == self.named)
        return () if self.choice == "none" else self.tools


NO_OPTIONS = ChatOptions()
