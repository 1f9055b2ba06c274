"""`Grammars`: compiles JSON schemas, regular expressions and grammars with llguidance.

A compiled `Grammar` is shared by streams. Each stream has a `Matcher`, which masks the tokens that may not come next.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.gbnf_to_lark import GbnfToLarkError, gbnf_to_lark
from numpy.typing import NDArray

from headrace.structured.grammar_tokenizer import make_tokenizer
from headrace.structured.schema_reader import checked_schema
from headrace.values.errors import GenerationError, InvalidRequestError, shortened
from headrace.values.vocabulary import TokenTable

__all__ = ["Grammar", "Grammars", "Matcher"]

_MAX_KEPT = 32  # compiled grammars; each takes from a few KB to some MB
# White space between two lexemes of JSON: none, a blank, or a new line and an indentation. Where any amount is
# allowed, small models pad for ever.
_SPACE = r"\x20|\n[\x20\t]{0,32}"
# Strings cannot have \uXXXX: a key spelled with it could escape its schema, a lone surrogate is no character, and small
# models count up in it for ever. Only control characters cannot be written without it.
_ESCAPES = 'nrbtf\\"'
_JSON_OPTIONS = {"whitespace_pattern": _SPACE, "json_allowed_escapes": _ESCAPES}
# With these limits a text compiles in about a second, or is refused.
_MAX_CHARACTERS = 50_000
# Signs that nest, that define a rule, and that combine automata. Each of the last multiplies the states.
_MAX_SIGNS = {"([{": 1000, ":": 300, "&~": 10}
_NUM_PROBED = 3  # tokens
# Our words for llguidance's errors that quote its internals; the key is a part of its message.
_MESSAGES = {
    "EngineClosedError": "the model was closed",
    "panic": "llguidance failed because of a bug in it",
    "NoExtension": "nothing fits it",
    "Regex is empty": "pattern: no text of an allowed length fits all patterns",
    "patternProperty": "patternProperties: more than one could match a key",
    "oneOf constraints": "oneOf: more than one of its schemas could fit a value",
    "regex is empty": "pattern: it takes too long to find out whether any text fits",
}
_JSON_IN_LARK = re.compile(r"%json\s*")


class Grammars:
    """Compiles the grammars of one model, and caches the most recent ones.

    Any thread may call any method. The engine thread should not, since compiling is slow.

    Args:
        make_tokenizer: makes llguidance's tokenizer; called once, when the first grammar is compiled.
        n_vocab: size of the model's vocabulary, in tokens.
    """

    def __init__(self, make_tokenizer: Callable[[], LLTokenizer], n_vocab: int) -> None:
        self._make_tokenizer = make_tokenizer
        self._n_vocab = n_vocab
        self._tokenizer: LLTokenizer | None = None
        self._tokenizer_lock = threading.Lock()
        self._kept: OrderedDict[str, Future[Grammar]] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def of(cls, vocabulary: TokenTable) -> Grammars:
        """Returns the grammars of the model with this vocabulary."""
        return cls(lambda: make_tokenizer(vocabulary), vocabulary.n_vocab)

    def json_schema(self, schema: object, field: str = "json_schema") -> Grammar:
        """Compile a JSON schema; the output is JSON that fits it.

        Args:
            schema: a JSON Schema, draft 2020-12: a mapping or a bool.
            field: the argument's name, for errors.

        Raises:
            InvalidRequestError: the value is no schema, or has a keyword that is not supported; the message names it.
        """
        options = {"json_schema": _with_options(schema, field)}
        return self._compiled(json.dumps({"grammars": [options]}), field, given=schema)

    def regex(self, pattern: str, field: str = "regex") -> Grammar:
        """Compile a regular expression of Rust's regex crate; the whole output has to match it.

        Raises:
            InvalidRequestError: the pattern cannot be read, matches nothing, or is too complex.
        """
        _check_text(pattern, field)
        return self._compiled(LLMatcher.grammar_from_regex(pattern), field, given=pattern)

    def grammar(self, text: str, field: str = "grammar") -> Grammar:
        """Compile a grammar in llguidance's dialect of Lark or, if `::=` defines its rules, in llama.cpp's GBNF.

        Raises:
            InvalidRequestError: the grammar cannot be read, matches nothing, or is too complex.
        """
        _check_text(text, field)
        return self._compiled(_checked_grammar(text, field), field, given=text)

    def lark(self, source: str, field: str) -> Grammar:
        """Compile a Lark grammar that headrace itself has written. Its size is not limited.

        Raises:
            InvalidRequestError: the grammar matches nothing, or is too complex.
        """
        return self._compiled(source, field, given=source)

    @staticmethod
    def json_schema_in_lark(schema: object, field: str = "json_schema") -> str:
        """Returns a schema as the body of a Lark rule: `args: %json {...}`.

        Raises:
            InvalidRequestError: as `json_schema` does.
        """
        return f"%json {json.dumps(_with_options(schema, field))}"

    def _compiled(self, source: str, field: str, *, given: object) -> Grammar:
        with self._lock:
            future = self._kept.get(source)
            if is_new := future is None:
                future = self._kept[source] = Future()
            self._kept.move_to_end(source)
            while len(self._kept) > _MAX_KEPT:
                self._kept.popitem(last=False)
        if is_new:
            try:
                future.set_result(
                    Grammar(self._tokenizer_or_make(), source, self._n_vocab, partial(self._forget, source))
                )
            except BaseException as error:
                self._forget(source)
                future.set_exception(error)
        try:
            return future.result()
        except _CompileError as error:
            raise _refusal(field, given, str(error)) from None

    def _forget(self, source: str) -> None:
        with self._lock:
            self._kept.pop(source, None)

    def _tokenizer_or_make(self) -> LLTokenizer:
        with self._tokenizer_lock:
            if self._tokenizer is None:
                self._tokenizer = self._make_tokenizer()
            return self._tokenizer


class Grammar:
    """A compiled grammar: immutable, shared by all streams that use it."""

    def __init__(self, tokenizer: LLTokenizer, source: str, n_vocab: int, forget: Callable[[], None]) -> None:
        """Compile the source. Use `Grammars` instead."""
        self._tokenizer = tokenizer  # kept, since its vocabulary must not be freed before the matchers
        self._n_vocab = n_vocab
        self._forget = forget
        self._matcher = LLMatcher(tokenizer, source, log_level=0, limits=_limits())
        if self._matcher.is_error():
            raise _CompileError(_readable(self._matcher.get_error()))
        if warnings := self._matcher.get_grammar_warnings():
            raise _CompileError(_readable(warnings[0]))
        # The first masks are the slow ones. They fail where nothing fits the grammar, or where it is too complex.
        try:
            probe = self.start()
            for _ in range(_NUM_PROBED):
                tokens = np.flatnonzero(probe.allowed())
                if probe.is_stopped or not len(tokens):
                    break
                probe.accept(int(tokens[0]))
        except GenerationError as error:
            raise _CompileError(str(error)) from None

    def start(self) -> Matcher:
        """Returns a matcher for one output."""
        return Matcher(self._matcher.deep_copy(), self._tokenizer.vocab_size, self._n_vocab, self._forget)


class Matcher:
    """The position of one output in its grammar. For one thread at a time."""

    __slots__ = ("_address", "_bits", "_forget", "_matcher", "_n_vocab", "_words")

    def __init__(self, matcher: LLMatcher, num_tokens: int, n_vocab: int, forget: Callable[[], None]) -> None:
        """Use `Grammar.start`."""
        self._matcher = matcher
        self._n_vocab = n_vocab
        self._forget = forget
        self._words = np.zeros((num_tokens + 31) // 32, np.uint32)
        self._bits = self._words.view(np.uint8)
        self._address = self._words.ctypes.data

    def allowed(self) -> NDArray[np.bool_]:
        """Returns a mask: for each token of the vocabulary, whether it may come next.

        End-of-generation tokens are allowed where the output may end.

        Raises:
            GenerationError: no token may come, or the mask would take more work than the limits allow.
        """
        self._matcher.unsafe_compute_mask_ptr(self._address, self._words.nbytes)
        if self._matcher.is_error():
            raise self._failure()
        return np.unpackbits(self._bits, count=self._n_vocab, bitorder="little").view(np.bool_)

    def accept(self, token: int) -> None:
        """Advance by a token.

        Raises:
            GenerationError: `allowed` does not show the token, or the limits are reached.
        """
        if not self._matcher.consume_token(token):
            raise self._failure()

    @property
    def is_stopped(self) -> bool:
        """Whether only the end may follow."""
        return self._matcher.is_stopped()

    @property
    def is_accepting(self) -> bool:
        """Whether the output may end here."""
        return self._matcher.is_accepting()

    def _failure(self) -> GenerationError:
        # Matchers of one grammar share the states of its lexer, and their limit. The next stream compiles it anew.
        self._forget()
        return GenerationError(f"the grammar does not let the output go on: {_readable(self._matcher.get_error())}")


class _CompileError(Exception):
    """llguidance refused a grammar; the message says why."""


def _limits() -> LLParserLimits:
    return LLParserLimits(
        initial_lexer_fuel=500_000,
        step_lexer_fuel=200_000,
        step_max_items=20_000,
        max_lexer_states=100_000,
        max_grammar_size=200_000,
        verbose_errors=False,
    )


def _with_options(schema: object, field: str) -> dict[str, object]:
    return {**checked_schema(schema, field), "x-guidance": _JSON_OPTIONS}


def _check_text(text: str, field: str) -> None:
    if len(text) > _MAX_CHARACTERS:
        raise InvalidRequestError(field, text, f"at most {_MAX_CHARACTERS} characters; it has {len(text)}")
    if "\0" in text:
        raise InvalidRequestError(field, text, "text without NUL characters")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(field, text, f"text without lone surrogates (character {error.start})") from None


def _checked_grammar(text: str, field: str) -> str:
    """Returns a given grammar in Lark, after checking its size and the JSON schemas in it."""
    source = _lark_of_gbnf(text, field) if "::=" in text else text
    pieces: list[str] = []  # text outside of schemas, then a schema, and so on
    at = 0
    while match := _JSON_IN_LARK.search(source, at):
        try:
            schema, end = json.JSONDecoder().raw_decode(source, match.end())
        except (ValueError, RecursionError):
            raise _refusal(field, text, f"what follows %json at character {match.start()} is not JSON") from None
        pieces += source[at : match.start()], Grammars.json_schema_in_lark(schema, field)
        at = end
    pieces.append(source[at:])
    outside = "".join(pieces[::2])
    for signs, most in _MAX_SIGNS.items():
        if sum(map(outside.count, signs)) > most:
            raise _refusal(field, text, f"it has more than {most} of the signs {' '.join(signs)}")
    return "".join(pieces)


def _lark_of_gbnf(text: str, field: str) -> str:
    try:
        return gbnf_to_lark(text)
    except GbnfToLarkError as error:
        raise _refusal(field, text, str(error)) from None
    except RecursionError:
        raise _refusal(field, text, "it is nested too deeply") from None
    except Exception as error:  # llguidance's converter raises plain exceptions, too
        raise _refusal(field, text, f"it cannot be read as GBNF: {error}") from None


def _refusal(field: str, value: object, why: str) -> InvalidRequestError:
    return InvalidRequestError(
        field, value, "what llguidance can compile", f"{field} is {shortened(value)}, which cannot be used: {why}"
    )


def _readable(message: str) -> str:
    """Returns llguidance's message in one line, without excerpts and internals."""
    lines = [line for line in message.splitlines() if line.strip()] or [""]
    text = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), lines[0])
    # An error in a regular expression is marked in the line below it: four blanks, then "^^^" under the place.
    place = next(
        (line.index("^") - 4 for line in lines if line.startswith("    ") and set(line.strip()) == {"^"}), None
    )
    text = re.sub(r"#/\$defs/\d+", "a $ref", text.replace(" <non-verbose/>", ""))
    text = next((ours for theirs, ours in _MESSAGES.items() if theirs in text), text)
    text = text if len(text) <= 200 else f"{text[:197]}..."
    return text if place is None else f"{text} (at character {place})"
