"""One answer on the page: sent, written token by token, stopped; its thoughts, calls and figures."""

from __future__ import annotations

import json
import re

import pytest
from harness import wait_until
from playwright.sync_api import Page, expect

from page.chat import Chat, words_of
from page.serving import MODEL, call, site

LONG = words_of(5000)


def test_tokens_arrive_one_after_another(page: Page) -> None:
    parts = ["one", "two", "three", "four", "five"]
    with site(page, {"Count": " ".join(parts)}) as server:
        chat = Chat(page, server.url)
        chat.ask("Count")
        expect(chat.questions).to_have_count(1)
        expect(chat.questions).to_contain_text("Count")
        expect(chat.answer).to_have_attribute("aria-busy", "true")
        for count in range(1, len(parts) + 1):
            server.tap.let()
            expect(chat.text).to_have_text(" ".join(parts[:count]))
            expect(chat.answer).to_have_attribute("aria-busy", "true")
            expect(chat.answer.locator(".caret")).to_be_visible()
        server.tap.let()
        chat.await_end()
        expect(chat.text).to_have_text(" ".join(parts))
        expect(chat.answer.locator(".caret")).to_be_hidden()
        assert server.last_chat["messages"] == [{"role": "user", "content": "Count"}]
        assert server.last_chat["stream"] is True
        server.await_finished(stop=1)


def test_a_character_of_several_tokens_is_never_shown_in_part(page: Page) -> None:
    with site(page, {"Sea": list("Meer ")}) as server:
        server.answers["Sea"] = ["Meer ", "🌊"]  # no piece of its own: four tokens, a byte each
        chat = Chat(page, server.url)
        chat.ask("Sea")
        server.tap.let(5 + 3)
        expect(chat.text).to_have_text("Meer")
        server.tap.let()
        expect(chat.text).to_have_text("Meer 🌊")
        server.tap.open()
        chat.await_end()


def test_enter_sends_and_shift_enter_does_not(page: Page) -> None:
    with site(page, {"one\ntwo": "Yes."}, is_held=False) as server:
        chat = Chat(page, server.url)
        chat.message.press_sequentially("one")
        chat.message.press("Shift+Enter")
        chat.message.press_sequentially("two")
        expect(chat.message).to_have_value("one\ntwo")
        chat.message.press("Enter")
        expect(chat.text).to_have_text("Yes.")
        expect(chat.message).to_have_value("")
        assert [message["content"] for message in server.last_chat["messages"]] == ["one\ntwo"]


def test_enter_that_ends_a_composition_does_not_send(page: Page) -> None:
    with site(page, {"海": "Yes."}, is_held=False) as server:
        chat = Chat(page, server.url)
        chat.message.focus()
        keyboard = page.context.new_cdp_session(page)
        keyboard.send("Input.imeSetComposition", {"text": "海", "selectionStart": 1, "selectionEnd": 1})
        page.keyboard.press("Enter")
        keyboard.send("Input.insertText", {"text": "海"})
        expect(chat.message).to_have_value(re.compile("海"))
        expect(chat.questions).to_have_count(0)
        assert server.chats == []


@pytest.mark.parametrize("text", ["", "  \n "])
def test_nothing_is_not_sent(page: Page, text: str) -> None:
    with site(page, {"hi": "Yes."}, is_held=False) as server:
        chat = Chat(page, server.url)
        chat.message.fill(text)
        chat.message.press("Enter")
        chat.send_button.click(force=True)  # it may be disabled
        expect(chat.questions).to_have_count(0)
        chat.ask_and_wait("hi")
        assert len(server.chats) == 1


def test_what_is_typed_meanwhile_waits(page: Page) -> None:
    with site(page, {"Go": "one two", "On": "Yes."}) as server:
        chat = Chat(page, server.url)
        chat.ask("Go")
        server.tap.let()
        expect(chat.text).to_have_text("one")
        chat.message.fill("On")
        chat.message.press("Enter")
        expect(chat.message).to_have_value("On")
        # One thing after the other: nothing else can be begun, either.
        expect(chat.questions.get_by_role("button", name="Edit message")).to_be_hidden()
        expect(chat.button("Regenerate")).to_be_hidden()
        server.tap.open()
        chat.await_end()
        expect(chat.questions).to_have_count(1)
        chat.message.press("Enter")
        expect(chat.text).to_have_text("Yes.")
        assert len(server.chats) == 2


@pytest.mark.parametrize("how", ["button", "Escape"])
def test_stopping(page: Page, how: str) -> None:
    with site(page, {"Go": LONG, "On": "Yes."}, is_held=False, rate=50) as server:
        chat = Chat(page, server.url)
        chat.ask("Go")
        expect(chat.text).to_contain_text("w0 w1 w2")
        if how == "button":
            chat.stop_button.click()
        else:
            page.keyboard.press("Escape")
        chat.await_end()
        server.await_finished(cancelled=1)
        expect(chat.stop_button).to_be_hidden()
        shown = chat.text.inner_text().strip()
        assert LONG.startswith(shown)
        assert shown.startswith("w0 w1 w2")
        expect(chat.alert).to_have_count(0)
        expect(chat.message).to_be_focused()
        # What was written is part of the conversation.
        chat.ask_and_wait("On")
        roles = [(one["role"], one["content"].strip()) for one in server.last_chat["messages"]]
        assert roles == [("user", "Go"), ("assistant", shown), ("user", "On")]


def test_stopping_before_the_first_token(page: Page) -> None:
    with site(page, {"Go": LONG, "On": "Yes."}) as server:
        chat = Chat(page, server.url)
        chat.ask("Go")
        server.await_running(1)
        chat.stop_button.click()
        chat.await_end()
        wait_until(lambda: any(one.method == "DELETE" for one in server.requests))
        server.tap.open()
        server.await_finished(cancelled=1)
        chat.ask_and_wait("On")
        expect(chat.text).to_have_text("Yes.")


def test_a_thought_is_folded_away(page: Page) -> None:
    answer = ["<think>", "\n", "Hm,", " let", " me", " see.", "\n", "</think>", "\n\n", "It", " is", " 4."]
    with site(page, {"2+2?": answer}) as server:
        chat = Chat(page, server.url)
        chat.ask("2+2?")
        thinking = chat.answer.locator("details.thinking")
        server.tap.let(5)
        expect(thinking).to_be_visible()
        expect(thinking).not_to_have_attribute("open", "")
        thought = thinking.get_by_text("Hm, let me")
        expect(thought).to_be_hidden()
        thinking.locator("summary").click()
        expect(thought).to_be_visible()
        server.tap.open()
        chat.await_end()
        expect(chat.text).to_have_text("It is 4.")
        expect(thinking.get_by_text("Hm, let me see.")).to_be_visible()
        thinking.locator("summary").press("Enter")
        expect(thinking.get_by_text("Hm, let me see.")).to_be_hidden()
        # The next request has the thought as it came.
        server.answers["And 3+3?"] = "6."
        chat.ask_and_wait("And 3+3?")
        assert server.last_chat["messages"][1] == {
            "role": "assistant",
            "content": "It is 4.",
            "reasoning_content": "Hm, let me see.",
        }
        expect(chat.answer.locator("details.thinking")).to_be_hidden()


TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {"city": {}}}}}
    for name in ("weather", "time")
]


def test_calls_are_shown_and_answered(page: Page) -> None:
    calls = call("weather", '{"city": "Ulm"}') + "\n" + call("time", '{"city": "Bonn"}')
    with site(page, {"How is it?": list(calls), "12:00": "Sunny, and noon."}, is_held=False) as server:
        chat = Chat(page, server.url)
        chat.set(**{"Tools_(JSON)": json.dumps(TOOLS)})
        chat.ask_and_wait("How is it?")
        assert server.last_chat["tools"] == TOOLS
        shown = chat.answer.locator(".tool-call")
        expect(shown).to_have_count(2)
        expect(shown.first).to_contain_text("weather")
        expect(shown.first).to_contain_text("Ulm")
        expect(shown.last).to_contain_text("time")
        expect(shown.last).to_contain_text("Bonn")
        page.get_by_role("textbox", name="Result of weather").fill("sunny")
        page.get_by_role("textbox", name="Result of time").fill("12:00")
        expect(chat.button("Send results")).to_have_count(1)
        chat.button("Send results").click()
        expect(chat.answers).to_have_count(2)
        expect(chat.text).to_have_text("Sunny, and noon.")
        messages = server.last_chat["messages"]
        assert [message["role"] for message in messages] == ["user", "assistant", "tool", "tool"]
        made = messages[1]["tool_calls"]
        assert [one["function"]["name"] for one in made] == ["weather", "time"]
        assert [json.loads(one["function"]["arguments"]) for one in made] == [{"city": "Ulm"}, {"city": "Bonn"}]
        assert [(one["tool_call_id"], one["content"]) for one in messages[2:]] == [
            (made[0]["id"], "sunny"),
            (made[1]["id"], "12:00"),
        ]
        # It is all there again after a reload.
        chat.reload()
        expect(chat.answers).to_have_count(2)
        expect(chat.answers.first.locator(".tool-call")).to_have_count(2)
        expect(chat.text).to_have_text("Sunny, and noon.")


def test_arguments_of_a_call_grow(page: Page) -> None:
    text = call("weather", '{"city": "Ulm an der Donau"}')
    with site(page, {"How is it?": list(text)}) as server:
        chat = Chat(page, server.url)
        chat.set(**{"Tools_(JSON)": json.dumps(TOOLS)})
        chat.ask("How is it?")
        shown = chat.answer.locator(".tool-call")
        server.tap.let(text.index(" der"))
        expect(shown).to_contain_text("Ulm an")
        expect(shown).not_to_contain_text("Donau")
        server.tap.open()
        expect(shown).to_contain_text("Ulm an der Donau")
        chat.await_end()


def test_figures_are_the_servers(page: Page) -> None:
    with site(page, {"Go": words_of(41)}, is_held=False, rate=200) as server:
        chat = Chat(page, server.url)
        chat.ask_and_wait("Go")
        found = re.fullmatch(
            r"([\d,]+) tokens · ([\d,.]+) tok/s · first token after ([\d,.]+) (ms|s)", chat.metrics.inner_text()
        )
        assert found is not None, chat.metrics.inner_text()
        metrics = server.models[MODEL].engine.metrics()
        assert int(found[1]) == metrics.completion_tokens == 42  # the end counts
        # The page measures what it sees, and the server cannot be faster than its rate.
        assert 0 < float(found[2]) < 1000


def test_one_token_is_not_two(page: Page) -> None:
    with site(page, {"Go": ""}, is_held=False) as server:
        chat = Chat(page, server.url)
        chat.ask_and_wait("Go")
        expect(chat.metrics).to_have_text(re.compile(r"^1 token · "))


def test_what_it_costs(page: Page) -> None:
    prices = {"price_prompt": 0, "price_completion": 30, "currency": "EUR"}
    with site(page, {"Go": words_of(39)}, is_held=False, settings=prices) as server:
        chat = Chat(page, server.url)
        chat.ask_and_wait("Go")
        expect(chat.metrics).to_have_text(re.compile(r"^40 tokens .* · €\s?0\.0012$"))
        chat.reload()
        expect(chat.metrics).to_have_text(re.compile(r"^40 tokens .* · €\s?0\.0012$"))


def test_a_long_prompt_shows_how_far_it_was_read(page: Page) -> None:
    with site(page, {}, counts_prompts=True, max_batch=50) as server:
        question = words_of(100)
        server.answers[question] = "Yes."
        chat = Chat(page, server.url)
        chat.ask(question)
        progress = page.get_by_role("progressbar", name="Reading the prompt")
        server.tap.let(2)
        expect(progress).to_be_visible()
        expect(progress).to_have_js_property("value", 100)
        total = progress.evaluate("one => one.max")
        assert total == server.models[MODEL].engine.metrics().prompt_tokens or total > 400
        server.tap.let(1)
        expect(progress).to_have_js_property("value", 150)
        server.tap.open()
        expect(chat.text).to_have_text("Yes.")
        expect(progress).to_be_hidden()
        chat.await_end()
