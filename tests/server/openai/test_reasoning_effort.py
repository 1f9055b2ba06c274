"""`reasoning_effort`, for models with and without thoughts."""

from __future__ import annotations

from typing import Any

import pytest
from harness import run_async

from server.harness import TEMPLATE, Answer, running

THINKS = TEMPLATE + "{# <think></think> #}"


def ask(path: str, chat_template: str, **body: Any) -> Answer:
    async def run() -> Answer:
        async with running("Yes.", chat_template=chat_template) as server:
            return await server.ask("POST", path, {"model": "scripted", **body})

    return run_async(run())


def chat(chat_template: str, **body: Any) -> Answer:
    return ask("/v1/chat/completions", chat_template, messages=[{"role": "user", "content": "hi"}], **body)


@pytest.mark.parametrize("more", [{}, {"thinking_tags": ["<a>", "</a>"]}])
def test_no_effort_is_what_a_model_without_thoughts_makes_anyway(more: dict[str, Any]) -> None:
    """It was refused, in the name of thinking_budget, by an error that came after one which had advised it."""
    answer = chat(TEMPLATE, reasoning_effort="none", **more)
    assert answer.status == 200, answer.body
    assert answer.json["choices"][0]["message"]["content"] == "Yes."
    answer = ask("/v1/responses", TEMPLATE, input="hi", reasoning={"effort": "none"}, **more)
    assert answer.status == 200, answer.body
    assert answer.json["reasoning"] == {"effort": "none", "summary": None}


def test_a_budget_beside_no_effort_is_still_the_clients_own() -> None:
    answer = chat(TEMPLATE, reasoning_effort="none", thinking_budget=0)
    assert (answer.status, answer.error["param"]) == (400, "thinking_budget")
    assert chat(THINKS, reasoning_effort="none", thinking_budget=0).status == 200
