"""Patterns of JSON schemas match as ECMA-262 says, or are refused."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from headrace.structured.pattern import PatternError, portable
from structured.suite.walk import accepts, grammars

GRAMMARS = grammars()


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("^a.b$", ["a b", "aéb"], ["a\rb", "a\u2028b", "a\nb"]),
        (r"^\d+$", ["0", "12"], ["٣"]),
        (r"^\w$", ["_"], ["é"]),
        (r"^\s$", [" ", "\ufeff"], ["\x85", "x"]),
        (r"^[\w.-]+$", ["a-b.c"], ["a b"]),
        (r"^[\s\S]$", ["a", "\n"], ["ab"]),
        ("^[[&&~~]$", ["[", "&", "~"], ["a"]),
        ("^{}$", ["{}"], [""]),
        ("b", ["abc", "b"], ["", "ac"]),
        ("^a|b$", ["ac", "cb"], ["ca", "bc"]),
        (r"^\u00e9\x41\/$", ["éA/"], ["e"]),
    ],
)
def test_a_pattern_is_that_of_ecma_262(pattern: str, matching: Sequence[str], other: Sequence[str]) -> None:
    grammar = GRAMMARS.json_schema({"type": "string", "pattern": pattern})
    for text in matching:
        assert accepts(grammar, json.dumps(text, ensure_ascii=False)), text
    for text in other:
        assert not accepts(grammar, json.dumps(text, ensure_ascii=False)), text


@pytest.mark.parametrize(
    "pattern",
    [
        *("(?!a)", "(?<=a)", "(?i)a", r"\b", r"\1", r"\p{L}", r"\cA", "a**", "a++", "*", "a{,3}", "a{2}{3}"),
        *("[", "[]", "[^]", r"[\d-z]", r"[a-\d]", "\\", r"\ud800"),
    ],
)
def test_a_pattern_that_engines_read_differently_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        portable(pattern)
