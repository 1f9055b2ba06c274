"""A model that thinks and calls tools, and helpers to check the items of its responses."""

from __future__ import annotations

from typing import Any

from harness import run_async

from headrace.server.openai.responses_schema import ResponseObject
from server.harness import TEMPLATE, Server, running
from server.openai.responding import checked, open_response

THINKS = TEMPLATE + "{# <think></think> #}"
THOUGHT, ANSWER = "hm, é 🌊", "So: 5 <b>!"
CALL = '<tool_call>\n{{"name": "{}", "arguments": {}}}\n</tool_call>'
ADD, NAME = '{"a": 2, "b": [3, "}"]}', '{"name": "Ada"}'
OUTPUT = f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}\n{CALL.format('add', ADD)}\n{CALL.format('name', NAME)}"
CALLS = OUTPUT[OUTPUT.index("<tool_call>") :]

NUMBERS = {"type": "array", "items": {}}
TOOLS = [
    {
        "type": "function",
        "name": "add",
        "description": "Adds.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": NUMBERS}},
        "strict": False,
    },
    {"type": "function", "name": "name", "parameters": {"type": "object", "properties": {"name": {"type": "string"}}}},
]


def shapes(items: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Items without their ids: types, contents and statuses."""
    found: list[tuple[Any, ...]] = []
    for item in items:
        kind, status = item["type"], item["status"]
        if kind == "function_call":
            assert item["call_id"].startswith("call_")
            found.append((kind, item["name"], item["arguments"], status))
        else:
            found.append((kind, "".join(part["text"] for part in item["content"]), status))
    ids = [item["id"] for item in items] + [item["call_id"] for item in items if "call_id" in item]
    assert len(set(ids)) == len(ids)
    return found


WHOLE = [
    ("reasoning", THOUGHT, "completed"),
    ("message", f"{ANSWER}\n", "completed"),
    ("function_call", "add", ADD, "completed"),
    ("function_call", "name", NAME, "completed"),
]


async def both_of(server: Server, **body: Any) -> dict[str, Any]:
    """Send a request streamed and not streamed. Returns the response, which must be the same."""
    whole = await open_response(server, "r1", **body).until_over()
    assert whole.status == 200, whole.body
    await server.settled()  # the id is free again
    streamed = checked(await open_response(server, "r1", stream=True, **body).until_over())[-1]["response"]
    await server.settled()
    response = whole.json
    ResponseObject.model_validate_json(whole.body)
    assert shapes(response["output"]) == shapes(streamed["output"])
    assert response["usage"]["output_tokens_details"] == streamed["usage"]["output_tokens_details"]
    volatile = dict.fromkeys(("created_at", "completed_at", "timings", "output", "usage"))
    assert {**response, **volatile} == {**streamed, **volatile}
    return response


def both(script: Any, **body: Any) -> dict[str, Any]:
    """The same on a new server."""
    options = {name: body.pop(name) for name in ("chat_template", "config", "pieces") if name in body}

    async def run() -> dict[str, Any]:
        async with running(script, **options) as server:
            return await both_of(server, **body)

    return run_async(run())
