"""Compiled grammars: what they allow, what is refused, and that nothing hostile takes long or ends the process."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import BYTES, PATIENCE, ids, started

from headrace.engine.scripted import ScriptedVocabulary
from headrace.structured.compiler import Grammars, Matcher
from headrace.structured.grammar_tokenizer import make_tokenizer
from headrace.values.errors import GenerationError, InvalidRequestError
from structured.suite.walk import END, accepts, grammars

GRAMMARS = grammars()


def walk(matcher: Matcher, text: str) -> Matcher:
    for token in ids(text):
        assert matcher.allowed()[token], bytes([token - 1])
        matcher.accept(token)
    return matcher


def test_a_regex_allows_what_matches_and_the_end_where_it_may_end() -> None:
    matcher = GRAMMARS.regex("ab+").start()
    assert not matcher.is_accepting
    assert np.flatnonzero(matcher.allowed()).tolist() == ids("a")
    walk(matcher, "ab")
    assert matcher.is_accepting
    assert not matcher.is_stopped
    assert np.flatnonzero(matcher.allowed()).tolist() == [END, *ids("b")]
    matcher.accept(END)


def test_nothing_but_the_end_follows_a_closing_brace() -> None:
    matcher = walk(GRAMMARS.json_schema({"type": "object"}).start(), "{}")
    assert matcher.is_stopped
    assert matcher.is_accepting
    assert np.flatnonzero(matcher.allowed()).tolist() == [END]


def test_a_mask_is_not_changed_by_the_next() -> None:
    matcher = GRAMMARS.regex("ab").start()
    first = matcher.allowed()
    before = first.copy()
    matcher.accept(ids("a")[0])
    assert (matcher.allowed() != first).any()
    assert (first == before).all()


def test_a_token_that_may_not_come_is_an_error() -> None:
    matcher = GRAMMARS.regex("ab").start()
    with pytest.raises(GenerationError, match="does not let the output go on"):
        matcher.accept(ids("b")[0])
    assert accepts(GRAMMARS.regex("ab"), "ab")


def test_compiled_once_for_all() -> None:
    fresh = grammars()
    first = fresh.json_schema({"type": "string"})
    assert fresh.json_schema({"type": "string", "title": "the same to the output"}) is first
    assert fresh.json_schema({"type": "integer"}) is not first


def test_the_oldest_are_forgotten() -> None:
    fresh = grammars()
    first = fresh.regex("x")
    kept = fresh.regex("kept")
    for number in range(40):
        fresh.regex(f"y{number}")
        assert fresh.regex("kept") is kept
    assert fresh.regex("x") is not first


def test_many_threads_compile_one_grammar_and_one_tokenizer() -> None:
    made: list[None] = []
    vocabulary = ScriptedVocabulary(BYTES)

    def make() -> Any:
        made.append(None)
        return make_tokenizer(vocabulary)

    fresh, barrier = Grammars(make, vocabulary.n_vocab), threading.Barrier(8)

    def compile_one() -> object:
        barrier.wait(PATIENCE)
        return fresh.json_schema({"type": "object", "properties": {"a": {"type": "string"}}})

    compiled = [future.result(PATIENCE) for future in [started(compile_one) for _ in range(8)]]
    assert len({id(one) for one in compiled}) == 1
    assert len(made) == 1


def test_a_refusal_is_not_kept() -> None:
    fresh = grammars()
    for _ in range(2):
        with pytest.raises(InvalidRequestError, match="unclosed group"):
            fresh.regex("(")


def test_streams_of_one_grammar_do_not_disturb_each_other() -> None:
    grammar = GRAMMARS.regex("(ab|cd)*")
    one, other = grammar.start(), grammar.start()
    walk(one, "a")
    walk(other, "c")
    assert np.flatnonzero(one.allowed()).tolist() == ids("b")
    assert np.flatnonzero(other.allowed()).tolist() == ids("d")


@pytest.mark.parametrize("text", ['{"a": 1}', '{"a":1}', '{\n    "a": 1\n}', '{\n\t"a" : 1 }'])
def test_white_space_that_programs_write(text: str) -> None:
    assert accepts(GRAMMARS.json_schema({"type": "object"}), text)


@pytest.mark.parametrize("text", ['{"a":  1}', '{\n\n"a": 1}', ' {"a": 1}', '{"a": 1} ', "{" + "\n" + " " * 40 + "}"])
def test_white_space_is_bounded(text: str) -> None:
    assert not accepts(GRAMMARS.json_schema({"type": "object"}), text)


def test_a_key_cannot_come_again_in_another_spelling() -> None:
    schema = {"properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "string"}, "type": "object"}
    grammar = GRAMMARS.json_schema(schema)
    assert accepts(grammar, '{"a":1,"b":"x"}')
    assert not accepts(grammar, '{"a":1,"a":"x"}')
    assert not accepts(grammar, '{"a":1,"\\u0061":"x"}')


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("start: [", "1("),
        ("start: nowhere", "nowhere"),
        ('root ::= "a', "Unexpected end of input at line 1"),
        ("root ::= nowhere", "nowhere"),
        ('start: %json {"not": {}}', "not is not supported (at #)"),
        ('start: %json // a remark\n {"not": {}}', "what follows %json"),
        ("start: start", "nothing fits it"),
        ("", "Empty grammar"),
        ("start: /a/\0", "NUL"),
        ("start: \ud800", "lone surrogates"),
    ],
)
def test_a_grammar_is_refused_by_name(text: str, named: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        GRAMMARS.grammar(text)
    assert caught.value.field == "grammar"
    assert named in str(caught.value)
    assert len(str(caught.value)) < 600


def test_lark_and_gbnf() -> None:
    lark = GRAMMARS.grammar('start: "x=" NUMBER\nNUMBER: /[0-9]+/')
    gbnf = GRAMMARS.grammar('root ::= "x=" number\nnumber ::= [0-9]+')
    for grammar in (lark, gbnf):
        assert accepts(grammar, "x=12")
        assert not accepts(grammar, "x=")


def test_a_schema_within_a_grammar_of_ours() -> None:
    arguments = Grammars.json_schema_in_lark({"properties": {"a": {"type": "integer"}}, "additionalProperties": False})
    source = f'start: "{{\\"name\\": \\"f\\", \\"arguments\\": " args "}}"\nargs: {arguments}\n'
    grammar = GRAMMARS.lark(source, "tools")
    assert accepts(grammar, '{"name": "f", "arguments": {"a": 1}}')
    assert not accepts(grammar, '{"name": "f", "arguments": {"a":  1}}')
    assert not accepts(grammar, '{"name": "f", "arguments": {"b": 1}}')


def test_a_schema_within_a_given_grammar_is_checked_too() -> None:
    grammar = GRAMMARS.grammar('start: "<" %json {"type": "integer", "title": "[[["} ">"')
    assert accepts(grammar, "<12>")
    with pytest.raises(InvalidRequestError, match="uniqueItems is not supported"):
        GRAMMARS.grammar('start: "<" %json {"uniqueItems": true} ">"')


# Each of these once took minutes, much memory, or the process with it, in some version of some reader of grammars.
HOSTILE: dict[str, tuple[str, str]] = {
    "many values": ("json_schema", '{"enum": [f"number {n}" for n in range(100_000)]}'),
    "many objects": ("json_schema", '{"enum": [{"a": n} for n in range(5_000)]}'),
    "deep": ("json_schema", 'reduce(lambda inner, _: {"items": inner}, range(10_000), {})'),
    "deep value": ("json_schema", '{"const": reduce(lambda inner, _: [inner], range(100_000), [])}'),
    "long": ("json_schema", '{"maxLength": 10**9}'),
    "long and matching": ("json_schema", '{"pattern": "^(abc)*$", "minLength": 99_998, "maxLength": 99_999}'),
    "many items": ("json_schema", '{"minItems": 10**9}'),
    "items of items": ("json_schema", 'reduce(lambda inner, _: {"items": inner, "maxItems": 1000}, range(20), {})'),
    "many properties": ("json_schema", '{"properties": {f"p{n}": {} for n in range(5_000)}}'),
    "key patterns": ("json_schema", '{"patternProperties": {f"^{n}x": {} for n in range(800)}}'),
    "both": ("json_schema", '{"allOf": [{"pattern": f"a{{{n}}}.*b"} for n in range(40)]}'),
    "both, by reference": (
        "json_schema",
        '{"$defs": {str(n): {"pattern": f"a{{{n}}}.*b", "$ref": f"#/$defs/{n + 1}"} for n in range(40)} '
        '| {"40": {}}, "$ref": "#/$defs/0"}',
    ),
    "references": (
        "json_schema",
        '{"$defs": {str(n): {"properties": {"a": {"$ref": f"#/$defs/{n + 1}"}, "b": {"$ref": f"#/$defs/{n + 1}"}}} '
        'for n in range(30)} | {"30": {}}, "allOf": [{"$ref": "#/$defs/0"}, {"$ref": "#/$defs/0"}]}',
    ),
    "divisors": ("json_schema", '{"allOf": [{"multipleOf": n} for n in (997, 991, 983, 977, 971)]}'),
    "quantifiers": ("regex", '"((a{1,1000}){1,1000}){1,1000}"'),
    "quantifiers in a schema": ("json_schema", '{"pattern": "^((.{1,1000}){1,1000}x){1,1000}$"}'),
    "doubling": ("regex", '"(a|b)*a(a|b){5000}"'),
    "brackets": ("regex", '"(" * 20_000 + ")" * 20_000'),
    "question marks": ("regex", '"a" + "?" * 40_000'),
    "a long regex": ("regex", '"a" * 10_000_000'),
    "brackets in Lark": ("grammar", "'start: ' + '(' * 900 + '\"a\"' + ')' * 900"),
    "brackets in GBNF": ("grammar", "'root ::= ' + '(' * 900 + '\"a\"' + ')' * 900"),
    "both, in Lark": ("grammar", '"start: T\\nT: " + " & ".join(f"/.*a{{{n}}}.*b/" for n in range(40))'),
    "terminals": ("grammar", '"start: T0\\n" + "\\n".join(f"T{n}: T{n+1} T{n+1}" for n in range(2_000))'),
    "rules": ("grammar", '"start: r0\\n" + "\\n".join(f"r{n}: r{n+1} r{n+1}" for n in range(250)) + "\\nr250: /a/"'),
    "repetitions": ("grammar", '\'start: (("a" "b"){1000,1000000}){1000,1000000}\''),
    "JSON in Lark": ("grammar", "'start: %json ' + '[' * 20_000"),
}

PROGRAM = """
import sys, time
from functools import reduce
sys.path.insert(0, sys.argv[1])
from structured.suite.walk import grammars
from headrace.values.errors import GenerationError, InvalidRequestError
made = grammars()
made.regex("a")
begin = time.thread_time()
try:
    matcher = getattr(made, sys.argv[2])(eval(sys.argv[3])).start()
    for _ in range(100):
        if matcher.is_stopped:
            break
        matcher.accept(int(matcher.allowed().nonzero()[0][-1]))
    outcome = "compiled"
except InvalidRequestError as error:
    outcome = f"refused: {len(str(error))}"
except GenerationError:
    outcome = "ended"
print(outcome, time.thread_time() - begin)
"""


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_hostile_is_soon_dealt_with(name: str) -> None:
    kind, source = HOSTILE[name]
    # In a process of its own: a stack that overflows ends it. The figure is the processor's time, not the clock's.
    arguments = [sys.executable, "-c", PROGRAM, str(Path(__file__).parents[1]), kind, source]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=4 * PATIENCE, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == ""
    *outcome, seconds = done.stdout.split()
    assert float(seconds) < 10, outcome
    if outcome[0] == "refused:":
        assert int(outcome[1]) < 600


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    fresh = grammars()
    with pytest.raises(InvalidRequestError):
        fresh.regex("(")
    matcher = fresh.regex("a{1,10}b").start()
    with pytest.raises(GenerationError):
        matcher.accept(ids("x")[0])
    assert capfd.readouterr() == ("", "")
