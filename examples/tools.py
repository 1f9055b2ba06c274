"""Tools: the model asks for Python functions to be called, and answers with what they return.

Run it: `python examples/tools.py [model]`

It takes a model that was trained for tools. SmolLM2, which is not, may answer without them.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Literal

from headrace import Model

TEMPERATURES = {"Oslo": 4, "Lima": 19, "Cairo": 31}


def temperature(city: Literal["Oslo", "Lima", "Cairo"]) -> int:
    """The temperature in a city, in degrees Celsius."""
    print(f"[temperature of {city}]")
    return TEMPERATURES[city]


async def convert(value: float, unit: Literal["fahrenheit", "kelvin"]) -> float:
    """Converts degrees Celsius to another unit."""
    print(f"[{value} degrees in {unit}]")
    await asyncio.sleep(0)  # as one would wait for a database, or for another server
    return value * 9 / 5 + 32 if unit == "fahrenheit" else value + 273.15


def main(ref: str = "smollm2", question: str = "How warm is it in Cairo, in Fahrenheit?") -> None:
    with Model.load(ref) as model:
        # Name, docstring and signature become what the model is told of a function. The arguments that it writes are
        # constrained to the signature, checked, and converted. What a function raises is told to the model.
        run = model.run_tools(
            [{"role": "user", "content": question}],
            [temperature, convert],
            max_rounds=5,
            max_tokens=200,
        )
        print(run.text)
        print(f"[{run.rounds} rounds, {len(run.messages)} messages]")


if __name__ == "__main__":
    main(*sys.argv[1:])
