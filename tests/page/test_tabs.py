"""The page in two tabs of one browser, which share what it keeps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Page, expect

from page.chat import Chat, words_of
from page.probes import IS_KEPT
from page.serving import Site, site

ANSWERS = {"hi": "Yes.", "Go": words_of(5000)}


@contextmanager
def beside(page: Page, url: str) -> Iterator[Chat]:
    """The page in a second tab."""
    other = page.context.new_page()
    yield Chat(other, url)
    other.close()


def stop_here_seen_there(chat: Chat, there: Chat, server: Site) -> None:
    expect(there.text).to_contain_text("w0 w1 w2")
    chat.stop_button.click()
    server.await_finished(cancelled=1)
    for one in (chat, there):
        one.await_end()
        expect(one.answer).to_contain_text("Stopped")
        expect(one.alert).to_have_count(0)


def test_an_answer_stopped_in_another_tab_has_not_failed(page: Page) -> None:
    with site(page, ANSWERS, is_held=False, rate=50) as server:
        chat = Chat(page, server.url)
        chat.ask("Go")
        expect(chat.text).to_contain_text("w0 w1 w2")
        with beside(page, page.url) as there:
            stop_here_seen_there(chat, there, server)
        chat.reload()
        expect(chat.answer).to_contain_text("Stopped")


def test_settings_of_two_tabs_do_not_overwrite_each_other(page: Page) -> None:
    with site(page, ANSWERS, is_held=False) as server:
        chat = Chat(page, server.url)
        with beside(page, server.url) as there:
            chat.open_settings()
            there.set(API_key="a-key", Top_p="0.5")
            chat.settings.get_by_label("Temperature").fill("0.25")
            chat.settings.get_by_role("button", name="Done").click()
            for one in (chat, there):
                expect(one.open_settings().get_by_label("API key")).to_have_value("a-key")
                expect(one.settings.get_by_label("Temperature")).to_have_value("0.25")
                expect(one.settings.get_by_label("Top p")).to_have_value("0.5")
                one.page.keyboard.press("Escape")
        chat.ask_and_wait("hi")
        assert (server.last_chat["temperature"], server.last_chat["top_p"]) == (0.25, 0.5)
        (asked,) = [one for one in server.requests if one.path.endswith("/chat/completions")]
        assert asked.headers["authorization"] == "Bearer a-key"


def test_what_is_deleted_in_one_tab_stays_away_in_the_other(page: Page) -> None:
    with site(page, ANSWERS, is_held=False, rate=50) as server:
        chat = Chat(page, server.url)
        chat.ask("Go")
        expect(chat.text).to_contain_text("w0 w1 w2")
        with beside(page, server.url) as there:
            there.button("Delete Go").click()
            there.page.get_by_role("dialog", name="Delete conversation").get_by_role("button", name="Delete").click()
            server.await_finished(cancelled=1)
            expect(chat.answers).to_have_count(0)
            expect(chat.page.get_by_text("deleted in another tab")).to_be_visible()
            expect(chat.send_button).to_be_visible()
        chat.ask_and_wait("hi")
        chat.page.reload()
        expect(chat.text).to_have_text("Yes.")
        expect(chat.nav.get_by_role("button", name=re.compile("^(hi|Go)"))).to_have_text(["hi"])
        assert not page.evaluate(IS_KEPT, "w0 w1 w2")
