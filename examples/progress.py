"""Progress: bars for reading the prompt and writing the answer, and the speed, drawn with rich.

Run it: `python examples/progress.py [model]`
"""

from __future__ import annotations

import sys

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from headrace import Model, TokenStream

# Long enough to watch the prompt being read.
ARTICLE = """
A lighthouse is a tower with a strong lamp at its top. It warns ships of rocks and shallow water, and tells sailors
where they are. The oldest that is known stood at Alexandria; it was built about 280 BC, was more than 100 metres high,
and burned wood. Later lamps burned oil, then gas, and today they are electric. A lens that Augustin Fresnel designed in
1822 bundles their light into a beam that can be seen from more than 30 kilometres away. Each lighthouse flashes in a
rhythm of its own, by which it is known at night; by day it is known by its colours. Keepers once lived in them, to trim
the wick and wind the clockwork. Nearly all lighthouses now work by themselves.
"""
MAX_TOKENS = 60


def view(stream: TokenStream, text: str) -> Group:
    """Return two bars and the text so far. Any thread may read the stream's figures at any time."""
    usage = stream.usage
    first = stream.time_to_first_token_ms
    speed = "" if first is None else f"{stream.tokens_per_second():.1f} tokens/s, the first after {first:.0f} ms"
    bars = Progress("{task.description}", BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
    bars.add_task("reading", total=usage.prompt_tokens, completed=stream.prefilled_tokens, note="")
    bars.add_task("writing", total=MAX_TOKENS, completed=stream.tokens_generated(), note=speed)
    return Group(bars, Text(text))


def main(ref: str = "smollm2") -> None:
    with Model.load(ref) as model:
        question = f"Summarize this text in one sentence.\n{ARTICLE}"
        stream = model.chat_stream([{"role": "user", "content": question}], max_tokens=MAX_TOKENS)
        text = ""
        # rich draws the view in a thread of its own, also while the loop waits for the first token.
        with Live(get_renderable=lambda: view(stream, text), refresh_per_second=10):
            for token in stream:
                text += token.text

        result = stream.result()
        print(f"\n{result.usage.prompt_tokens} tokens read in {result.metrics.prefill_ms / 1000:.1f} s")
        print(f"{result.tokens_used} tokens written in {result.metrics.decode_ms / 1000:.1f} s: {result.finish_reason}")


if __name__ == "__main__":
    main(*sys.argv[1:])
