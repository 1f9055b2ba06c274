"""Thoughts in chats and completions: split, hidden or raw; their budget; and template variables."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from cases import sampled
from harness import BYTES, ids, run_async

from server.harness import TEMPLATE, USER, Answer, checked, content_of, running

# Knows thoughts, and all that a request can tell a template.
THINKS = TEMPLATE + "{% if effort_shown %}[{{ reasoning_effort }}]{% endif %}{# <think></think> #}"
OPENS = TEMPLATE + "{% if add_generation_prompt %}<think>\n{% endif %}{# </think> #}"
THOUGHT, ANSWER = "hm, sö", "Hällo END"
OUTPUT = f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}"


def ask(script: Any = OUTPUT, path: str = "chat", settings: dict[str, Any] | None = None, **body: Any) -> Answer:
    async def run() -> Answer:
        async with running(script, **{"chat_template": THINKS, **(settings or {})}) as server:
            answer = checked(await (server.chat(**body) if path == "chat" else server.complete(**body)))
            assert answer.status == 200, answer.body
            return answer

    return run_async(run())


def thought_of(chunks: list[dict[str, Any]]) -> str:
    """The thought of a streamed chat; the answer must not begin before it ends."""
    deltas = [one["delta"] for chunk in chunks for one in chunk["choices"]]
    kinds = ["thought" if "reasoning_content" in delta else "answer" for delta in deltas[1:-1]]
    assert kinds == sorted(kinds, reverse=True)
    return "".join(delta.get("reasoning_content", "") for delta in deltas)


def entries_of(answer: Answer, *, stream: bool) -> list[dict[str, Any]]:
    """The log probabilities of a chat."""
    choices = [one for chunk in answer.chunks for one in chunk["choices"]] if stream else answer.json["choices"]
    return [entry for one in choices if one["logprobs"] for entry in one["logprobs"]["content"]]


def test_a_thought_is_apart() -> None:
    answer = ask()
    (choice,) = answer.json["choices"]
    assert choice["message"]["reasoning_content"] == THOUGHT
    assert choice["message"]["content"] == ANSWER
    assert choice["finish_reason"] == "stop"
    usage = answer.json["usage"]
    thought = len(OUTPUT.encode()) - len(f"\n\n{ANSWER}".encode())
    assert usage["completion_tokens_details"]["reasoning_tokens"] == thought
    assert usage["completion_tokens"] == len(OUTPUT.encode()) + 1


def test_without_a_thought_nothing_is_said_of_it() -> None:
    assert "reasoning_content" not in ask(ANSWER).json["choices"][0]["message"]
    assert thought_of(ask(ANSWER, stream=True).chunks) == ""


@pytest.mark.parametrize(("cut", "mode"), sampled(product(range(1, len(OUTPUT.encode())), ["split", "hide", "raw"]), 4))
def test_no_split_shows(cut: int, mode: str) -> None:
    text = OUTPUT.encode()
    pieces = BYTES | {300: text[:cut], 301: text[cut:]}
    answer = ask([300, 301], settings={"pieces": pieces}, stream=True, thinking=mode)
    assert thought_of(answer.chunks) == (THOUGHT if mode == "split" else "")
    assert content_of(answer.chunks) == (OUTPUT if mode == "raw" else ANSWER)
    assert answer.chunks[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("has_logprobs", [False, True])
@pytest.mark.parametrize("cut", [3, 9, 14, 18, 23, 24, 28])
def test_the_last_token_may_complete_all_of_it(cut: int, has_logprobs: bool) -> None:
    text = OUTPUT.encode()
    pieces = BYTES | {300: text[:cut], 301: text[cut:]}
    answer = ask([300, 301], settings={"pieces": pieces}, stream=True, max_tokens=2, logprobs=has_logprobs)
    assert (thought_of(answer.chunks), content_of(answer.chunks)) == (THOUGHT, ANSWER)
    assert answer.chunks[-1]["choices"][0]["finish_reason"] == "length"
    entries = [bytes(entry["bytes"]) for entry in entries_of(answer, stream=True)]
    assert entries == ([text[cut:]] if has_logprobs else [])


@pytest.mark.parametrize(("cut", "mode"), sampled(product(range(1, len(OUTPUT.encode())), ["split", "hide"]), 5))
def test_no_split_shows_in_log_probabilities(cut: int, mode: str) -> None:
    """A cut in the thought or in the answer: three bytes around it are a token, all others a byte each."""
    text = OUTPUT.encode()
    low = max(cut - 3, 0)
    answer_at = len(text) - len(ANSWER.encode())
    if low < answer_at < cut:
        low = answer_at
    script = [*ids(text[:low]), 300, *ids(text[cut:])]
    settings = {"pieces": BYTES | {300: text[low:cut]}}
    for stream in (False, True):
        answer = ask(script, settings=settings, stream=stream, thinking=mode, logprobs=True)
        assert b"".join(bytes(entry["bytes"]) for entry in entries_of(answer, stream=stream)) == ANSWER.encode()


@pytest.mark.parametrize("stop", ["END", " END", "o END", "Hällo", "H", "hm"])
def test_stops_count_in_the_answer_and_do_not_leak(stop: str) -> None:
    for stream in (False, True):
        answer = ask(stream=stream, stop=stop, logprobs=True)
        shown = content_of(answer.chunks) if stream else answer.json["choices"][0]["message"]["content"]
        assert shown == ANSWER.partition(stop)[0]
        entries = entries_of(answer, stream=stream)
        assert b"".join(bytes(entry["bytes"]) for entry in entries) == shown.encode()


@pytest.mark.parametrize("answer", ["ENENEN!", "EEN", "EN", "ENDEND", "ENEND", "<t", ">", "think>"])
def test_what_is_held_back_behind_a_thought_is_neither_lost_nor_leaked(answer: str) -> None:
    """Answers that look like the end of the thought, and like the beginning of a stop sequence."""
    response = ask(f"<think>a</think>{answer}", stream=True, stop="END", logprobs=True)
    shown = answer.partition("END")[0]
    assert content_of(response.chunks) == shown
    sent, entered = "", ""
    for chunk in response.chunks:
        for one in chunk["choices"]:
            sent += one["delta"].get("content", "")
            entered += "".join(entry["token"] for entry in (one["logprobs"] or {"content": []})["content"])
            assert sent.startswith(entered), "an entry goes before its text"
    assert entered == shown


def test_a_thought_that_the_template_opened() -> None:
    for stream in (False, True):
        answer = ask(
            f"{THOUGHT}\n</think>\n\n{ANSWER}", settings={"chat_template": OPENS}, stream=stream, logprobs=True
        )
        if stream:
            assert (thought_of(answer.chunks), content_of(answer.chunks)) == (THOUGHT, ANSWER)
        else:
            message = answer.json["choices"][0]["message"]
            assert (message["reasoning_content"], message["content"]) == (THOUGHT, ANSWER)
        assert "".join(entry["token"] for entry in entries_of(answer, stream=stream)).startswith("H")


def test_a_thought_that_is_cut() -> None:
    (choice,) = ask(max_tokens=12).json["choices"]
    assert choice["message"]["reasoning_content"] == "hm,"
    assert choice["message"]["content"] == ""
    assert choice["finish_reason"] == "length"


def test_a_hidden_thought_is_nowhere() -> None:
    for stream in (False, True):
        body = ask("<think>\nsecret\n</think>\n\nHello", stream=stream, thinking="hide", logprobs=True).body
        assert b"secret" not in body
        assert b'"s"' not in body
        assert b"reasoning_content" not in body


def test_a_budget_closes_the_thought() -> None:
    """The tag is forced upon the script, whose words are then part of the answer."""
    message = ask("<think>abcdef", thinking_budget=4).json["choices"][0]["message"]
    assert message["reasoning_content"] == "abcd"
    assert message["content"] == "ef"


def test_tags_can_be_given() -> None:
    message = ask("[Let me see.]Yes.", settings={"chat_template": TEMPLATE}, thinking_tags=["[", "]"])
    message = message.json["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("Let me see.", "Yes.")


@pytest.mark.parametrize("body", [{"reasoning_effort": "none"}, {"reasoning_effort": "none", "thinking_budget": 0}])
def test_no_effort_is_no_thought(body: dict[str, Any]) -> None:
    answer = ask(ANSWER, settings={"chat_template": OPENS}, **body)
    message = answer.json["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("", ANSWER)


def test_an_effort_is_told_to_a_template_that_knows_it() -> None:
    prompts: list[bytes] = []

    def script(prompt: tuple[int, ...]) -> list[int]:
        prompts.append(b"".join(BYTES[token] for token in prompt))
        return []

    ask(script, reasoning_effort="high", chat_template_kwargs={"effort_shown": True})
    ask(script, chat_template_kwargs={"effort_shown": True, "reasoning_effort": {"some": [1, None]}})
    assert [prompt.partition(b"[")[2] for prompt in prompts] == [b"high]", b"{'some': [1, None]}]"]


def test_the_last_message_can_be_continued() -> None:
    prompts: list[bytes] = []

    def script(prompt: tuple[int, ...]) -> list[int]:
        prompts.append(b"".join(BYTES[token] for token in prompt))
        return ids(" you?")

    messages = [*USER, {"role": "assistant", "content": "How are"}]
    for more in ({}, {"add_generation_prompt": False}):
        answer = ask(script, messages=messages, continue_final_message=True, **more)
        assert answer.json["choices"][0]["message"]["content"] == " you?"
    ask(script, messages=messages, add_generation_prompt=True, continue_final_message=False)
    assert prompts[0] == prompts[1] == b"<user>hi<assistant>How are"


@pytest.mark.parametrize("stream", [False, True])
def test_a_completion_is_one_text(stream: bool) -> None:
    for body, text in (({}, OUTPUT), ({"thinking": "raw"}, OUTPUT), ({"thinking": "hide"}, ANSWER)):
        answer = ask(OUTPUT, "completion", stream=stream, logprobs=0, **body)
        choices = [one for chunk in answer.chunks for one in chunk["choices"]] if stream else answer.json["choices"]
        assert "".join(choice["text"] for choice in choices) == text
        tokens = [token for choice in choices if choice["logprobs"] for token in choice["logprobs"]["tokens"]]
        offsets = [offset for choice in choices if choice["logprobs"] for offset in choice["logprobs"]["text_offset"]]
        assert len(tokens) == len(text.encode())
        assert offsets[-1] == len(text) - 1


@pytest.mark.parametrize(
    ("path", "body", "param", "says"),
    [
        ("chat", {"thinking": "loud"}, "thinking", "split"),
        ("chat", {"thinking_budget": -1}, "thinking_budget", "0 to"),
        ("chat", {"thinking_tags": ["<a>"]}, "thinking_tags[1]", "missing"),
        ("chat", {"thinking_tags": ["<a>", " "]}, "thinking_tags", "blank"),
        ("chat", {"reasoning_effort": "huge"}, "reasoning_effort", "xhigh"),
        ("chat", {"reasoning_effort": "high"}, "reasoning_effort", '"none"'),
        ("chat", {"reasoning_effort": "none", "thinking_budget": 5}, "reasoning_effort", "thinking_budget"),
        (
            "chat",
            {"reasoning_effort": "none", "chat_template_kwargs": {"reasoning_effort": "low"}},
            "reasoning_effort",
            "chat_template_kwargs",
        ),
        ("chat", {"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs", "taken"),
        ("chat", {"chat_template_kwargs": {"self": 1}}, "chat_template_kwargs", "taken"),
        ("chat", {"chat_template_kwargs": {"x": [0] * 20_001}}, "chat_template_kwargs", "20000"),
        ("chat", {"continue_final_message": True}, "messages[0]", "assistant"),
        ("chat", {"add_generation_prompt": False}, "add_generation_prompt", "continue_final_message"),
        (
            "chat",
            {"add_generation_prompt": True, "continue_final_message": True},
            "add_generation_prompt",
            "continue_final_message",
        ),
        ("completion", {"thinking": "split"}, "thinking", "raw"),
        ("completion", {"reasoning_effort": "none"}, "reasoning_effort", "no such"),
    ],
)
def test_refusals_name_what_is_wrong(path: str, body: Any, param: str, says: str) -> None:
    async def run() -> None:
        async with running("fine") as server:
            answer = await (server.chat(**body) if path == "chat" else server.complete(**body))
            assert answer.status == 400, answer.body
            assert answer.error["param"] == param, answer.error
            assert says in answer.error["message"], answer.error["message"]
            assert (await server.chat()).status == 200, "the server lives on"

    run_async(run())
