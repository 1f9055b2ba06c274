"""Tools: the model asks for Python functions to be called, and answers with what they return.

Run it: `python examples/tools.py [model]`, best with a model that was trained for tools, as SmolLM2 was not.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Literal

from headrace import Model, Token

TEMPERATURES = {"Oslo": 4, "Lima": 19, "Cairo": 31}


def temperature(city: Literal["Oslo", "Lima", "Cairo"]) -> str:
    """Tells the temperature in a city, in degrees Celsius."""
    print(f"[temperature in {city}]")
    return f"{TEMPERATURES[city]} degrees Celsius"


async def convert(celsius: float, unit: Literal["fahrenheit", "kelvin"]) -> str:
    """Converts degrees Celsius to another unit."""
    print(f"[{celsius} degrees in {unit}]")
    await asyncio.sleep(0)  # a real tool would wait for another server here
    return f"{celsius * 9 / 5 + 32:.1f} Fahrenheit" if unit == "fahrenheit" else f"{celsius + 273.15:.1f} kelvin"


def show(token: Token) -> None:
    """Show an answer while it is written. Tool calls have tokens of another kind."""
    if token.kind == "text":
        print(token.text, end="", flush=True)


def main(ref: str = "smollm2") -> None:
    with Model.load(ref) as model:
        # The model is told a function's name, docstring and signature. Its arguments fit the signature, and are
        # converted to the signature's types. If a function raises an error, the model is told the error.
        run = model.run_tools(
            [{"role": "user", "content": "How warm is it in Cairo?"}],
            [temperature, convert],
            system_prompt="You are a helpful assistant who answers in one sentence.",
            tool_choice="required",  # the first answer must be a call; with "auto", the default, the model decides
            parallel_tool_calls=False,  # one call at a time
            max_rounds=3,
            max_tokens=100,
            temperature=0,
            callback=show,
        )
    # run.result is the last answer, run.messages the whole conversation with calls and results.
    print(f"\n[{run.rounds} rounds, {len(run.messages)} messages]")


if __name__ == "__main__":
    main(*sys.argv[1:])
