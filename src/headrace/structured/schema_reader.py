"""`checked_schema`: reads a JSON Schema strictly, and refuses what llguidance would not enforce exactly.

llguidance 1.9.1 silently ignores unknown keywords, and some known ones. So each schema is written anew for it, without
annotations, with references resolved, and with keywords in the order that it needs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, cast
from urllib.parse import unquote

from headrace.structured.pattern import PatternError, portable
from headrace.structured.schema_choices import simplify_choices
from headrace.structured.schema_formats import FORMATS, IGNORED_FORMATS, PATTERNS
from headrace.structured.schema_parts import (
    FRACTIONS,
    TYPES,
    circular_references,
    conditions,
    finite_references,
    has_finite_value,
    num_combined,
    schemas_inside,
    subschemas,
)
from headrace.values.errors import InvalidRequestError, shortened

__all__ = ["checked_schema"]

# Keywords that describe a value and do not restrict it. By custom, `x-...` keywords do not either.
_REMARKS_ON_VALUES = {"contentEncoding", "contentMediaType", "contentSchema", "default", "example", "examples"}
_REMARKS_ON_USE = {"deprecated", "discriminator", "externalDocs", "readOnly", "writeOnly", "xml"}
_ANNOTATIONS = {"$anchor", "$comment", "description", "title"} | _REMARKS_ON_VALUES | _REMARKS_ON_USE
# The drafts differ in keywords that are refused here, and in whether the keywords beside a $ref count. Here they do.
_DRAFTS = (
    "https://json-schema.org/draft/2020-12/schema",
    "https://json-schema.org/draft/2019-09/schema",
    "http://json-schema.org/draft-07/schema",
    "http://json-schema.org/draft-06/schema",
)
# Characters that a JSON string can hold only as \uXXXX, which the grammar never allows.
_UNWRITABLE = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f\ud800-\udfff]")

_MAX_VALUES = 20_000  # in the whole schema
_MAX_DEPTH = 60  # llguidance's JSON parser allows 128 levels, and a level of a schema takes two or three
_MAX_ITEMS = 1000  # each is a node of the grammar
_MAX_CHARACTERS = 100_000
_MAX_PROPERTIES = 500  # of one object: each optional property adds rules that one step has to look at
_MAX_DEFINITIONS = 1000
_MAX_KEY_PATTERNS = 64  # each pair of them is compared
# The conditions on one value are compiled to one automaton, which doubles with each. 40 patterns took minutes.
_MAX_COMBINED = 12
_MAX_DIVISOR = 1000  # the lexer has a state for each remainder
_MAX_NUMBER = 2**53  # up to here every JSON parser reads whole numbers exactly
_MIN_NUMBER = 1e-9  # written out without an exponent

_MISSING: Any = object()


def checked_schema(schema: object, field: str) -> dict[str, Any]:
    """Returns a schema with which llguidance enforces the given one.

    Args:
        schema: a mapping or a bool.
        field: the argument's name, for errors.

    Raises:
        InvalidRequestError: the schema is no JSON Schema, or holds something that is not supported; the message names
            the keyword and its place.
    """
    return _SchemaReader(schema, field).read()


class _SchemaReader:
    """Reads one schema with all that it refers to."""

    def __init__(self, root: object, field: str) -> None:
        self._root = root
        self._field = field
        self._definitions: dict[str, Any] = {}  # schemas that references point to, by their new names
        self._names: dict[str, str] = {}  # the new names, by the pointers in the given schema
        self._pending: list[str] = []  # pointers whose schemas are not read yet
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
            "maxItems": lambda value, place: self._count(value, place, _MAX_ITEMS),
            "maxLength": lambda value, place: self._count(value, place, _MAX_CHARACTERS),
            "maxProperties": lambda value, place: self._count(value, place, _MAX_ITEMS),
            "maximum": self._number,
            "minItems": lambda value, place: self._count(value, place, _MAX_ITEMS),
            "minLength": lambda value, place: self._count(value, place, _MAX_CHARACTERS),
            "minProperties": lambda value, place: self._count(value, place, _MAX_ITEMS),
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
            simplify_choices(part, self._definitions)
        objects = [one for part in (schema, *self._definitions.values()) for one in schemas_inside(part)]
        # Where several schemas describe one object, each names only some of its keys, so none may be closed.
        if all(num_combined(one) < 2 for one in objects):
            for one in objects:
                _close(one)
        read: dict[str, Any] = {} if schema is True else schema
        return read | ({"$defs": self._definitions} if self._definitions else {})

    def _schema(self, value: Any, place: str) -> Any:
        """Returns a schema as llguidance is to compile it: a bool or a dict."""
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
        self._replace_format(read)
        self._check_min_properties(read, place)
        # llguidance takes the keywords before one of these as one schema, and those after it as another.
        last = ("const", "enum", "$ref", "allOf", "anyOf", "oneOf")
        order = [
            *(keyword for keyword in read if keyword not in last),
            *(keyword for keyword in last if keyword in read),
        ]
        return {keyword: read[keyword] for keyword in order}

    def _replace_format(self, read: dict[str, Any]) -> None:
        name = read.get("format")
        if name in IGNORED_FORMATS:
            del read["format"]
        elif name in PATTERNS:
            del read["format"]
            if "pattern" in read:
                read["allOf"] = [{"pattern": read["pattern"]}, *read.get("allOf", ())]
            read["pattern"] = PATTERNS[name]

    def _is_remark(self, keyword: str, setting: object) -> bool:
        if keyword == "uniqueItems":
            return setting is False
        return keyword in _ANNOTATIONS or (keyword.startswith("x-") and keyword != "x-guidance")

    def _check_head(self, keyword: str, setting: object, place: str) -> None:
        if not isinstance(setting, str):
            self._refuse(place, "it is no URI", setting, "a string")
        if keyword == "$schema" and setting.removesuffix("#") not in _DRAFTS:
            self._refuse(place, "the draft is not known", setting, f"{_DRAFTS[0]}, or an earlier one from draft-06 on")

    def _check_min_properties(self, read: Mapping[str, Any], place: str) -> None:
        # llguidance counts a key that is written twice as two keys, and a JSON parser as one.
        fewest = read.get("minProperties", 0)
        required = len(read.get("required", ()))
        if fewest > required + 1:
            why = "it asks for more than one key besides the required ones"
            self._refuse(f"{place}/minProperties", why, fewest, f"at most {required + 1} here")

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
        if len(schemas) > _MAX_PROPERTIES:
            self._refuse(place, "there are too many", schemas, f"at most {_MAX_PROPERTIES}")
        return schemas

    def _named(self, value: Any, place: str) -> dict[str, Any]:
        schemas = self._mapping(value, place, "an object of schemas")
        return {self._text(name, place): self._schema(schema, f"{place}/{name}") for name, schema in schemas.items()}

    def _pattern_properties(self, value: Any, place: str) -> dict[str, Any]:
        schemas = self._mapping(value, place, "an object of schemas")
        self._num_key_patterns += len(schemas)
        if self._num_key_patterns > _MAX_KEY_PATTERNS:
            self._refuse(place, "there are too many", schemas, f"at most {_MAX_KEY_PATTERNS} in the whole schema")
        return {
            self._pattern(pattern, place): self._schema(schema, f"{place}/{pattern}")
            for pattern, schema in schemas.items()
        }

    def _required(self, value: Any, place: str) -> list[str]:
        if isinstance(value, (list, tuple)) and not value:
            return []
        return list(dict.fromkeys(self._text(name, place) for name in self._list(value, place, "a list of names")))

    def _type(self, value: Any, place: str) -> list[str]:
        allowed = f"{', '.join(TYPES)}, or a list of these"
        types = [value] if isinstance(value, str) else self._list(value, place, allowed)
        for one in types:
            if one not in TYPES:
                self._refuse(place, "there is no such type", one, allowed)
        return list(types)

    def _enum(self, value: Any, place: str) -> list[Any]:
        return [self._value(one, place) for one in self._list(value, place, "a list of values, not empty")]

    def _value(self, value: Any, place: str) -> Any:
        """Returns a value of `const` or `enum`; the model must be able to write it."""
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
        if _UNWRITABLE.search(text):
            self._refuse(place, "the text has a character that is never written", text, "no control characters")
        return text

    def _number(self, value: Any, place: str) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self._refuse(place, "it is of the wrong type", value, "a number")
        if not (value == 0 or _MIN_NUMBER <= abs(value) <= _MAX_NUMBER):
            allowed = f"0, or {_MIN_NUMBER} to 2**53, positive or negative"
            self._refuse(place, "a number of this size is not exact", value, allowed)
        return value

    def _divisor(self, value: Any, place: str) -> float:
        number = self._number(value, place)
        # 0.01 is no binary fraction: for a validator that divides in binary, 0.29 is no multiple of it.
        if not 0 < number <= _MAX_DIVISOR or not float(number * FRACTIONS).is_integer():
            allowed = f"1 to {_MAX_DIVISOR}, or a binary fraction"
            self._refuse(place, "validators do not agree on its multiples", value, allowed)
        return number

    def _count(self, value: Any, place: str, most: int) -> int:
        number = self._number(value, place)
        if number < 0 or not float(number).is_integer() or number > most:
            self._refuse(place, "it is out of range", value, f"a whole number, 0 to {most}")
        return int(number)

    def _format(self, value: Any, place: str) -> str:
        known = FORMATS | IGNORED_FORMATS | PATTERNS.keys()
        if not isinstance(value, str) or value not in known:
            self._refuse(place, "the format is not supported", value, f"one of {', '.join(sorted(known))}")
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
            if len(self._names) == _MAX_DEFINITIONS:
                self._refuse(place, "there are too many references", value, f"to at most {_MAX_DEFINITIONS} places")
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
        """Refuse a schema that is defined by nothing but itself."""
        if circular := circular_references(self._definitions):
            pointers = {f"#/$defs/{name}": pointer for pointer, name in self._names.items()}
            self._refuse(pointers[min(circular)], "$ref leads back to itself", self._root, "a schema that ends")

    def _check_end(self, schema: Any) -> None:
        """Refuse a schema that only an infinitely nested value would fit."""
        if not has_finite_value(schema, finite_references(self._definitions)):
            self._refuse("#", "nothing fits it", self._root, "a schema that some value fits")

    def _check_combinations(self, schema: Any) -> None:
        """Refuse a schema that puts too many conditions on one value."""
        if not isinstance(schema, dict):
            return
        members = cast("dict[str, Any]", schema)
        if num_combined(members) < 2:
            for part in subschemas(members):
                self._check_combinations(part)
            return
        patterns, divisors, has_reference = conditions(members)
        for definition in self._definitions.values() if has_reference else ():
            more_patterns, more_divisors, _ = conditions(definition)
            patterns |= more_patterns
            divisors |= more_divisors
        where = "where allOf, anyOf, oneOf, or the keywords beside a $ref, combine schemas"
        if len(patterns) > _MAX_COMBINED:
            self._refuse("#", "too many patterns", self._root, f"at most {_MAX_COMBINED} {where}")
        if math.lcm(*divisors) > _MAX_DIVISOR * FRACTIONS:
            allowed = f"a least common multiple of {_MAX_DIVISOR} at most, {where}"
            self._refuse("#", "multipleOf is too large", self._root, allowed)

    def _check_size(self) -> None:
        """Bound the work, and the depth to which the other methods recurse."""
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
                self._refuse("#", "it holds something that JSON does not have", value, "values of JSON only")
            if depth > _MAX_DEPTH:
                self._refuse("#", "it is nested too deeply", self._root, f"at most {_MAX_DEPTH} levels")
            if count > _MAX_VALUES or characters > _MAX_CHARACTERS:
                allowed = f"at most {_MAX_VALUES} values and {_MAX_CHARACTERS} characters"
                self._refuse("#", "it is too large", self._root, allowed)

    def _refuse(self, place: str, why: str, value: object, allowed: str) -> NoReturn:
        where = place if len(place) <= 80 else f"{place[:77]}..."
        message = f"{self._field} cannot be used: {why} (at {where}): {shortened(value)}; allowed: {allowed}"
        raise InvalidRequestError(self._field, value, allowed, message)


def _close(schema: dict[str, Any]) -> None:
    """Forbid further keys in an object whose schema names some keys and does not mention others.

    Such a schema allows any further keys, but hardly ever means it, and a model that may invent keys does so for ever.
    """
    names = schema.get("properties")
    if not names or "additionalProperties" in schema or "patternProperties" in schema:
        return
    if set(schema.get("required", ())) <= names.keys() and schema.get("minProperties", 0) <= len(names):
        schema["additionalProperties"] = False
