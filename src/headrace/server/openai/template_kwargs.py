"""`TemplateKwargs`: variables that a request sets for the chat template (`chat_template_kwargs`)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from headrace.api.chat_options import TEMPLATE_VARIABLES
from headrace.server.openai.json_schema import MAX_VALUES, check_size

__all__ = ["TemplateKwargs"]


def _check_variables(variables: dict[str, Any]) -> dict[str, Any]:
    check_size(variables, MAX_VALUES, "the variables")
    for name in variables:
        if name in TEMPLATE_VARIABLES:
            message = "the name {name} is taken; allowed: any but {taken}"
            raise PydanticCustomError("taken", message, {"name": name, "taken": ", ".join(TEMPLATE_VARIABLES)})
    return variables


TemplateKwargs = Annotated[dict[str, Any], AfterValidator(_check_variables)]
