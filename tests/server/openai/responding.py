"""Requests to `/v1/responses`, and checks that hold for all of its answers."""

from __future__ import annotations

import copy
import json
from typing import Any

from harness import run_async

from headrace.server.openai.responses_schema import ResponseObject
from server.harness import MODEL, Answer, Server, Socket, running

PATH = "/v1/responses"
LOGPROBS = ["message.output_text.logprobs"]
BEGINNING = ("response.created", "response.in_progress")
ADDED, DONE = "response.output_item.added", "response.output_item.done"
PART_ADDED, PART_DONE = "response.content_part.added", "response.content_part.done"
DELTA = "response.output_text.delta"
OPENING = (ADDED, PART_ADDED)
ENDING = ("response.output_text.done", PART_DONE, DONE)
TEXTS = {
    "message": "response.output_text",
    "reasoning": "response.reasoning_text",
    "function_call": "response.function_call_arguments",
}
PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc"}
# The fields that Open Responses' schema requires of every response, running or ended.
REQUIRED = {
    "id", "object", "created_at", "completed_at", "status", "incomplete_details", "model", "previous_response_id",
    "instructions", "output", "error", "tools", "tool_choice", "truncation", "parallel_tool_calls", "text", "top_p",
    "presence_penalty", "frequency_penalty", "top_logprobs", "temperature", "reasoning", "usage", "max_output_tokens",
    "max_tool_calls", "store", "background", "service_tier", "metadata", "safety_identifier", "prompt_cache_key",
}  # fmt: skip


def request(**body: Any) -> dict[str, Any]:
    return {"model": MODEL, "input": "hi", **body}


def open_response(server: Server, id: str, **body: Any) -> Socket:
    return server.open("POST", PATH, request(**body), X_Request_Id=id)


def ask(script: Any, settings: dict[str, Any] | None = None, **body: Any) -> Answer:
    """Send one request to a new server."""
    options = {
        name: body.pop(name) for name in ("pieces", "on_sample", "num_cells", "chat_template", "config") if name in body
    }

    async def run() -> Answer:
        async with running(script, settings, **options) as server:
            return await open_response(server, "r1", **body).until_over()

    return run_async(run())


def said(answer: Answer) -> str:
    """The text of a response that was not streamed."""
    assert answer.status == 200, answer.body
    ResponseObject.model_validate_json(answer.body)
    return "".join(
        part["text"] for item in answer.json["output"] if item["type"] == "message" for part in item["content"]
    )


def checked(answer: Answer) -> list[dict[str, Any]]:
    """Check a complete stream. Returns its events."""
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.body.isascii(), "no cut can part a character, no line separator can part an event"
    events = [json.loads(one.data) for one in answer.events]
    assert [one.name for one in answer.events] == [event["type"] for event in events]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    types = [event["type"] for event in events]
    assert tuple(types[:2]) == BEGINNING
    ended_well = types[-1] in ("response.completed", "response.incomplete")
    assert ended_well or types[-1] == "response.failed"
    responses = [event["response"] for event in events if "response" in event]
    assert [events[0]["response"], events[1]["response"], events[-1]["response"]] == responses
    assert {response["id"] for response in responses} == {"resp_r1"}
    assert len({response["created_at"] for response in responses}) == 1
    for response in responses:
        ResponseObject.model_validate_json(json.dumps(response))
        assert set(response) >= REQUIRED
        assert response["model"] == MODEL
    for response in responses[:2]:
        assert response["status"] == "in_progress"
        assert (response["output"], response["usage"], response["completed_at"]) == ([], None, None)
    assert not any("error" in event for event in events), "clients raise where they see it, and see no response"
    response = responses[-1]
    assert response["status"] == types[-1].removeprefix("response.")
    assert response["output"] == items_of(copy.deepcopy(events[2:-1]), ended_well=ended_well)
    if ended_well:
        *before, last = [item["status"] for item in response["output"]]
        assert set(before) <= {"completed"}, "only the last can be cut off"
        assert last == "completed" or response["status"] == "incomplete"
    return events


def items_of(events: list[dict[str, Any]], *, ended_well: bool = True) -> list[dict[str, Any]]:
    """Build the items from the events, as a client does. Each item must be complete before the next begins."""
    items: list[dict[str, Any]] = []
    while events:
        added, *events = events
        index = len(items)
        item = added["item"]
        kind, id = item["type"], item["id"]
        assert (added["type"], added["output_index"], item["status"]) == (ADDED, index, "in_progress")
        assert id == f"{PREFIXES[kind]}_r1_{index}"
        place = {"item_id": id, "output_index": index}
        part: dict[str, Any] | None = None
        if kind == "function_call":
            assert set(item) == {"id", "type", "status", "call_id", "name", "arguments"}
            assert item["arguments"] == ""
        else:
            assert item["content"] == []
            place["content_index"] = 0
            part_added, *events = events
            part = part_added.pop("part")
            assert bare(part_added) == {"type": PART_ADDED, **place}
            assert part["text"] == ""
        text, logprobs = "", []
        while events and events[0]["type"] == f"{TEXTS[kind]}.delta":
            delta, *events = events
            text += delta.pop("delta")
            if kind == "message":
                logprobs += delta.pop("logprobs")
            assert bare(delta) == {"type": f"{TEXTS[kind]}.delta", **place}
        if part is None:
            item["arguments"] = text
        else:
            part["text"] = text
            item["content"] = [part]
            if kind == "message":
                part["logprobs"] = logprobs
        items.append(item)
        if not events and not ended_well:
            item["status"] = "incomplete"  # the end of the response ends its last item
            break
        done, *events = events
        told = {"name": item["name"], "arguments": text} if part is None else {"text": text}
        if kind == "message":
            told["logprobs"] = logprobs
        assert bare(done) == {"type": f"{TEXTS[kind]}.done", **place, **told}
        if part is not None:
            part_done, *events = events
            assert bare(part_done) == {"type": PART_DONE, **place, "part": part}
        item_done, *events = events
        item["status"] = item_done["item"]["status"]
        assert item["status"] in ("completed", "incomplete")
        assert bare(item_done) == {"type": DONE, "output_index": index, "item": item}
    return items


def bare(event: dict[str, Any]) -> dict[str, Any]:
    """An event without its number."""
    return {key: value for key, value in event.items() if key != "sequence_number"}


def delta_text(events: list[dict[str, Any]]) -> str:
    return "".join(event["delta"] for event in events if event["type"] == DELTA)


def delta_logprobs(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for event in events if event["type"] == DELTA for one in event["logprobs"]]
