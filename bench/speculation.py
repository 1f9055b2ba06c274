"""Tokens per second of one stream with speculation against without, in one interleaved run.

    python bench/speculation.py [--models gemma3-270m smollm2] [--rounds 5] [--tokens 160] [--json]

The tasks are of two kinds. Copying texts, editing code and continuing lists repeat earlier text; chats and stories do
not. Decoding is greedy. The two ways take turns. Printed are the median of the rounds' ratios, the lowest and the
highest, and the share of the guesses that were right. Times are from the first to the last token.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import asdict, dataclass

from headrace import Model
from headrace.engine.tuning.cores import available_cores

STORY = (
    "In the spring of 1871 the lighthouse at Karrow Point was kept by a widow named Elspeth Tarn and her two sons. "
    "Every evening she carried forty litres of oil up the ninety-one steps, trimmed the wick, and wrote the weather "
    "into a ledger bound in green cloth. The elder son, Magnus, repaired boats for the herring fleet. The younger, "
    "Iain, collected shells, feathers and the names of ships, and hoped to sail on one of them before he was sixteen. "
)
CODE = """def total_price(items, discount):
    total = 0
    for item in items:
        if item.quantity > 0:
            total += item.price * item.quantity
    if discount is not None:
        total -= total * discount.rate
    return round(total, 2)


def print_receipt(items, discount):
    for item in items:
        print(item.name, item.quantity, item.price)
    print("total", total_price(items, discount))
"""
PEOPLE = ["Ada Lovelace, London, 1815", "Alan Turing, London, 1912", "Grace Hopper, New York, 1906"]
PEOPLE += ["Edsger Dijkstra, Rotterdam, 1930", "Barbara Liskov, Los Angeles, 1939", "Donald Knuth, Milwaukee, 1938"]
ROWS = "\n".join(PEOPLE)
OBJECTS = "\n".join(
    json.dumps(dict(zip(("name", "city", "born"), person.split(", "), strict=True))) for person in PEOPLE
)

# The task's name, whether it copies, and its prompt. A base model continues the prompt, a chat model answers it.
COMPLETIONS = (
    ("copy a text", True, f"{STORY}\n\n{STORY}\n\n"),
    (
        "copy code",
        True,
        f"# Original file:\n{CODE}\n# The same file, copied:\n{CODE}\n# The same file, copied again:\n",
    ),
    ("edit code", True, f"# Before:\n{CODE}\n# After, where `items` is called `lines`:\ndef total_price(lines,"),
    ("list to JSON", True, f"{ROWS}\n\n{OBJECTS}\n\nThe same once more:\n\n{ROWS}\n\n"),
    ("story", False, "Once upon a time, in a small town by the sea,"),
    ("essay", False, "The history of the steam engine begins with"),
)
CHATS = (
    ("copy a text", True, f"Repeat this text word by word, and write nothing else:\n\n{STORY}"),
    ("copy code", True, f"Write out this code again, unchanged:\n\n{CODE}"),
    ("edit code", True, f"Rename `items` to `lines` in this code and write out all of it:\n\n{CODE}"),
    ("question", False, "Why is the sky blue? Explain it to a child."),
    ("advice", False, "What should I think of when I plan a garden?"),
    ("story", False, "Write a short story about a lighthouse."),
)


@dataclass
class Row:
    """The figures of one task. Speeds are in tokens per second."""

    model: str
    task: str
    copies: bool
    without: float
    speculating: float
    ratio: float
    lowest: float
    highest: float
    drafted: int
    accepted: int


def main() -> None:
    """Measure all models, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["gemma3-270m", "smollm2"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows: list[Row] = []
    for ref in options.models:
        with Model.load(ref, n_ctx=4096, n_threads=options.threads, max_streams=16) as model:
            teach(model)
            if not options.json:
                print(f"\n{ref}, threads: {options.threads}, {options.rounds} rounds of {options.tokens} tokens")
                print(f"{'task':<14}{'without':>9}{'with':>8}{'ratio':>8}{'(min to max)':>16}{'drafted':>9}{'true':>7}")
            for task, copies, text in COMPLETIONS if ref.startswith("gemma") else CHATS:
                row = measure(model, ref, task, copies, text, options)
                rows.append(row)
                if not options.json:
                    spread = f"{row.lowest:.3f} to {row.highest:.3f}"
                    share = f"{row.accepted / row.drafted:.0%}" if row.drafted else "-"
                    print(
                        f"{task:<14}{row.without:>9.1f}{row.speculating:>8.1f}{row.ratio:>8.3f}{spread:>16}"
                        f"{row.drafted:>9}{share:>7}",
                        flush=True,
                    )
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))


def measure(model: Model, ref: str, task: str, copies: bool, text: str, options: argparse.Namespace) -> Row:
    """Measure one task: rounds without and with speculation, in turn."""
    speeds: dict[str, list[float]] = {"off": [], "auto": []}
    before = model.metrics
    for _ in range(options.rounds):
        for speculation, found in speeds.items():
            found.append(decode(model, text, speculation, options.tokens))
    after = model.metrics
    ratios = [fast / slow for slow, fast in zip(speeds["off"], speeds["auto"], strict=True)]
    return Row(
        *(ref, task, copies, statistics.median(speeds["off"]), statistics.median(speeds["auto"])),
        *(statistics.median(ratios), min(ratios), max(ratios)),
        drafted=(after.drafted_tokens - before.drafted_tokens) // options.rounds,
        accepted=(after.accepted_tokens - before.accepted_tokens) // options.rounds,
    )


def decode(model: Model, text: str, speculation: str, tokens: int) -> float:
    """Return the tokens per second from the first token on. The prompt is cached after the first round."""
    settings = {"temperature": 0, "max_tokens": tokens, "ignore_eos": True, "timeout_ms": 0, "buffer_size": 10_000}
    if model.name.startswith("gemma"):
        stream = model.generate_stream(text, speculation=speculation, **settings)
    else:
        stream = model.chat_stream([{"role": "user", "content": text}], speculation=speculation, **settings)
    return stream.result().tokens_per_second


def teach(model: Model) -> None:
    """Let the engine measure the cost of steps with more rows. It makes no guesses before it knows them."""
    for n in (1, 2, 3, 4, 6, 8, 12, 16):
        settings = {"max_tokens": 40, "ignore_eos": True, "timeout_ms": 0, "speculation": "off", "buffer_size": 10_000}
        streams = [model.generate_stream(f"{number} and", **settings) for number in range(n)]
        for stream in streams:
            stream.result()


if __name__ == "__main__":
    main()
