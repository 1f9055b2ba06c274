"""What the page keeps when something comes in between: a reload, a key, a server that is away, a wrong field."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from harness import wait_until
from playwright.sync_api import Page, expect

from headrace.server.http.api_keys import Keys
from page.chat import Chat, words_of
from page.line import line
from page.serving import MODEL, Site, call, site

ANSWERS = {"hi": "Yes.", "Go": words_of(12)}


def change_keys(server: Site, monkeypatch: pytest.MonkeyPatch, *keys: str) -> None:
    """Have the server take these keys alone, as after a restart."""
    monkeypatch.setattr(server.service.keys, "_digests", Keys(keys)._digests)


def enter_key(chat: Chat, key: str) -> None:
    expect(chat.settings).to_be_visible()
    chat.settings.get_by_label("API key").fill(key)
    chat.settings.get_by_role("button", name="Done").click()


def test_a_reload_right_after_sending(page: Page) -> None:
    with site(page, ANSWERS, counts_prompts=True) as server:
        chat = Chat(page, server.url)
        chat.ask("Go")
        wait_until(lambda: len(server.chats) == 1)  # nothing is answered yet: the request itself is under way
        chat.reload()
        expect(chat.answer).to_have_attribute("aria-busy", "true")
        server.tap.open()
        expect(chat.text).to_have_text(words_of(12))
        chat.await_end()
        expect(chat.alert).to_have_count(0)
        assert len(server.chats) == 1
        server.await_finished(stop=1)


def test_a_reload_finds_another_key_asked_for(page: Page, quiet: object, monkeypatch: pytest.MonkeyPatch) -> None:
    with site(page, ANSWERS, settings={"api_keys": ("one",)}) as server:
        chat = Chat(page, server.url)
        enter_key(chat, "one")
        chat.ask("Go")
        server.tap.let(3)
        expect(chat.text).to_have_text(words_of(3))
        change_keys(server, monkeypatch, "two")
        page.reload()
        expect(chat.answer).to_contain_text("Waiting for an API key")
        expect(chat.answer).to_have_attribute("aria-busy", "true")
        change_keys(server, monkeypatch, "one", "two")
        enter_key(chat, "one")
        server.tap.open()
        expect(chat.text).to_have_text(words_of(12))
        chat.await_end()
        expect(chat.alert).to_have_count(0)


def test_a_reload_finds_no_server(page: Page, quiet: object) -> None:
    with site(page, ANSWERS) as server:
        chat = Chat(page, server.url)
        chat.ask("Go")
        server.tap.let(3)
        expect(chat.text).to_have_text(words_of(3))
        page.route("**/v1/**", lambda route: route.abort("connectionrefused"))
        page.reload()
        expect(chat.answer).to_contain_text("Reconnecting")
        server.tap.open()
        page.unroute("**/v1/**")
        expect(chat.text).to_have_text(words_of(12))
        chat.await_end()
        expect(chat.answer).not_to_contain_text("Reconnecting")
        expect(chat.alert).to_have_count(0)
        assert len(server.chats) == 1


def test_stopped_while_no_server_is_found(page: Page, quiet: object) -> None:
    with site(page, {"Go": words_of(5000)}, is_held=False, rate=50) as server:
        chat = Chat(page, server.url)
        chat.ask("Go")
        expect(chat.text).to_contain_text("w0 w1 w2")
        page.route(
            "**/v1/streams/**", lambda route: route.abort() if route.request.method == "GET" else route.continue_()
        )
        page.reload()
        expect(chat.answer).to_contain_text("Reconnecting")
        chat.stop_button.click()
        chat.await_end()
        expect(chat.answer).to_contain_text("Stopped")
        server.await_finished(cancelled=1)


def test_another_key_asked_for_in_mid_answer(page: Page, quiet: object, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        site(page, ANSWERS, settings={"api_keys": ("one",)}) as server,
        line(server) as (wire, url),
    ):
        chat = Chat(page, url)
        enter_key(chat, "one")
        chat.ask("Go")
        server.tap.let(3)
        expect(chat.text).to_have_text(words_of(3))
        change_keys(server, monkeypatch, "two")
        wire.cut()
        wire.mend()
        expect(chat.settings).to_be_visible()
        expect(chat.text).to_have_text(words_of(3))
        change_keys(server, monkeypatch, "one")
        enter_key(chat, "one")
        server.tap.open()
        expect(chat.text).to_have_text(words_of(12))
        chat.await_end()
        expect(chat.alert).to_have_count(0)


def test_a_model_that_comes_later_and_one_that_goes(page: Page) -> None:
    with site(page, {"hi": "Yes."}, models=["one", "two"], is_held=False) as server:
        chat = Chat(page, server.url)
        chat.model.select_option("two")
        served: dict[str, Any] = server.service._served
        two = served.pop("two")
        page.reload()
        expect(chat.model).to_have_value("one")
        notice = page.get_by_text("The model two is not served now; one is used.")
        expect(notice).to_be_visible()
        chat.ask_and_wait("hi")
        assert server.last_chat["model"] == "one"
        served["two"] = two
        expect(chat.model).to_have_value("two")
        expect(notice).to_have_count(0)
        chat.ask_and_wait("hi")
        assert server.last_chat["model"] == "two"
        del served["two"]
        chat.message.focus()
        chat.model.focus()
        expect(notice).to_be_visible()


TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


def test_a_wrong_field_does_not_cost_the_results(page: Page) -> None:
    answers = {"Go": list(call("look", "{}")), "found": "Yes."}
    with site(page, answers, models=["one", "two"], is_held=False) as server:
        chat = Chat(page, f"{server.url}#/compare")
        chat.set(**{"Tools_(JSON)": json.dumps([TOOL])})
        chat.ask("Go")
        left = page.get_by_role("region", name="Left")
        result = left.get_by_role("textbox", name="Result of look")
        result.fill("found")
        left.get_by_label("Temperature").fill("hot")
        send = left.get_by_role("button", name="Send results")
        send.click()
        expect(left.get_by_text("Temperature is “hot”")).to_be_visible()
        expect(result).to_have_value("found")
        left.get_by_label("Temperature").fill("")
        send.click()
        expect(left.locator(".answer-text").last).to_have_text("one: Yes.")


def test_an_edit_waits_for_the_answer_that_is_being_written(page: Page) -> None:
    with site(page, ANSWERS) as server:
        chat = Chat(page, server.url)
        server.tap.let(2)
        chat.ask_and_wait("hi")
        chat.questions.first.get_by_role("button", name="Edit message").click()
        box = page.get_by_role("textbox", name="Edit message")
        box.fill("hi")
        chat.ask("Go")
        chat.button("Save and send").click()
        expect(chat.alert).to_contain_text("An answer is being written")
        expect(box).to_have_value("hi")
        server.tap.open()
        chat.await_end()
        chat.button("Save and send").click()
        expect(chat.answers).to_have_count(1)
        expect(chat.text).to_have_text("Yes.")
        expect(chat.alert).to_have_count(0)


def test_a_draft_stays_with_its_conversation(page: Page) -> None:
    with site(page, ANSWERS, is_held=False) as server:
        chat = Chat(page, server.url)
        chat.ask_and_wait("hi")
        chat.message.fill("half a thou")
        chat.begin()
        expect(chat.message).to_have_value("")
        chat.message.fill("something else")
        chat.nav.get_by_role("button", name="hi", exact=True).click()
        expect(chat.text).to_have_text("Yes.")
        expect(chat.message).to_have_value("half a thou")
        chat.begin()
        expect(chat.message).to_have_value("something else")


# As many models' own templates do.
ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}"
    '{"messages": {{ messages | tojson }}}'
)


def test_questions_and_answers_alternate(page: Page, quiet: object) -> None:
    with site(page, ANSWERS, is_held=False, chat_template=ALTERNATING) as server:
        chat = Chat(page, server.url)
        server.service.is_draining = True
        chat.ask("Go")
        expect(chat.alert).to_be_visible()
        server.service.is_draining = False
        chat.ask_and_wait("hi")
        expect(chat.text).to_have_text("Yes.")
        assert [one["content"] for one in server.last_chat["messages"]] == ["hi"]


def test_leaving_a_comparison_stops_it(page: Page) -> None:
    with site(page, {"Go": words_of(5000)}, is_held=False, rate=50) as server:
        chat = Chat(page, f"{server.url}#/compare")
        chat.ask("Go")
        server.await_running(2)
        chat.button("Compare").click()
        expect(chat.send_button).to_be_visible()
        server.await_finished(cancelled=2)


def test_a_worker_that_could_not_be_loaded_once(page: Page, quiet: object) -> None:
    with site(page, {"Go": "**fat**"}, is_held=False) as server:
        page.context.route("**/markdown-worker.js", lambda route: route.abort())
        page.clock.install()
        chat = Chat(page, server.url)
        chat.ask("Go")
        expect(chat.text).to_have_text("**fat**")
        page.context.unroute("**/markdown-worker.js")
        page.clock.fast_forward(60_000)
        chat.ask("Go")
        expect(chat.text.locator("strong")).to_have_text("fat")


def test_on_paper(page: Page) -> None:
    with site(page, {"Go": words_of(3000)}, is_held=False) as server:
        chat = Chat(page, server.url)
        chat.ask_and_wait("Go")
        page.emulate_media(media="print")
        for hidden in (chat.message, chat.nav, chat.model, chat.button("Copy answer")):
            expect(hidden).to_be_hidden()
        height = page.evaluate("document.documentElement.scrollHeight")
        assert height >= chat.text.evaluate("(one) => one.getBoundingClientRect().height") > 1000
        page.emulate_media(media="screen")
        expect(chat.model).to_have_value(re.compile(MODEL))
