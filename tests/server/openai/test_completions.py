"""`/v1/completions`: prompts of every kind, echo, log probabilities."""

from __future__ import annotations

from typing import Any

import pytest
from harness import echo, ids, run_async

from server.harness import MODEL, Answer, checked, running

TEXT = "né🌊\nend"


def ask(script: Any = TEXT, prompt: Any = "hi", **body: Any) -> Answer:
    """One request to a server of its own."""

    async def run() -> Answer:
        async with running(script) as server:
            return checked(await server.complete(prompt, **body))

    return run_async(run())


def text_of(answer: Answer, choice: int = 0) -> str:
    """The text of a streamed answer."""
    return "".join(one["text"] for chunk in answer.chunks for one in chunk["choices"] if one["index"] == choice)


def test_the_whole_answer() -> None:
    answer = ask()
    body = answer.json
    assert body["id"] == f"cmpl-{answer.headers['x-request-id']}"
    assert (body["object"], body["model"]) == ("text_completion", MODEL)
    assert body["choices"] == [{"index": 0, "text": TEXT, "logprobs": None, "finish_reason": "stop"}]
    num_answer = len(TEXT.encode()) + 1
    assert body["usage"]["prompt_tokens"] == 2
    assert body["usage"]["completion_tokens"] == num_answer


def test_the_stream() -> None:
    answer = ask(stream=True, stream_options={"include_usage": True})
    assert answer.body.isascii()
    assert answer.events[-1].data == "[DONE]"
    *chunks, end, usage = answer.chunks
    assert len({(one["id"], one["created"]) for one in answer.chunks}) == 1
    assert {one["object"] for one in answer.chunks} == {"text_completion"}
    assert text_of(answer) == TEXT
    assert all(one["choices"][0]["finish_reason"] is None and one["choices"][0]["text"] for one in chunks)
    assert end["choices"] == [{"index": 0, "text": "", "logprobs": None, "finish_reason": "stop"}]
    assert end["usage"] is None
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == len(TEXT.encode()) + 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("one", ["one"]),
        (["one", "two"], ["one", "two"]),
        (ids("one"), ["one"]),
        ([ids("one"), ids("two")], ["one", "two"]),
    ],
)
def test_prompts_of_every_kind(prompt: Any, texts: list[str], stream: bool) -> None:
    answer = ask(
        echo, prompt, stream=stream, n=2, echo=True, stream_options={"include_usage": True} if stream else None
    )
    expected = [text + f"[{text}]" * 3 for text in texts for _ in range(2)]
    if stream:
        assert [text_of(answer, choice) for choice in range(len(expected))] == expected
        usage = answer.chunks[-1]["usage"]
    else:
        assert [choice["text"] for choice in answer.json["choices"]] == expected
        usage = answer.json["usage"]
    assert usage["prompt_tokens"] == sum(map(len, texts)), "each prompt counts once"


def test_the_default_is_openais() -> None:
    async def run() -> None:
        async with running("x" * 100) as server:
            answer = await server.ask("POST", "/v1/completions", {"model": MODEL, "prompt": "hi"})
            (choice,) = answer.json["choices"]
            assert (choice["text"], choice["finish_reason"]) == ("x" * 16, "length")

    run_async(run())


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_show_where_tokens_stand_and_never_a_stop_sequence(stream: bool) -> None:
    answer = ask("aéENDb", logprobs=1, stop="END", stream=stream)
    parts = [choice for chunk in answer.chunks for choice in chunk["choices"]] if stream else answer.json["choices"]
    logprobs = [part["logprobs"] for part in parts if part["logprobs"]]
    assert [token for one in logprobs for token in one["tokens"]] == ["a", "\ufffd", "\ufffd"]
    assert [offset for one in logprobs for offset in one["text_offset"]] == [0, 1, 1]
    for one in logprobs:
        assert len(one["tokens"]) == len(one["token_logprobs"]) == len(one["top_logprobs"]) == len(one["text_offset"])
    assert "".join(part["text"] for part in parts) == "aé"


@pytest.mark.parametrize(
    ("changes", "param", "says"),
    [
        ({"prompt": ""}, "prompt", "white space"),
        ({"prompt": []}, "prompt", "at least 1"),
        ({"prompt": [[]]}, "prompt[0]", "at least 1"),
        ({"prompt": [1, "a"]}, "prompt[1]", "integer"),
        ({"prompt": [-1]}, "prompt", "-1"),
        ({"prompt": 5}, "prompt", "string"),
        ({"prompt": None}, "prompt", "string"),
        ({"prompt": ["a"] * 65, "n": 2}, "n", "128"),
        ({"max_tokens": 0}, "max_tokens", "1 to"),
        ({"echo": True, "logprobs": 1}, "logprobs", "echo"),
        ({"suffix": "x"}, "suffix", "not supported"),
        ({"best_of": 2}, "best_of", "not supported"),
        ({"stream_options": {}}, "stream_options", "stream"),
        ({"messages": []}, "messages", "no such parameter"),
    ],
)
def test_refusals_name_what_is_wrong(changes: dict[str, Any], param: str, says: str) -> None:
    answer = ask(**changes)
    assert answer.status == 400, answer.body
    assert answer.error["param"] == param
    assert says in answer.error["message"], answer.error["message"]
