"""How long a constrained stream waits for its token mask at each token, by model and kind of constraint.

    python bench/grammar.py [--models smollm2 gemma3-270m] [--rounds 20]

For each case, the matcher walks through a text token by token, as a model would write it, in several rounds. "compile"
is the time to compile the grammar. "first round" is the longest mask of the first round, in which the lexer is still
being built. The mean, the 99th percentile and the longest mask are taken over all later rounds. All times are processor
times, which other processes hardly change: in microseconds, those of the tokenizer and of compiling in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np

from headrace.llama.model import LlamaModel
from headrace.store import resolve
from headrace.structured.compiler import Grammar, Grammars

PERSON = {"name": "Ada Lovelace", "age": 36, "tags": ["mathematics", "poetry", "engines"], "born": "1815-12-10"}
PERSON_SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0},
        "tags": {"type": "array", "items": {"type": "string"}},
        "born": {"type": "string", "format": "date"},
    },
    "required": ["name", "age", "tags", "born"],
    "additionalProperties": False,
}
SENTENCE = "The quick brown fox jumps over the lazy dog, again and again, until both of them are tired."
MATRIX = [[[1, 2], [3, 4]], [[5.5, 6], [7, -8e3]], [[], [9]]]
COLOURS = [f"{shade} {colour}" for shade in ("light", "dark", "pale") for colour in ("red", "green", "blue", "grey")]

Case = tuple[Callable[[Grammars], Grammar], str]


def schema_case(schema: object, value: object) -> Case:
    """Return a case of a schema and a value that fits it."""
    return lambda grammars: grammars.json_schema(schema), json.dumps(value, ensure_ascii=False)


CASES: dict[str, Case] = {
    "object": schema_case(PERSON_SCHEMA, PERSON),
    "any JSON": schema_case(True, PERSON),
    "string": schema_case({"type": "string"}, SENTENCE),
    "maxLength 10": schema_case({"type": "array", "items": {"type": "string", "maxLength": 10}}, SENTENCE.split()),
    "maxLength 100": schema_case({"type": "string", "maxLength": 100}, SENTENCE),
    "maxLength 10000": schema_case({"type": "string", "maxLength": 10_000}, SENTENCE),
    "minLength 50": schema_case({"type": "string", "minLength": 50}, SENTENCE),
    "pattern": schema_case({"type": "string", "pattern": "^[A-Z][a-z]*( [a-z]+)*$"}, "Words and blanks and no more"),
    "e-mail": schema_case({"type": "string", "format": "email"}, "ada.lovelace@analytical.engine.example.org"),
    "enum": schema_case({"type": "array", "items": {"enum": COLOURS}}, COLOURS[::3]),
    "nested arrays": schema_case({"type": "array", "items": {"type": "array", "items": {}}}, MATRIX),
    "regex": (
        lambda grammars: grammars.regex(r"[a-z ]+: [0-9]{1,5}(\.[0-9]+)? (kg|m|s)\."),
        "mass of it: 12.75 kg.",
    ),
}


def main() -> None:
    """Measure each model, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=["smollm2", "gemma3-270m"])
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    for ref in options.models:
        with LlamaModel.load(resolve(ref).path) as model:
            print(f"\n{ref}, {model.n_vocab} tokens")
            measure(model, options.rounds)


def measure(model: LlamaModel, rounds: int) -> None:
    """Measure a model, and print its table."""
    grammars = Grammars.of(model)
    begin = time.thread_time()
    grammars.regex("a")
    print(f"tokenizer: {(time.thread_time() - begin) * 1e3:.0f} ms")
    print(f"{'':16} {'compile':>8} {'first round':>12} {'mean':>7} {'p99':>7} {'longest':>8} {'accept':>7}  tokens")
    for name, (compiled, text) in CASES.items():
        begin = time.thread_time()
        grammar = compiled(grammars)
        compile_ms = (time.thread_time() - begin) * 1e3
        tokens = model.tokenize(text, add_special=False, parse_special=False)
        walks = [walk(grammar, tokens) for _ in range(rounds)]
        first = max(walks[0][0])
        masks = np.concatenate([walked[0] for walked in walks[1:]])
        accepts = np.concatenate([walked[1] for walked in walks[1:]])
        print(
            f"{name:16} {compile_ms:8.1f} {first:12.0f} {masks.mean():7.0f} {np.percentile(masks, 99):7.0f} "
            f"{masks.max():8.0f} {accepts.mean():7.1f}  {len(tokens)}"
        )


def walk(grammar: Grammar, tokens: list[int]) -> tuple[list[float], list[float]]:
    """Accept the tokens one by one; return the time of each mask and of each acceptance, in microseconds."""
    matcher = grammar.start()
    masks: list[float] = []
    accepts: list[float] = []
    for token in tokens:
        begin = time.thread_time()
        allowed = matcher.allowed()
        masks.append((time.thread_time() - begin) * 1e6)
        assert allowed[token], "the text does not fit the grammar"
        begin = time.thread_time()
        matcher.accept(token)
        accepts.append((time.thread_time() - begin) * 1e6)
    assert matcher.is_accepting
    return masks, accepts


if __name__ == "__main__":
    main()
