"""The formats in which models write tool calls. `format_of` finds a model's format by its chat template."""

from __future__ import annotations

from headrace.values.output_format import ToolFormat

__all__ = ["HERMES", "format_of"]

# <tool_call>
# {"name": "get_weather", "arguments": {"city": "Oslo"}}
# </tool_call>
HERMES = ToolFormat(
    trigger="<tool_call>",
    head='{"name": "',
    middle='", "arguments": ',
    tail="}",
    separator="\n</tool_call>\n<tool_call>",
    closer="\n</tool_call>",
)
# [TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Oslo"}}, {"name": ...}]
_MISTRAL = ToolFormat(
    trigger="[TOOL_CALLS]",
    lead="[",
    head='{"name": "',
    middle='", "arguments": ',
    tail="}",
    separator=", ",
    closer="]",
    id_length=9,  # Mistral's template refuses ids of any other length
)
# [TOOL_CALLS]get_weather[ARGS]{"city": "Oslo"}
_MISTRAL_ARGS = ToolFormat(
    trigger="[TOOL_CALLS]", head="", middle="[ARGS]", tail="", separator="[TOOL_CALLS]", id_length=9
)
# {"name": "get_weather", "parameters": {"city": "Oslo"}}
# A call has no tag, so the trigger is the first part of its JSON, up to the name. It counts only at the start of an
# answer.
_LLAMA = ToolFormat(trigger='{"name": "', head="", middle='", "parameters": ', tail="}", is_leading=True)


def format_of(template: str) -> ToolFormat | None:
    """Returns the tool format of a chat template; None if the template is unknown or does not support tools."""
    if "tools" not in template:
        return None
    if "<tool_call>" in template and '"arguments"' in template and "<tool_calls>" not in template:
        return HERMES
    if "[TOOL_CALLS]" in template:
        return _MISTRAL_ARGS if "[ARGS]" in template else _MISTRAL
    # Llama's template asks for calls in these words. Other templates list tools in similar words.
    if '{"name": function' in template and '"parameters": ' in template:
        return _LLAMA
    return None
