"""Compiles JSON schemas, regular expressions and grammars to what says which token may come next, with llguidance."""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from llguidance.gbnf_to_lark import GbnfToLarkError, gbnf_to_lark
from numpy.typing import NDArray

from headrace.structured.json_schema import checked_schema
from headrace.values.errors import GenerationError, InvalidRequestError, shortened
from headrace.values.vocabulary import TokenTable

__all__ = ["Grammar", "Grammars", "Matcher", "make_tokenizer"]

# How many compiled grammars are kept; one takes from a few KB to some MB.
_NUM_KEPT = 32
# White space that may stand between two lexemes of JSON: none, a blank, or a new line and an indentation. Where any
# amount is allowed, small models pad for ever.
_SPACE = r"\x20|\n[\x20\t]{0,32}"
# No \uXXXX in strings. A key could be spelled in two ways with it, and so take a value that the schema forbids; a
# lone surrogate is no character; and small models count up in it for ever. Every character but the control characters
# can be written as itself.
_ESCAPES = 'nrbtf\\"'
_JSON_OPTIONS = {"whitespace_pattern": _SPACE, "json_allowed_escapes": _ESCAPES}
# Bounds of what is given, so that it compiles in about a second, or is refused: characters, the signs without which
# nothing is nested or defined, and those that combine automata, each of which multiplies their states.
_LONGEST = 50_000
_MOST = {"([{": 1000, ":": 300, "&~": 10}
# A mask in which all tokens of text that hold no quote share a state is computed once for all of them. These are the
# classes of such tokens, by length, since a string with a bound tells them apart.
_SLICES = (
    r"[\x20\x0A\x0D\x09]+",
    *(rf'[^"\\\x00-\x1F\x7F]{{1,{length}}}' for length in (1, 2, 3, 4, 5, 6, 7, 8, 10, 15, 30)),
    r'[^"\\\x00-\x1F\x7F]+',
)


_NUM_PROBED = 3  # tokens
# What llguidance says with excerpts that no user wrote, or with its own options: in other words.
_WORDS = {
    "EngineClosedError": "the model was closed",
    "panic": "llguidance failed, which is a fault of its own",
    "NoExtension": "nothing fits it",
    "Regex is empty": "pattern: no text that is long or short enough fits all of them",
    "patternProperty": "patternProperties: more than one could match a key",
    "oneOf constraints": "oneOf: more than one of its schemas could fit a value",
    "regex is empty": "pattern: it takes too long to find out whether any text fits",
}
_JSON_IN_LARK = re.compile(r"%json\s*")


class Grammars:
    """The compiled grammars of one model. Every method may be called from any thread; none should be the engine's.

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
        """Those of a model."""
        return cls(lambda: make_tokenizer(vocabulary), vocabulary.n_vocab)

    def json_schema(self, schema: object, field: str = "json_schema") -> Grammar:
        """Output that is JSON, and fits a schema.

        Args:
            schema: a JSON Schema, draft 2020-12: a mapping or a bool.
            field: what errors call it.

        Raises:
            InvalidRequestError: it is not a schema, or has a keyword that is not supported, which is named.
        """
        options = {"json_schema": _with_options(schema, field)}
        return self._compiled(json.dumps({"grammars": [options]}), field, given=schema)

    def regex(self, pattern: str, field: str = "regex") -> Grammar:
        """Output that matches a regular expression as a whole, in the syntax of Rust's regex crate.

        Raises:
            InvalidRequestError: it cannot be read, matches nothing, or is too complex.
        """
        _check_text(pattern, field)
        return self._compiled(LLMatcher.grammar_from_regex(pattern), field, given=pattern)

    def grammar(self, text: str, field: str = "grammar") -> Grammar:
        """Output that fits a grammar: llguidance's dialect of Lark or, where `::=` defines its rules, llama.cpp's GBNF.

        Raises:
            InvalidRequestError: it cannot be read, matches nothing, or is too complex.
        """
        _check_text(text, field)
        return self._compiled(_checked_grammar(text, field), field, given=text)

    def lark(self, source: str, field: str) -> Grammar:
        """Output that fits a Lark grammar made by headrace itself: its size is not limited.

        Raises:
            InvalidRequestError: it matches nothing, or is too complex.
        """
        return self._compiled(source, field, given=source)

    @staticmethod
    def json_schema_in_lark(schema: object, field: str = "json_schema") -> str:
        """A schema as the body of a Lark rule: `args: %json {...}`.

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
            while len(self._kept) > _NUM_KEPT:
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
        """Compiles; use `Grammars`."""
        self._tokenizer = tokenizer  # its vocabulary must not be freed before the matchers
        self._n_vocab = n_vocab
        self._forget = forget
        self._matcher = LLMatcher(tokenizer, source, log_level=0, limits=_limits())
        if self._matcher.is_error():
            raise _CompileError(_readable(self._matcher.get_error()))
        if warnings := self._matcher.get_grammar_warnings():
            raise _CompileError(_readable(warnings[0]))
        # The first masks are the slow ones, and what shows that nothing fits, or that too many things do.
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
        """What says which tokens may come, for one output."""
        return Matcher(self._matcher.deep_copy(), self._tokenizer.vocab_size, self._n_vocab, self._forget)


class Matcher:
    """Where one output stands in its grammar. For one thread at a time."""

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
        """For each token of the vocabulary, whether it may come next; those that end it, where the output may end.

        Raises:
            GenerationError: no token may come, or it cannot be told within the limits.
        """
        self._matcher.unsafe_compute_mask_ptr(self._address, self._words.nbytes)
        if self._matcher.is_error():
            raise self._failure()
        return np.unpackbits(self._bits, count=self._n_vocab, bitorder="little").view(np.bool_)

    def accept(self, token: int) -> None:
        """Move on by a token that `allowed` showed.

        Raises:
            GenerationError: the token may not come here, or the limits are reached.
        """
        if not self._matcher.consume_token(token):
            raise self._failure()

    @property
    def is_stopped(self) -> bool:
        """Whether nothing but the end may follow."""
        return self._matcher.is_stopped()

    @property
    def is_accepting(self) -> bool:
        """Whether the output may end here."""
        return self._matcher.is_accepting()

    def _failure(self) -> GenerationError:
        # Copies share what the lexer has learnt so far, its limits too. The next stream gets a fresh grammar.
        self._forget()
        return GenerationError(f"the grammar does not let the output go on: {_readable(self._matcher.get_error())}")


def make_tokenizer(vocabulary: TokenTable) -> LLTokenizer:
    """llguidance's view of a vocabulary: the bytes that each token adds to the output, and how text becomes tokens."""
    return LLTokenizer(TokenizerWrapper(_Tokens(vocabulary)), eos_token=_ends(vocabulary), slices=list(_SLICES))


class _Tokens:
    """What llguidance asks of a tokenizer."""

    bos_token_id = None

    def __init__(self, vocabulary: TokenTable) -> None:
        self._vocabulary = vocabulary
        self._ids: dict[bytes, int] | None = None
        self._longest = 0
        special = dict.fromkeys(_ends(vocabulary), b"<end>")
        special |= {token: text.encode() for token, text in vocabulary.special_tokens.items()}
        self.eos_token_id = _ends(vocabulary)[0]
        self.special_token_ids = sorted(special)
        # A token that is no text cannot spell any, whatever it is called.
        self.tokens = [special.get(token) or vocabulary.piece(token) for token in range(vocabulary.n_vocab)]
        if not vocabulary.eog_tokens:
            self.tokens.append(b"<end>")

    def __call__(self, text: bytes | str) -> list[int]:
        """The tokens that the model would write a text with, where the grammar leaves no choice of text."""
        data = text.encode() if isinstance(text, str) else text
        # Some models put a blank before any text. It shows in no token but the first, which then is the line break's.
        for lead in (b"", b"\n"):
            tokens = self._tokenized(lead + data)
            num_lead = 1 if lead else 0
            if tokens[:num_lead] == self._tokenized(lead)[:num_lead] and self._bytes(tokens) == lead + data:
                return tokens[num_lead:]
        return self._spelt(data)

    def _tokenized(self, data: bytes) -> list[int]:
        try:
            return self._vocabulary.tokenize(data.decode(), add_special=False, parse_special=False)
        except InvalidRequestError:  # a NUL
            return []

    def _bytes(self, tokens: Sequence[int]) -> bytes:
        return b"".join(map(self._vocabulary.piece, tokens))

    def _spelt(self, data: bytes) -> list[int]:
        """The longest token that fits, then the next: for the few texts that the model's own way changes."""
        if self._ids is None:
            special = frozenset(self.special_token_ids)
            self._ids = {piece: token for token, piece in enumerate(self.tokens) if piece and token not in special}
            self._longest = max(map(len, self._ids), default=0)
        tokens: list[int] = []
        while data:
            length = next((n for n in range(self._longest, 0, -1) if data[:n] in self._ids), 0)
            if not length:
                raise GenerationError(f"no token of the vocabulary spells {shortened(data)}")
            tokens.append(self._ids[data[:length]])
            data = data[length:]
        return tokens


class _CompileError(Exception):
    """Why llguidance refused a grammar, in its words."""


def _ends(vocabulary: TokenTable) -> list[int]:
    # llguidance needs one; for a model without, it is a token that is not there.
    return sorted(vocabulary.eog_tokens) or [vocabulary.n_vocab]


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
    if len(text) > _LONGEST:
        raise InvalidRequestError(field, text, f"at most {_LONGEST} characters; it has {len(text)}")
    if "\0" in text:
        raise InvalidRequestError(field, text, "text without NUL characters")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(field, text, f"text without lone surrogates (character {error.start})") from None


def _checked_grammar(text: str, field: str) -> str:
    """A grammar in Lark, with the schemas in it checked."""
    source = _lark_of_gbnf(text, field) if "::=" in text else text
    read: list[str] = []
    at = 0
    while match := _JSON_IN_LARK.search(source, at):
        try:
            schema, end = json.JSONDecoder().raw_decode(source, match.end())
        except (ValueError, RecursionError):
            raise _refusal(field, text, f"what follows %json at character {match.start()} is no JSON") from None
        read += source[at : match.start()], Grammars.json_schema_in_lark(schema, field)
        at = end
    read.append(source[at:])
    own = "".join(read[::2])
    for signs, most in _MOST.items():
        if sum(map(own.count, signs)) > most:
            raise _refusal(field, text, f"it has more than {most} of the signs {' '.join(signs)}")
    return "".join(read)


def _lark_of_gbnf(text: str, field: str) -> str:
    try:
        return gbnf_to_lark(text)
    except GbnfToLarkError as error:
        raise _refusal(field, text, str(error)) from None
    except RecursionError:
        raise _refusal(field, text, "it is nested too deeply") from None
    except Exception as error:  # a reader of others, which raises plain exceptions too
        raise _refusal(field, text, f"it cannot be read as GBNF: {error}") from None


def _refusal(field: str, value: object, why: str) -> InvalidRequestError:
    return InvalidRequestError(
        field, value, "what llguidance can compile", f"{field} is {shortened(value)}, which cannot be used: {why}"
    )


def _readable(message: str) -> str:
    """llguidance's words in one line, without excerpts and internals."""
    lines = [line for line in message.splitlines() if line.strip()] or [""]
    text = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), lines[0])
    # A regular expression's error shows the place in the line above: four blanks, then "^^^".
    place = next(
        (line.index("^") - 4 for line in lines if line.startswith("    ") and set(line.strip()) == {"^"}), None
    )
    text = re.sub(r"#/\$defs/\d+", "a $ref", text.replace(" <non-verbose/>", ""))
    text = next((words for sign, words in _WORDS.items() if sign in text), text)
    text = text if len(text) <= 200 else f"{text[:197]}..."
    return text if place is None else f"{text} (at character {place})"
