"""`return_token_index`: the index of each complete token, also of tokens whose text is held back."""

from __future__ import annotations

from typing import Any

import pytest
from harness import run_async

from server.harness import MODEL, USER, Answer, checked, content_of, running
from server.openai.test_thinking import OUTPUT, THINKS, THOUGHT
from server.openai.test_tools import ARGUMENTS, CALL, TOOLS


def ask(script: str, path: str = "chat", *, template: str | None = None, **body: Any) -> Answer:
    async def run() -> Answer:
        settings = {} if template is None else {"chat_template": template}
        async with running(script, **settings) as server:
            body.update(stream=True, return_token_index=True, stream_options={"include_usage": True})
            answer = checked(await (server.chat(**body) if path == "chat" else server.complete(**body)))
            assert answer.status == 200, answer.body
            return answer

    return run_async(run())


def tokens_of(answer: Answer, choice: int = 0) -> list[list[dict[str, Any]]]:
    """The choice's chunks, by tokens; each ends with its index."""
    tokens: list[list[dict[str, Any]]] = [[]]
    for chunk in answer.chunks:
        for one in chunk["choices"]:
            if one["index"] == choice and one.get("delta", {}).get("role") is None and one["finish_reason"] is None:
                tokens[-1].append(one)
                if "token_index" in one:
                    assert one["token_index"] == len(tokens) - 1
                    tokens.append([])
    assert tokens.pop() == [], "a token has no index"
    return tokens


@pytest.mark.parametrize("logprobs", [False, True])
def test_each_token_of_a_chat_has_its_index(logprobs: bool) -> None:
    more = {"logprobs": True} if logprobs else {}
    answer = ask(OUTPUT, template=THINKS, **more)
    tokens = tokens_of(answer)
    assert len(tokens) == answer.chunks[-1]["usage"]["completion_tokens"] == len(OUTPUT.encode()) + 1
    thought = "".join(one["delta"].get("reasoning_content", "") for token in tokens for one in token)
    assert thought == THOUGHT
    assert content_of(answer.chunks) == content_of(ask(OUTPUT, template=THINKS).chunks)
    held = [token for token in tokens if [list(one["delta"].values()) for one in token] == [[""]]]
    assert held, "tokens that are held back are tokens, too"


def test_the_parts_of_a_call_belong_to_its_tokens() -> None:
    answer = ask(CALL, tools=TOOLS)
    tokens = tokens_of(answer)
    assert len(tokens) == answer.chunks[-1]["usage"]["completion_tokens"]
    deltas = [one["delta"] for token in tokens for one in token]
    calls = [call for delta in deltas for call in delta.get("tool_calls", [])]
    assert "".join(call["function"]["arguments"] for call in calls) == ARGUMENTS
    assert calls[0]["function"] == {"name": "weather", "arguments": ""}


@pytest.mark.parametrize("logprobs", [None, 2])
def test_each_token_of_a_completion_has_its_index(logprobs: int | None) -> None:
    more = {} if logprobs is None else {"logprobs": logprobs}
    answer = ask("hä, END", "completions", stop="END", max_tokens=50, **more)
    tokens = tokens_of(answer)
    assert [len(token) for token in tokens] == [1] * answer.chunks[-1]["usage"]["completion_tokens"]
    assert "".join(one["text"] for token in tokens for one in token) == "hä, "


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_without_a_stream_there_is_nothing_to_count(path: str) -> None:
    async def run() -> None:
        async with running("abc") as server:
            body = {"model": MODEL, "return_token_index": True}
            body |= {"messages": USER} if path.startswith("chat") else {"prompt": "a"}
            answer = await server.ask("POST", f"/v1/{path}", body)
            assert (answer.status, answer.error["param"]) == (400, "return_token_index")
            assert (await server.ask("POST", f"/v1/{path}", {**body, "return_token_index": False})).status == 200

    run_async(run())


def test_each_choice_counts_its_own() -> None:
    answer = ask("abc", n=3)
    for choice in range(3):
        assert len(tokens_of(answer, choice)) == 4
