"""Early stopping: four ways to end a generation before `max_tokens`. Each takes effect within one step of the model.

Run it: `python examples/early_stopping.py [model]`
"""

from __future__ import annotations

import re
import sys

from headrace import Model, StreamConfig, Token

# `generate_stream` continues a prompt; `chat_stream` would answer it.
PROMPT = "Rivers of Europe:\n- the Rhine\n- the Danube\n"


def after_three_items(model: Model) -> str:
    """Leave the loop, which ends the generation and frees its memory."""
    text = ""
    for token in model.generate_stream(PROMPT):
        text += token.text
        # Search the whole text and not the last token: the pattern may span two tokens.
        if len(re.findall(r"^- .*\n", text, re.MULTILINE)) == 3:
            break
    return text


def after_the_first_sentence(model: Model) -> str:
    """Return False from the callback of `generate_streaming`. The call returns a result with counts and times."""
    text = ""

    def goes_on(token: Token) -> bool:
        nonlocal text
        text += token.text
        return not re.search(r"[.!?]\s", text)

    result = model.generate_streaming("The sea is", 200, goes_on)
    print(f"[{result.finish_reason} after {result.metrics.latency_ms:.0f} ms]")
    return result.text


def before_a_string(model: Model) -> str:
    """Give the engine strings to stop at. It emits no character of them."""
    prompt = "Q: What is the capital of Spain?\nA: Madrid\nQ: What is the capital of France?\nA:"
    result = model.generate(prompt, stop_sequences=["\n", "Q:"])
    print(f"[{result.finish_reason}: {result.stop_sequence!r}]")
    return result.text


def when_told_to(model: Model) -> str:
    """Call `cancel()` from any thread. The loop still gets the tokens generated so far, and ends without an error."""
    text = ""
    stream = model.generate_stream("Once upon a time", buffer_size=4)
    for token in stream:
        text += token.text
        if token.index == 20:
            stream.cancel()
    print(f"[{stream.finish_reason}: {stream.tokens_generated()} tokens]")
    return text


def main(ref: str = "smollm2") -> None:
    with Model.load(ref, config=StreamConfig(max_tokens=200, temperature=0)) as model:
        for example in (after_three_items, after_the_first_sentence, before_a_string, when_told_to):
            print(f"--- {example.__name__}")
            print(example(model).strip(), end="\n\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
