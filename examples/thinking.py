"""Thinking: the thought of a model arrives apart from its answer, while the model thinks.

Run it: `python examples/thinking.py [model]`
"""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console

from headrace import Model

QUESTION = "Why is the sky blue?"


def main(ref: str = "smollm2") -> None:
    messages = [{"role": "user", "content": QUESTION}]
    # "split" is the default; "hide" drops the thought, and "raw" leaves thought and tags in the text. The budget closes
    # a thought that is too long; the model then answers with what it has.
    settings: dict[str, Any] = {"thinking": "split", "thinking_budget": 200, "max_tokens": 500, "temperature": 0}
    if ref == "smollm2":
        # SmolLM2 was not trained to think, unlike Qwen3 or DeepSeek-R1, whose chat templates show their tags. But it
        # continues an answer that already begins with a thought.
        messages.append({"role": "assistant", "content": "<think>"})
        settings |= {"continue_final_message": True, "thinking_tags": ("<think>", "</think>")}
        settings |= {"thinking_budget": 16, "max_tokens": 80}

    console = Console(highlight=False)
    with Model.load(ref) as model:
        stream = model.chat_stream(messages, **settings)
        is_thinking = False
        for token in stream:
            for part in token.parts:  # one part, except for a last token that completes text of two kinds
                if is_thinking and part.kind == "text":
                    console.out("\n")
                is_thinking = part.kind == "thinking"
                console.out(part.text, end="", style="dim italic" if is_thinking else None)

        result = stream.result()  # result.thinking and result.text have the whole thought and answer
        console.out(f"\n\n{result.usage.thinking_tokens} of {result.tokens_used} tokens were thought")


if __name__ == "__main__":
    main(*sys.argv[1:])
