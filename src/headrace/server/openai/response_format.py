"""`Format`: the `response_format` of a request. `format_overrides` turns it into settings."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import Discriminator, Field, Tag
from pydantic.json_schema import SkipJsonSchema

from headrace.server.http.errors import ApiError
from headrace.server.openai.json_schema import JsonSchema
from headrace.server.openai.overrides import Overrides
from headrace.server.openai.sampling import Sampling
from headrace.server.openai.wire import Wire

__all__ = ["FlatFormat", "Format", "format_overrides"]


class TextFormat(Wire):
    """Any text."""

    type: Literal["text"]


class ObjectFormat(Wire):
    """A JSON object."""

    type: Literal["json_object"]


class NamedSchema(Wire):
    """A named JSON schema. The answer always fits it, whatever `strict` says. The model sees none of this."""

    name: str = Field(max_length=64, pattern="^[a-zA-Z0-9_-]+$")
    description: str | None = None
    schema_: JsonSchema = Field(alias="schema")
    strict: bool | None = None


class SchemaFormat(Wire):
    """JSON that fits a schema, in the format of /v1/chat/completions."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


class FlatSchemaFormat(NamedSchema):
    """JSON that fits a schema, in the format of /v1/responses."""

    type: Literal["json_schema"]


def _kind_of_format(value: Any) -> str:
    kind = cast("dict[str, object]", value).get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return f"={kind}" if kind in ("text", "json_object", "json_schema") else "=other"


class UnknownFormat(Wire):
    """Any other format. It never validates, and its error lists the known types."""

    type: Literal["text", "json_object", "json_schema"]


_Plain = Annotated[TextFormat, Tag("=text")] | Annotated[ObjectFormat, Tag("=json_object")]
_Unknown = Annotated[SkipJsonSchema[UnknownFormat], Tag("=other")]
Format = Annotated[
    _Plain | Annotated[SchemaFormat, Tag("=json_schema")] | _Unknown,
    Discriminator(_kind_of_format),
]
FlatFormat = Annotated[
    _Plain | Annotated[FlatSchemaFormat, Tag("=json_schema")] | _Unknown,
    Discriminator(_kind_of_format),
]
_AnyFormat = TextFormat | ObjectFormat | SchemaFormat | FlatSchemaFormat | UnknownFormat


def format_overrides(body: Sampling, format: _AnyFormat | None, place: str) -> Overrides:
    """Returns the settings for the format of the answer.

    Args:
        body: the request, whose `json_schema`, `regex` and `grammar` also give a format.
        format: OpenAI's parameter for it.
        place: the name of that parameter.

    Raises:
        ApiError: two formats are given.
    """
    extras = {name: value for name in ("json_schema", "regex", "grammar") if (value := getattr(body, name)) is not None}
    settings, names = dict(extras), dict[str, str]()
    if isinstance(format, ObjectFormat):
        settings, names = {"json_schema": {"type": "object"}}, {"json_schema": place}
    elif isinstance(format, SchemaFormat):
        settings, names = {"json_schema": format.json_schema.schema_}, {"json_schema": f"{place}.json_schema.schema"}
    elif isinstance(format, FlatSchemaFormat):
        settings, names = {"json_schema": format.schema_}, {"json_schema": f"{place}.schema"}
    given = [*([place] if names else ()), *extras]
    if len(given) > 1:
        message = f"{given[1]} is given beside {given[0]}; allowed: one of {place}, json_schema, regex, grammar"
        raise ApiError(400, message, param=given[1], code="invalid_value")
    return Overrides(settings, names)
