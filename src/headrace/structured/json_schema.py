"""Reads a JSON Schema strictly: what llguidance would ignore, or take more loosely than the schema means, is refused.

llguidance 1.9.1 ignores unknown keywords, and some known ones, in silence; each refusal below that is no mere matter
of form says what it does. What is left is written anew, with annotations dropped, references resolved, and keywords in
an order that does not matter to it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any, NoReturn, cast
from urllib.parse import unquote

from headrace.structured.pattern import PatternError, portable
from headrace.structured.schema_parts import (
    FRACTIONS,
    TYPES,
    can_end,
    conditions,
    in_place,
    inside,
    num_combined,
    parts,
    texts,
)
from headrace.values.errors import InvalidRequestError, shortened

__all__ = ["checked_schema"]

# Keywords that say something about a value, but do not restrict it. `x-...` are such, too, by custom.
_REMARKS_ON_VALUES = {"contentEncoding", "contentMediaType", "contentSchema", "default", "example", "examples"}
_REMARKS_ON_USE = {"deprecated", "discriminator", "externalDocs", "readOnly", "writeOnly", "xml"}
_ANNOTATIONS = {"$anchor", "$comment", "description", "title"} | _REMARKS_ON_VALUES | _REMARKS_ON_USE
# The drafts differ in keywords that are refused here, and in whether what stands beside a $ref counts: it does.
_DRAFTS = (
    "https://json-schema.org/draft/2020-12/schema",
    "https://json-schema.org/draft/2019-09/schema",
    "http://json-schema.org/draft-07/schema",
    "http://json-schema.org/draft-06/schema",
)
# What llguidance makes sure of in a string; but it takes every year for a leap year, and every minute for one with a
# leap second, so that these three are written out here. Years have four digits, and do not begin with 0.
_LEAP_YEAR = "(?:[1-9][0-9](?:0[48]|[2468][048]|[13579][26])|(?:[2468][048]|[13579][26])00)"
_DATE = (
    "(?:[1-9][0-9]{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    f"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP_YEAR}-02-29)"
)
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
# Pydantic's formats for one version of them.
_UUIDS = {
    f"uuid{version}": f"^[0-9a-f]{{8}}-[0-9a-f]{{4}}-{version}[0-9a-f]{{3}}-[89ab][0-9a-f]{{3}}-[0-9a-f]{{12}}$"
    for version in (1, 3, 4, 5, 6, 7, 8)
}
_PATTERNS = {"date": f"^{_DATE}$", "date-time": f"^{_DATE}T{_TIME}$", "time": f"^{_TIME}$", **_UUIDS}
_FORMATS = frozenset(("duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"))
# What is a remark to people or programs: in OpenAPI's registry of formats, and what Pydantic says of bytes and paths.
_REMARKS = frozenset(("binary", "double", "float", "int32", "int64", "password", "path"))

# No token spells these in a string, since they would need \uXXXX.
_UNWRITTEN = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f\ud800-\udfff]")

_MOST_VALUES = 20_000  # in the whole schema
_DEEPEST = 60  # llguidance's reader of JSON allows 128, and two or three are spent on one level of a schema
_MOST_ITEMS = 1000  # each is a node of the grammar
_MOST_CHARACTERS = 100_000
_MOST_PROPERTIES = 500  # of one object: each that may be left out adds some rules that are looked at in one step
_MOST_DEFINITIONS = 1000
_MOST_KEY_PATTERNS = 64  # each pair of them is compared
_MOST_CHOICES = 64  # each pair of them is compared, too,
_DEEPEST_CHOICE = 3  # by what tells them apart, at most so far inside
# What two schemas say of one value is one automaton for both. It doubles with each; 40 patterns took minutes.
_MOST_COMBINED = 12
_LARGEST_DIVISOR = 1000  # a state of the lexer for each remainder
_LARGEST = 2**53  # up to here whole numbers are exact, whoever reads them
_SMALLEST = 1e-9  # written out without an exponent


def checked_schema(schema: object, field: str) -> dict[str, Any]:
    """A schema that means to llguidance what the given one means.

    Args:
        schema: a mapping or a bool.
        field: what errors call it.

    Raises:
        InvalidRequestError: it is not a JSON Schema, or it holds something that is not supported; the keyword and its
            place are named.
    """
    return _Reader(schema, field).read()


_MISSING: Any = object()


def _close(schema: dict[str, Any]) -> None:
    """Take an object whose schema names some keys, and says nothing of others, to have no others.

    The schema allows any, but hardly ever means it, and a model that may make up keys does so for ever. Where several
    schemas speak of one object, each names but some of its keys, so that this is only done where none do.
    """
    names = schema.get("properties")
    if not names or "additionalProperties" in schema or "patternProperties" in schema:
        return
    if set(schema.get("required", ())) <= names.keys() and schema.get("minProperties", 0) <= len(names):
        schema["additionalProperties"] = False


class _Reader:
    def __init__(self, root: object, field: str) -> None:
        self._root = root
        self._field = field
        self._definitions: dict[str, Any] = {}
        self._names: dict[str, str] = {}  # of those, by the pointers of the references
        self._pending: list[str] = []
        self._num_key_patterns = 0
        self._checks: dict[str, Callable[[Any, str], Any]] = {
            "$ref": self._ref,
            "additionalProperties": self._schema,
            "allOf": self._schemas,
            "anyOf": self._schemas,
            "const": self._value,
            "enum": self._enum,
            "exclusiveMaximum": self._number,
            "exclusiveMinimum": self._number,
            "format": self._format,
            "items": self._schema,
            "maxItems": lambda value, place: self._count(value, place, _MOST_ITEMS),
            "maxLength": lambda value, place: self._count(value, place, _MOST_CHARACTERS),
            "maxProperties": lambda value, place: self._count(value, place, _MOST_ITEMS),
            "maximum": self._number,
            "minItems": lambda value, place: self._count(value, place, _MOST_ITEMS),
            "minLength": lambda value, place: self._count(value, place, _MOST_CHARACTERS),
            "minProperties": lambda value, place: self._count(value, place, _MOST_ITEMS),
            "minimum": self._number,
            "multipleOf": self._divisor,
            "oneOf": self._schemas,
            "pattern": self._pattern,
            "patternProperties": self._pattern_properties,
            "prefixItems": self._schemas,
            "properties": self._properties,
            "required": self._required,
            "type": self._type,
        }

    def read(self) -> dict[str, Any]:
        self._check_size()
        schema = self._schema(self._root, "#")
        while self._pending:
            pointer = self._pending.pop()
            self._definitions[self._names[pointer]] = self._schema(self._resolved(pointer), pointer)
        self._check_circles()
        self._check_end(schema)
        for part in (schema, *self._definitions.values()):
            self._check_combinations(part)
            self._settle_choices(part)
        objects = [one for part in (schema, *self._definitions.values()) for one in inside(part)]
        if all(num_combined(one) < 2 for one in objects):
            for one in objects:
                _close(one)
        read: dict[str, Any] = {} if schema is True else schema
        return read | ({"$defs": self._definitions} if self._definitions else {})

    def _schema(self, value: Any, place: str) -> Any:
        """A schema as it is to be compiled: a bool or a dict."""
        if isinstance(value, bool):
            return value
        schema = self._mapping(value, place, "a schema: an object or a bool")
        read: dict[str, Any] = {}
        for keyword, setting in schema.items():
            inner = f"{place}/{keyword}"
            if keyword in ("$schema", "$id") and value is self._root:
                self._check_head(keyword, setting, inner)
            elif keyword in ("$defs", "definitions"):
                self._named(setting, inner)
            elif keyword in self._checks:
                read[keyword] = self._checks[keyword](setting, inner)
            elif not self._is_remark(keyword, setting):
                self._refuse(place, f"{keyword} is not supported", schema, "a schema without it")
        self._write_format(read)
        self._check_count_of_properties(read, place)
        # llguidance takes in what stands before such a keyword as one schema and what comes after as another.
        last = ("const", "enum", "$ref", "allOf", "anyOf", "oneOf")
        order = [
            *(keyword for keyword in read if keyword not in last),
            *(keyword for keyword in last if keyword in read),
        ]
        return {keyword: read[keyword] for keyword in order}

    def _write_format(self, read: dict[str, Any]) -> None:
        name = read.get("format")
        if name in _REMARKS:
            del read["format"]
        elif name in _PATTERNS:
            del read["format"]
            if "pattern" in read:
                read["allOf"] = [{"pattern": read["pattern"]}, *read.get("allOf", ())]
            read["pattern"] = _PATTERNS[name]

    def _is_remark(self, keyword: str, setting: object) -> bool:
        if keyword == "uniqueItems":
            return setting is False
        return keyword in _ANNOTATIONS or (keyword.startswith("x-") and keyword != "x-guidance")

    def _check_head(self, keyword: str, setting: object, place: str) -> None:
        if not isinstance(setting, str):
            self._refuse(place, "it is no URI", setting, "a string")
        if keyword == "$schema" and setting.removesuffix("#") not in _DRAFTS:
            self._refuse(place, "the draft is not known", setting, f"{_DRAFTS[0]}, or an earlier one from draft-06 on")

    def _check_count_of_properties(self, read: Mapping[str, Any], place: str) -> None:
        # llguidance counts a key that comes twice as two, and a reader of JSON as one.
        fewest = read.get("minProperties", 0)
        required = len(read.get("required", ()))
        if fewest > required + 1:
            self._refuse(f"{place}/minProperties", "more than one key is open", fewest, f"at most {required + 1} here")

    def _mapping(self, value: Any, place: str, allowed: str) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            self._refuse(place, "it is of the wrong type", value, allowed)
        return cast("Mapping[str, Any]", value)

    def _list(self, value: Any, place: str, allowed: str) -> Sequence[Any]:
        if not isinstance(value, (list, tuple)):
            self._refuse(place, "it is of the wrong type", value, allowed)
        if not value:
            self._refuse(place, "it is empty", cast("object", value), allowed)
        return cast("Sequence[Any]", value)

    def _schemas(self, value: Any, place: str) -> list[Any]:
        schemas = self._list(value, place, "a list of schemas")
        return [self._schema(schema, f"{place}/{index}") for index, schema in enumerate(schemas)]

    def _properties(self, value: Any, place: str) -> dict[str, Any]:
        schemas = self._named(value, place)
        if len(schemas) > _MOST_PROPERTIES:
            self._refuse(place, "there are too many", schemas, f"at most {_MOST_PROPERTIES}")
        return schemas

    def _named(self, value: Any, place: str) -> dict[str, Any]:
        schemas = self._mapping(value, place, "an object of schemas")
        return {self._text(name, place): self._schema(schema, f"{place}/{name}") for name, schema in schemas.items()}

    def _pattern_properties(self, value: Any, place: str) -> dict[str, Any]:
        schemas = self._mapping(value, place, "an object of schemas")
        self._num_key_patterns += len(schemas)
        if self._num_key_patterns > _MOST_KEY_PATTERNS:
            self._refuse(place, "there are too many", schemas, f"at most {_MOST_KEY_PATTERNS} in the whole schema")
        return {
            self._pattern(pattern, place): self._schema(schema, f"{place}/{pattern}")
            for pattern, schema in schemas.items()
        }

    def _required(self, value: Any, place: str) -> list[str]:
        if isinstance(value, (list, tuple)) and not value:
            return []
        return list(dict.fromkeys(self._text(name, place) for name in self._list(value, place, "a list of names")))

    def _type(self, value: Any, place: str) -> list[str]:
        types = [value] if isinstance(value, str) else self._list(value, place, f"of {', '.join(TYPES)}")
        for one in types:
            if one not in TYPES:
                self._refuse(place, "there is no such type", one, f"of {', '.join(TYPES)}")
        return list(types)

    def _enum(self, value: Any, place: str) -> list[Any]:
        return [self._value(one, place) for one in self._list(value, place, "a list of values, not empty")]

    def _value(self, value: Any, place: str) -> Any:
        """A value that the output may be, in part or as a whole: it must be possible to write it."""
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return self._text(value, place)
        if isinstance(value, (int, float)):
            return self._number(value, place)
        if isinstance(value, Mapping):
            members = cast("Mapping[str, Any]", value)
            return {self._text(name, place): self._value(member, place) for name, member in members.items()}
        return [self._value(member, place) for member in cast("Sequence[Any]", value)]

    def _text(self, text: Any, place: str) -> str:
        if not isinstance(text, str):
            self._refuse(place, "it is of the wrong type", text, "a string")
        if any(
            (char < " " and char not in "\b\f\n\r\t") or char == "\x7f" or "\ud800" <= char < "\ue000" for char in text
        ):
            self._refuse(place, "the text has a character that is never written", text, "no control characters")
        return text

    def _number(self, value: Any, place: str) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self._refuse(place, "it is of the wrong type", value, "a number")
        if not (value == 0 or _SMALLEST <= abs(value) <= _LARGEST):
            allowed = f"0, or {_SMALLEST} to 2**53, or as much below 0"
            self._refuse(place, "its size makes it inexact", value, allowed)
        return value

    def _divisor(self, value: Any, place: str) -> float:
        number = self._number(value, place)
        # 0.01 is no binary fraction, so that readers who divide in binary find 0.29 not to be a multiple of it.
        if not 0 < number <= _LARGEST_DIVISOR or not float(number * FRACTIONS).is_integer():
            self._refuse(place, "not every reader would agree", value, f"1 to {_LARGEST_DIVISOR}, or a binary fraction")
        return number

    def _count(self, value: Any, place: str, most: int) -> int:
        number = self._number(value, place)
        if number < 0 or not float(number).is_integer() or number > most:
            self._refuse(place, "it is out of range", value, f"a whole number, 0 to {most}")
        return int(number)

    def _format(self, value: Any, place: str) -> str:
        known = _FORMATS | _REMARKS | _PATTERNS.keys()
        if not isinstance(value, str) or value not in known:
            self._refuse(place, "the format is not supported", value, f"of {', '.join(sorted(known))}")
        return value

    def _pattern(self, value: Any, place: str) -> str:
        try:
            return portable(self._text(value, place))
        except PatternError as error:
            self._refuse(place, str(error), value, "a pattern in the part of ECMA-262 that all engines share")

    def _ref(self, value: Any, place: str) -> str:
        if not isinstance(value, str) or not (value == "#" or value.startswith("#/")):
            self._refuse(place, "it is no pointer into the schema", value, "of the form '#/$defs/name'")
        if value not in self._names:
            if self._resolved(value) is _MISSING:
                self._refuse(place, "there is nothing at the place it points to", value, "a pointer to a schema")
            if len(self._names) == _MOST_DEFINITIONS:
                self._refuse(place, "there are too many references", value, f"to at most {_MOST_DEFINITIONS} places")
            self._names[value] = str(len(self._names))
            self._pending.append(value)
        return f"#/$defs/{self._names[value]}"

    def _resolved(self, pointer: str) -> Any:
        node = self._root
        for part in pointer.split("/")[1:]:
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(node, Mapping):
                node = cast("Mapping[str, Any]", node).get(key, _MISSING)
            elif isinstance(node, (list, tuple)) and key.isascii() and key.isdigit() and len(key) < 6:
                items = cast("Sequence[Any]", node)
                node = items[int(key)] if int(key) < len(items) else _MISSING
            else:
                return _MISSING
        return node

    def _check_circles(self) -> None:
        """Refuse a schema that is defined by itself, with nothing between."""
        pointers = {f"#/$defs/{name}": pointer for pointer, name in self._names.items()}
        inner = {ref: set(in_place(self._definitions[self._names[pointer]])) for ref, pointer in pointers.items()}
        while leaves := [ref for ref, refs in inner.items() if not refs & inner.keys()]:
            for ref in leaves:
                del inner[ref]
        if inner:
            self._refuse(f"{pointers[min(inner)]}", "$ref leads back to itself", self._root, "a schema that ends")

    def _check_end(self, schema: Any) -> None:
        """Refuse a schema that no value fits because each would have to hold another such, for ever."""
        ending: set[str] = set()
        while more := {
            ref
            for name, definition in self._definitions.items()
            if (ref := f"#/$defs/{name}") not in ending and can_end(definition, ending)
        }:
            ending |= more
        if not can_end(schema, ending):
            self._refuse("#", "nothing fits it", self._root, "a schema that some value fits")

    def _check_combinations(self, schema: Any) -> None:
        if not isinstance(schema, dict):
            return
        members = cast("dict[str, Any]", schema)
        if num_combined(members) < 2:
            for part in parts(members):
                self._check_combinations(part)
            return
        patterns, divisors, has_reference = conditions(members)
        for definition in self._definitions.values() if has_reference else ():
            more = conditions(definition)
            patterns |= more[0]
            divisors |= more[1]
        where = "where schemas are combined by allOf, anyOf, oneOf or what is beside a $ref"
        if len(patterns) > _MOST_COMBINED:
            self._refuse("#", "too many patterns", self._root, f"at most {_MOST_COMBINED} {where}")
        if math.lcm(*divisors) > _LARGEST_DIVISOR * FRACTIONS:
            allowed = f"a least common multiple of {_LARGEST_DIVISOR} at most, {where}"
            self._refuse("#", "multipleOf is too large", self._root, allowed)

    def _settle_choices(self, schema: Any) -> None:
        """Where no value can fit two of them, one of several is any of them.

        llguidance finds that out by itself, but not behind references, as Pydantic writes its discriminated unions.
        """
        if not isinstance(schema, dict):
            return
        members = cast("dict[str, Any]", schema)
        for part in parts(members):
            self._settle_choices(part)
        choices = members.get("oneOf", ())
        if "anyOf" in members or not 0 < len(choices) <= _MOST_CHOICES:
            return
        if all(self._exclude(one, other) for one, other in combinations(choices, 2)):
            members["anyOf"] = members.pop("oneOf")

    def _exclude(self, one: Any, other: Any, depth: int = 0) -> bool:
        """Whether it is plain that no value fits both."""
        one, other = self._behind(one), self._behind(other)
        if depth == _DEEPEST_CHOICE or not isinstance(one, dict) or not isinstance(other, dict):
            return False
        first, second = cast("dict[str, Any]", one), cast("dict[str, Any]", other)
        these, those = texts(first), texts(second)
        if these is not None and those is not None:
            return not these & those
        if first.get("type") != ["object"] or second.get("type") != ["object"]:
            return False
        required = set(first.get("required", ())) & set(second.get("required", ()))
        named = [(first.get("properties", {}).get(name), second.get("properties", {}).get(name)) for name in required]
        return any(self._exclude(*pair, depth + 1) for pair in named)

    def _behind(self, schema: Any) -> Any:
        """What a reference stands for, if there is nothing beside it."""
        while isinstance(schema, dict) and list(members := cast("dict[str, Any]", schema)) == ["$ref"]:
            schema = self._definitions[members["$ref"].removeprefix("#/$defs/")]
        return cast("Any", schema)

    def _check_size(self) -> None:
        """Bound the work, and the depth that everything below may recurse to."""
        left: list[tuple[Any, int]] = [(self._root, 0)]
        count = characters = 0
        while left:
            value, depth = left.pop()
            count += 1
            if isinstance(value, str):
                characters += len(value)
            elif isinstance(value, Mapping):
                mapping = cast("Mapping[object, Any]", value)
                left += ((one, depth + 1) for pair in mapping.items() for one in pair)
            elif isinstance(value, (list, tuple)):
                left += ((one, depth + 1) for one in cast("Sequence[Any]", value))
            elif not (value is None or isinstance(value, (bool, int, float))):
                self._refuse("#", "not every value is one of JSON", value, "what JSON has")
            if depth > _DEEPEST:
                self._refuse("#", "it is nested too deeply", self._root, f"at most {_DEEPEST} levels")
            if count > _MOST_VALUES or characters > _MOST_CHARACTERS:
                allowed = f"at most {_MOST_VALUES} values and {_MOST_CHARACTERS} characters"
                self._refuse("#", "it is too large", self._root, allowed)

    def _refuse(self, place: str, why: str, value: object, allowed: str) -> NoReturn:
        where = place if len(place) <= 80 else f"{place[:77]}..."
        message = f"{self._field} cannot be used: {why} (at {where}): {shortened(value)}; allowed: {allowed}"
        raise InvalidRequestError(self._field, value, allowed, message)
