"""What goes wrong between the page and the server: broken connections, refusals, keys, failures in mid-answer."""

from __future__ import annotations

import re

import pytest
from harness import wait_until
from playwright.sync_api import Page, expect

from headrace.engine.runner import Slice
from headrace.server.http.api_keys import Keys
from headrace.values.events import Sample
from page.chat import Chat, words_of
from page.line import line
from page.serving import MODEL, site

ANSWERS = {"hi": "Yes.", "Go": words_of(12)}


@pytest.mark.parametrize("reset", [True, False], ids=["RST", "FIN"])
def test_a_dropped_connection_goes_on(page: Page, quiet: object, reset: bool) -> None:
    with site(page, ANSWERS) as server, line(server) as (wire, url):
        chat = Chat(page, url)
        chat.ask("Go")
        for count in (0, 4, 8):
            server.tap.let(3)
            expect(chat.text).to_have_text(words_of(count + 3))
            wire.cut(reset=reset)
            expect(chat.answer).to_contain_text("Reconnecting")
            expect(chat.text).to_have_text(words_of(count + 3))
            server.tap.let()  # the server goes on while nobody listens
            wire.mend()
            expect(chat.text).to_have_text(words_of(count + 4))
            expect(chat.answer).not_to_contain_text("Reconnecting")
        server.tap.open()
        expect(chat.text).to_have_text(words_of(12))
        chat.await_end()
        assert len(server.chats) == 1
        server.await_finished(stop=1)
        expect(chat.metrics).to_have_text(re.compile("^13 tokens "))
        expect(chat.alert).to_have_count(0)


def test_stopping_while_the_connection_is_gone(page: Page, quiet: object) -> None:
    with (
        site(page, {"Go": words_of(5000), "hi": "Yes."}, is_held=False, rate=50) as server,
        line(server) as (wire, url),
    ):
        chat = Chat(page, url)
        chat.ask("Go")
        expect(chat.text).to_contain_text("w0 w1 w2")
        wire.cut()
        expect(chat.answer).to_contain_text("Reconnecting")
        chat.stop_button.click()
        chat.await_end()
        expect(chat.text).to_contain_text("w0 w1 w2")
        wire.mend()
        chat.ask_and_wait("hi")
        expect(chat.text).to_have_text("Yes.")


def test_no_server_when_a_message_is_sent(page: Page, quiet: object) -> None:
    with site(page, ANSWERS, is_held=False) as server, line(server) as (wire, url):
        chat = Chat(page, url)
        chat.ask_and_wait("hi")
        wire.cut()
        chat.ask("Go")
        expect(chat.alert).to_be_visible()
        expect(chat.alert).not_to_be_empty()
        expect(chat.stop_button).to_be_hidden()
        expect(chat.questions).to_have_count(2)
        wire.mend()
        chat.button("Try again").click()
        expect(chat.text).to_have_text(words_of(12))
        expect(chat.alert).to_have_count(0)
        chat.await_end()
        assert [one["content"] for one in server.last_chat["messages"]] == ["hi", "Yes.", "Go"]


def test_no_server_when_the_page_has_just_come(page: Page, quiet: object) -> None:
    with site(page, ANSWERS, is_held=False) as server, line(server) as (wire, url):
        page.route("**/v1/models", lambda route: route.abort("connectionrefused"))
        chat = Chat(page, url)
        expect(chat.message).to_be_visible()
        page.unroute("**/v1/models")
        # It asks again, by itself.
        expect(chat.model).to_have_value(MODEL)
        chat.ask_and_wait("hi")
        del wire


def test_an_api_key(page: Page, quiet: object) -> None:
    with site(page, ANSWERS, is_held=False, settings={"api_keys": ("first-key",)}) as server:
        chat = Chat(page, server.url)
        key = chat.settings.get_by_label("API key")
        expect(chat.settings).to_be_visible()
        expect(key).to_be_focused()
        expect(key).to_have_attribute("type", "password")
        key.fill("wrong-key")
        chat.settings.get_by_role("button", name="Done").click()
        wait_until(lambda: any(one.headers.get("authorization") == "Bearer wrong-key" for one in server.requests))
        expect(chat.settings).to_be_visible()
        key.fill("first-key")
        chat.settings.get_by_role("button", name="Done").click()
        expect(chat.settings).to_be_hidden()
        expect(chat.model).to_have_value(MODEL)
        before = len(server.requests)
        chat.ask_and_wait("hi")
        chat.reload()
        expect(chat.text).to_have_text("Yes.")
        chat.ask_and_wait("Go")
        api = [one for one in server.requests[before:] if "/v1/" in one.path]
        assert len(api) >= 3
        assert {one.headers.get("authorization") for one in api} == {"Bearer first-key"}
        assert not any("first-key" in one.path for one in server.requests)
        expect(chat.settings).to_be_hidden()


def test_a_key_that_no_longer_opens(page: Page, quiet: object, monkeypatch: pytest.MonkeyPatch) -> None:
    with site(page, ANSWERS, is_held=False, settings={"api_keys": ("one",)}) as server:
        chat = Chat(page, server.url)
        key = chat.settings.get_by_label("API key")
        key.fill("one")
        chat.settings.get_by_role("button", name="Done").click()
        chat.ask_and_wait("hi")
        monkeypatch.setattr(server.service.keys, "_digests", Keys(("two",))._digests)  # as after a restart
        chat.ask("Go")
        expect(chat.settings).to_be_visible()
        expect(key).to_be_focused()
        expect(chat.settings).to_contain_text(re.compile("does not accept this API key"))
        key.fill("two")
        chat.settings.get_by_role("button", name="Done").click()
        expect(chat.settings).to_be_hidden()
        chat.button("Try again").click()
        expect(chat.text).to_have_text(words_of(12))


def test_a_prompt_that_is_too_long(page: Page, quiet: object) -> None:
    with site(page, ANSWERS, is_held=False, num_cells=150) as server:
        chat = Chat(page, server.url)
        chat.ask("x" * 400)
        expect(chat.alert).to_contain_text(re.compile("context"))
        chat.questions.get_by_role("button", name="Edit message").click()
        page.get_by_role("textbox", name="Edit message").fill("hi")
        chat.button("Save and send").click()
        expect(chat.text).to_have_text("Yes.")
        expect(chat.alert).to_have_count(0)


def test_a_full_queue(page: Page, quiet: object) -> None:
    with site(page, ANSWERS, max_streams=1, max_queue=0) as server:
        first = Chat(page, server.url)
        first.ask("Go")
        server.await_running(1)
        other = page.context.new_page()
        second = Chat(other, server.url)
        second.ask("hi")
        expect(second.alert).to_be_visible()
        expect(second.alert).to_contain_text(re.compile("busy|full|queue|many", re.IGNORECASE))
        server.tap.open()
        first.await_end()
        # Sooner or later, by itself or asked to, it comes through.
        again = second.button("Try again")
        expect(again).to_be_enabled()
        again.click()
        expect(second.text).to_have_text("Yes.")
        other.close()


def test_a_server_that_stops(page: Page, quiet: object) -> None:
    with site(page, ANSWERS, is_held=False) as server:
        chat = Chat(page, server.url)
        chat.ask_and_wait("hi")
        server.service.is_draining = True
        chat.ask("Go")
        expect(chat.alert).to_contain_text("shutting down")
        server.service.is_draining = False
        chat.button("Try again").click()
        expect(chat.text).to_have_text(words_of(12))


def test_a_model_that_is_being_loaded(page: Page, quiet: object) -> None:
    with site(page, ANSWERS, is_held=False) as server:
        model = server.models[MODEL].model
        served = server.service._served
        server.service.expect(MODEL)
        del served[MODEL]  # as before it was there
        chat = Chat(page, server.url)
        expect(page.get_by_text("being loaded").first).to_be_visible()
        server.service.add(MODEL, model)
        expect(chat.model).to_have_value(MODEL)
        chat.ask_and_wait("hi")
        expect(page.get_by_text("being loaded")).to_have_count(0)


def test_an_answer_that_takes_too_long(page: Page, quiet: object) -> None:
    with site(page, {"Go": words_of(5000)}, is_held=False, rate=50, settings={"timeout_ms": 2000}) as server:
        chat = Chat(page, server.url)
        chat.ask("Go")
        expect(chat.alert).to_contain_text(re.compile("longer than the server allows"))
        expect(chat.text).to_have_text(re.compile("^w0 w1"))
        expect(chat.stop_button).to_be_hidden()
        assert sum(server.finished().values()) == 1


def test_a_failure_in_mid_answer(page: Page, quiet: object) -> None:
    seen: list[int] = []

    def fail(part: Slice, sample: Sample) -> None:
        seen.append(sample.token)
        if len(seen) == 4:
            raise ValueError("the sampler fell over")

    with site(page, ANSWERS, on_sample=fail) as server:
        chat = Chat(page, server.url)
        chat.ask("Go")
        server.tap.let(3)
        expect(chat.text).to_have_text(words_of(3))
        server.tap.open()
        expect(chat.alert).to_be_visible()
        expect(chat.alert).not_to_be_empty()
        expect(chat.text).to_have_text(words_of(3))
        expect(chat.stop_button).to_be_hidden()
        expect(chat.answer).not_to_have_attribute("aria-busy", "true")
        chat.button("Try again").click()
        expect(chat.text).to_have_text(words_of(12))
        expect(chat.alert).to_have_count(0)


def test_cancelled_from_somewhere_else(page: Page, quiet: object) -> None:
    with site(page, {"Go": words_of(5000), "hi": "Yes."}, is_held=False, rate=50) as server:
        chat = Chat(page, server.url)
        chat.ask("Go")
        expect(chat.text).to_contain_text("w0 w1 w2")
        (id,) = server.service.live
        server.call_soon(server.service.cancel, id)
        server.await_finished(cancelled=1)
        chat.await_end()
        expect(chat.text).to_contain_text("w0 w1 w2")
        chat.ask_and_wait("hi")
