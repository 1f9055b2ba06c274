"""`Effort`: how much a model should think. `effort_overrides` turns it into settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from headrace.chat.thinking import tags_of
from headrace.server.http.errors import ApiError
from headrace.server.openai.overrides import Overrides
from headrace.server.openai.sampling import Sampling

__all__ = ["Effort", "effort_overrides"]

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]


def effort_overrides(
    effort: Effort | None, place: str, body: Sampling, template: str | None, variables: Mapping[str, Any] | None = None
) -> Overrides:
    """Returns the settings for the reasoning effort, and the variables of the chat template.

    The effort "none" closes a thought before its first word. Other efforts are passed to the chat template, which
    alone knows their meaning. They are refused where the template does not use them.

    Args:
        effort: the effort.
        place: the name of the parameter that gives it.
        body: the request.
        template: the model's chat template.
        variables: `chat_template_kwargs`.

    Raises:
        ApiError: the template does not use efforts, or another parameter contradicts this one.
    """
    given = dict(variables or {})
    settings: dict[str, Any] = {}
    if effort is not None:
        other = "chat_template_kwargs" if "reasoning_effort" in given else "thinking_budget"
        if "reasoning_effort" in given or (effort == "none" and body.thinking_budget not in (None, 0)):
            message = f"{place} is {json.dumps(effort)}, but {other} says something else; allowed: one of the two"
            raise ApiError(400, message, param=place, code="invalid_value")
        if effort == "none":
            can_think = body.thinking_tags is not None or tags_of(template or "") is not None
            if can_think:
                settings["thinking_budget"] = 0
        elif "reasoning_effort" not in (template or ""):
            message = (
                f"{place} is {json.dumps(effort)}, which means nothing to this model's chat template; "
                'allowed: "none"; or limit the thought with thinking_budget'
            )
            raise ApiError(400, message, param=place, code="unsupported_parameter")
        else:
            given["reasoning_effort"] = effort
    if given:
        settings["template_kwargs"] = given
    return Overrides(settings, {"template_kwargs": "chat_template_kwargs"})
