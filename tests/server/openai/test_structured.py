"""Structured output in chats and completions: the parameters for it, and refusals."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from harness import Gate, echo, run_async

from headrace.structured.compiler import Grammars
from server.harness import Answer, busy_prompt_workers, checked, content_of, running

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
BOB = '{"name": "Bob", "age": 42}'
FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
NUMBERS = r"[0-9]{3}"
GBNF = 'root ::= "yes" | "no"'
LARK = 'start: "yes" | "no"'


def ask(script: Any, path: str = "chat", settings: dict[str, Any] | None = None, **body: Any) -> Answer:
    async def run() -> Answer:
        async with running(script, **(settings or {})) as server:
            answer = checked(await (server.chat(**body) if path == "chat" else server.complete(**body)))
            assert answer.status == 200, answer.body
            return answer

    return run_async(run())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("body", "script", "text"),
    [
        # What stands behind the end of each is not even asked for: the form is complete.
        ({"response_format": FORMAT}, BOB + " and more", BOB),
        ({"response_format": {"type": "json_object"}}, '{"a": [1]} and more', '{"a": [1]}'),
        ({"response_format": {"type": "text"}}, "any text", "any text"),
        ({"json_schema": PERSON}, BOB + " and more", BOB),
        ({"json_schema": {"enum": [5]}}, "5 and more", "5"),
        ({"regex": NUMBERS}, "12345", "123"),
        ({"grammar": GBNF}, "yes, please", "yes"),
        ({"grammar": LARK}, "no, thanks", "no"),
    ],
)
def test_chats(body: dict[str, Any], script: str, text: str, stream: bool) -> None:
    answer = ask(script, stream=stream, **body)
    if stream:
        assert content_of(answer.chunks) == text
        assert answer.chunks[-1]["choices"][0]["finish_reason"] == "stop"
    else:
        (choice,) = answer.json["choices"]
        assert choice["message"]["content"] == text
        assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("body", "script", "text"),
    [
        ({"json_schema": PERSON}, BOB + " and more", BOB),
        ({"regex": NUMBERS}, "12345", "123"),
        ({"grammar": GBNF}, "yes, please", "yes"),
    ],
)
def test_completions(body: dict[str, Any], script: str, text: str, stream: bool) -> None:
    answer = ask(script, "completion", stream=stream, prompt=["one", "two"], **body)
    choices = [one for chunk in answer.chunks for one in chunk["choices"]] if stream else answer.json["choices"]
    assert ["".join(one["text"] for one in choices if one["index"] == index) for index in (0, 1)] == [text] * 2


def test_choices_fit_each_for_itself() -> None:
    answer = ask(BOB, response_format=FORMAT, n=3, seed=1)
    assert [json.loads(choice["message"]["content"]) for choice in answer.json["choices"]] == [json.loads(BOB)] * 3


def test_an_answer_that_is_cut_says_so() -> None:
    (choice,) = ask(BOB, response_format=FORMAT, max_tokens=10).json["choices"]
    assert choice["message"]["content"] == BOB[:10]
    assert choice["finish_reason"] == "length"


def test_numbers_that_python_cannot_hold_are_text_like_any_other() -> None:
    (choice,) = ask("1" + "0" * 400 + ".0e999 ", json_schema={"type": "number"}, max_tokens=400).json["choices"]
    assert choice["message"]["content"] == "1" + "0" * 399


def test_an_answer_that_does_not_fit_cannot_come() -> None:
    """The script insists, so that it is an error here; a model takes another token."""

    async def run() -> None:
        async with running("Bob is 42.") as server:
            answer = await server.chat(response_format=FORMAT)
            assert (answer.status, answer.error["code"]) == (500, "generation_failed")

    run_async(run())


LARGE = {"enum": list(range(30_000))}
DEEP: Any = {"type": "object"}
for _ in range(80):
    DEEP = {"type": "object", "properties": {"a": DEEP}}


def schema_format(schema: Any, **more: Any) -> dict[str, Any]:
    """The form of OpenAI's for a schema."""
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, **more}}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body", "param", "says"),
    [
        ("chat", {"response_format": "json"}, "response_format", "object"),
        ("chat", {"response_format": {"type": "xml"}}, "response_format.type", "json_schema"),
        ("chat", {"response_format": {}}, "response_format.type", "missing"),
        ("chat", {"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing"),
        (
            "chat",
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
            "missing",
        ),
        (
            "chat",
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
            "response_format.json_schema.name",
            "missing",
        ),
        ("chat", {"response_format": schema_format({}, mood=1)}, "response_format.json_schema.mood", "no such"),
        ("chat", {"response_format": schema_format("{}")}, "response_format.json_schema.schema", "an object"),
        (
            "chat",
            {"response_format": schema_format({"type": "object", "minProps": 1})},
            "response_format.json_schema.schema",
            "minProps",
        ),
        ("chat", {"response_format": schema_format(False)}, "response_format.json_schema.schema", "nothing"),
        ("chat", {"response_format": schema_format(LARGE)}, "response_format.json_schema.schema", "20000"),
        ("chat", {"response_format": schema_format(DEEP)}, "response_format.json_schema.schema", "levels"),
        ("chat", {"json_schema": {"type": "thing"}}, "json_schema", "thing"),
        ("chat", {"json_schema": LARGE}, "json_schema", "20000"),
        ("chat", {"regex": "(a"}, "regex", "unclosed"),
        ("chat", {"regex": ""}, "regex", "not empty"),
        ("chat", {"regex": "a" * 60_000}, "regex", "50000"),
        ("chat", {"regex": 5}, "regex", "string"),
        ("chat", {"grammar": "root = nothing"}, "grammar", "cannot be used"),
        ("chat", {"regex": "a", "grammar": GBNF}, "grammar", "regex"),
        ("chat", {"response_format": FORMAT, "regex": "a"}, "regex", "response_format"),
        ("chat", {"response_format": {"type": "json_object"}, "json_schema": {}}, "json_schema", "response_format"),
        ("completion", {"json_schema": {"type": "thing"}}, "json_schema", "thing"),
        ("completion", {"json_schema": PERSON, "regex": "a"}, "regex", "json_schema"),
        ("completion", {"json_schema": {"enum": [*range(15_000)]}, "prompt": ["a", "b"]}, "json_schema", "10000"),
        ("completion", {"response_format": FORMAT}, "response_format", "no such"),
        ("completion", {"tools": []}, "tools", "no such"),
    ],
)
def test_refusals_name_what_is_wrong(path: str, body: Any, param: str, says: str, stream: bool) -> None:
    async def run() -> None:
        async with running("fine") as server:
            ask = server.chat if path == "chat" else server.complete
            answer = await ask(**body, stream=stream)
            assert answer.status == 400, answer.body
            assert answer.error["param"] == param, answer.error
            assert says in answer.error["message"], answer.error["message"]
            assert param in answer.error["message"], answer.error["message"]
            assert len(answer.error["message"]) < 600
            assert (await server.chat()).status == 200, "the server lives on"

    run_async(run())


def test_grammars_are_not_compiled_on_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = Grammars._compiled
    threads: set[str] = set()

    def noting(*args: Any, **kwargs: Any) -> Any:
        threads.add(threading.current_thread().name.rpartition("_")[0])
        return compiled(*args, **kwargs)

    monkeypatch.setattr(Grammars, "_compiled", noting)
    ask(BOB, response_format=FORMAT)
    ask("123", regex=NUMBERS)
    assert threads == {"headrace-prompt"}


def test_others_are_served_while_a_grammar_waits_to_be_compiled() -> None:
    async def run() -> None:
        gate = Gate()
        async with running(echo, before_step=gate) as server:
            other = server.open_chat()
            await other.until(b"assistant")
            async with busy_prompt_workers(server):
                waiting = server.open_chat(json_schema={"type": "string"}, max_tokens=1)
                gate.open()
                await other.until(b"[DONE]")
                assert waiting.status == 0, "nothing is said before it is known whether it can be served"
                await server.ask("GET", "/health")
            await waiting.until_over()

    run_async(run())
