"""The JSON Schema Test Suite: what is accepted is kept to the letter, and what is not is refused by name."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from headrace.structured.compiler import Grammar
from headrace.values.errors import InvalidRequestError
from structured.suite.walk import accepts, grammars, sample

ROOT = Path(__file__).parents[3]
# The set-up unpacks the suite there, out of the source package of the jsonschema that is installed.
SUITE = ROOT / ".venv" / "json-schema" / "json" / "tests" / "draft2020-12"
FILES = sorted(str(path.relative_to(SUITE)) for path in SUITE.rglob("*.json"))
# As README.md has it. A change of these is news.
NUM_SCHEMAS, NUM_ACCEPTED = 438, 186
NUM_SAMPLES = 5

GRAMMARS = grammars()


@dataclass(frozen=True)
class Case:
    """A schema of the suite, with values that fit it and values that do not."""

    description: str
    schema: Any
    tests: list[dict[str, Any]]


def cases(file: str) -> list[Case]:
    read = json.loads((SUITE / file).read_text("utf-8"))
    return [Case(one["description"], one["schema"], one["tests"]) for one in read]


def compiled(case: Case) -> Grammar | InvalidRequestError:
    try:
        return GRAMMARS.json_schema(case.schema)
    except InvalidRequestError as error:
        return error


def spellings(value: Any) -> set[str]:
    """The ways in which programs write a value."""
    orders: Iterator[Any] = iter([value])
    if isinstance(value, dict) and len(value) <= 4:
        orders = (dict(order) for order in itertools.permutations(value.items()))
    styles: list[dict[str, Any]] = [{}, {"separators": (",", ":")}, {"sort_keys": True}, {"indent": 2}]
    written = {json.dumps(one, **style, ensure_ascii=ascii_) for one in orders for style in styles for ascii_ in (0, 1)}
    return {text for text in written if not re.search("[\ud800-\udfff]", text)}


def keywords(schema: Any) -> set[str]:
    """All keys in a schema."""
    if isinstance(schema, dict):
        return set(schema).union(*map(keywords, schema.values()))
    return set().union(*map(keywords, schema)) if isinstance(schema, list) else set()


def test_the_suite_is_there() -> None:
    assert len(FILES) > 60, f"there are {len(FILES)} files in {SUITE}; make test sets it up"


@pytest.mark.parametrize("file", FILES)
def test_what_is_refused_is_named(file: str) -> None:
    for case in cases(file):
        error = compiled(case)
        if isinstance(error, InvalidRequestError):
            assert error.field == "json_schema"
            # The value that is shown does not count as a name.
            said = re.sub(r"\): .*?; allowed|json_schema is .*?, which", "", str(error), flags=re.DOTALL)
            named = {word for word in keywords(case.schema) if word in said}
            assert named or "nsatisfiable" in said or "nothing fits" in said, (case.description, str(error))


@pytest.mark.parametrize("file", FILES)
def test_samples_fit_their_schema(file: str) -> None:
    for case in cases(file):
        grammar = compiled(case)
        if isinstance(grammar, InvalidRequestError):
            continue
        validator = Draft202012Validator(case.schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
        words = [word.encode() for word in re.findall(r"[a-z]{3,}", json.dumps(case.schema))]
        for seed in range(NUM_SAMPLES):
            text = sample(grammar, random.Random(seed), words)
            problems = [error.message for error in validator.iter_errors(json.loads(text))]
            assert not problems, (case.description, text, problems)


@pytest.mark.parametrize("file", FILES)
def test_what_does_not_fit_cannot_be_written(file: str) -> None:
    for case in cases(file):
        grammar = compiled(case)
        if isinstance(grammar, InvalidRequestError):
            continue
        for test in case.tests:
            for text in () if test["valid"] else spellings(test["data"]):
                assert not accepts(grammar, text), (case.description, test["description"], text)


def test_the_share_that_is_accepted() -> None:
    every = [case for file in FILES for case in cases(file)]
    accepted = [(case, made) for case in every if isinstance(made := compiled(case), Grammar)]
    assert (len(every), len(accepted)) == (NUM_SCHEMAS, NUM_ACCEPTED)
    for page in ("README.md", "docs/output.md"):
        said = re.search(r"(\d+) of (?:the|its) (\d+) schemas", (ROOT / page).read_text())
        assert said is not None
        assert said.groups() == (str(NUM_ACCEPTED), str(NUM_SCHEMAS)), page
    # Not all that fits can be written: keys come in the order of the schema, for one. It must not become little.
    valid = [(made, test["data"]) for case, made in accepted for test in case.tests if test["valid"]]
    written = sum(any(accepts(made, text) for text in spellings(value)) for made, value in valid)
    print(f"{written} of {len(valid)} values that fit can be written")
    assert written > 0.9 * len(valid)
