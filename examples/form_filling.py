"""Structured output: a form of a Pydantic model's fields, filled in from a text while the language model writes.

Run it: `python examples/form_filling.py [model]`

The model can write only JSON that fits the form. `stream.objects()` yields the form as far as it is written: strings
and lists grow, fields are added, nothing is taken back. The last value is the complete, validated `Person`.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field
from rich.live import Live
from rich.table import Table

from headrace import Model

TEXT = "Maria Lopez is 34 years old. She is an engineer in Bilbao, and likes sailing, chess and old maps."

# Limits and patterns apply while the model writes, so that it cannot go on for ever.
Word = Annotated[str, Field(pattern=r"^[a-z]+( [a-z]+)?$", max_length=20)]


class Person(BaseModel):
    """The form. The model writes the fields in this order."""

    name: str = Field(max_length=40)
    age: int = Field(ge=0, le=120)
    profession: Literal["doctor", "engineer", "teacher"]
    city: str = Field(max_length=40)
    likes: list[Word] = Field(max_length=4)


def form(fields: dict[str, Any]) -> Table:
    """Return the form as far as it is filled in."""
    table = Table("field", "value", title="Person", width=60)
    for name in Person.model_fields:
        table.add_row(name, str(fields.get(name, "")))
    return table


def main(ref: str = "smollm2") -> None:
    messages = [{"role": "user", "content": f"Write the facts of this text as JSON.\n{TEXT}"}]
    with Model.load(ref) as model, Live(form({})) as live:
        stream = model.chat_stream(messages, json_schema=Person, temperature=0, max_tokens=200)
        for value in stream.objects():
            live.update(form(value.model_dump() if isinstance(value, Person) else value))
        result = stream.result()

    # If max_tokens or a cancel cuts the output off, `parsed` is None.
    print()
    print(repr(result.parsed) if result.parsed is not None else f"incomplete: {result.finish_reason}")


if __name__ == "__main__":
    main(*sys.argv[1:])
