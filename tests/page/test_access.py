"""The page without a mouse and without a screen: the keyboard, where the focus is, and what is said aloud."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from page.chat import Chat, words_of
from page.probes import FOCUS, FOCUS_IS_SEEN, LIVE_REGIONS, NAMELESS, NOTE_SAID
from page.serving import site

ANSWERS = {"hi": "Yes.", "Go": words_of(5000), "Tell": words_of(300)}


def tab_to(page: Page, role_and_name: str) -> None:
    """Press Tab until an element of this role and name has the focus."""
    seen: list[str] = []
    for _ in range(40):
        page.keyboard.press("Tab")
        here = page.evaluate(FOCUS)
        if here == role_and_name:
            return
        seen.append(here)
    raise AssertionError(f"no {role_and_name!r} among {seen}")


def test_by_keyboard_alone(page: Page) -> None:
    with site(page, ANSWERS, is_held=False, rate=100) as server:
        chat = Chat(page, server.url)
        expect(chat.message).to_be_focused()
        tab_to(page, "a Skip to the message box")
        expect(page.locator(":focus")).to_be_in_viewport()
        page.keyboard.press("Enter")
        expect(chat.message).to_be_focused()
        page.keyboard.type("Go")
        page.keyboard.press("Enter")
        expect(chat.text).to_contain_text("w0 w1 w2")
        expect(chat.message).to_be_focused()
        tab_to(page, "button Stop")
        page.keyboard.press("Enter")
        server.await_finished(cancelled=1)
        chat.await_end()
        expect(chat.message).to_be_focused()
        tab_to(page, "button Settings")
        page.keyboard.press("Enter")
        expect(chat.settings).to_be_visible()
        tab_to(page, "input Temperature")
        page.keyboard.type("0.5")
        tab_to(page, "button Done")
        page.keyboard.press("Enter")
        expect(chat.settings).to_be_hidden()
        expect(chat.button("Settings")).to_be_focused()
        tab_to(page, "textarea Message")
        page.keyboard.type("hi")
        tab_to(page, "button Send")
        page.keyboard.press("Enter")
        expect(chat.text).to_have_text("Yes.")
        assert server.last_chat["temperature"] == 0.5
        chat.await_end()
        tab_to(page, "button Copy answer")
        tab_to(page, "button Regenerate")
        page.keyboard.press("Enter")
        chat.await_end()
        assert len(server.chats) == 3
        tab_to(page, "button New conversation")
        page.keyboard.press("Enter")
        expect(chat.message).to_be_focused()
        expect(chat.answers).to_have_count(0)


def test_the_focus_stays_in_the_dialog_and_is_always_seen(page: Page) -> None:
    with site(page, ANSWERS, is_held=False) as server:
        chat = Chat(page, server.url)
        chat.open_settings()
        for _ in range(40):
            page.keyboard.press("Tab")
            # After the last one the browser's own buttons have their turn.
            where = "document.activeElement === document.body || document.activeElement.closest('dialog') !== null"
            assert page.evaluate(where), page.evaluate(FOCUS)
        page.keyboard.press("Escape")
        for _ in range(12):
            page.keyboard.press("Tab")
            assert page.evaluate(FOCUS_IS_SEEN), page.evaluate(FOCUS)


def test_what_is_said_aloud(page: Page) -> None:
    with site(page, ANSWERS, is_held=False, rate=300) as server:
        chat = Chat(page, server.url)
        expect(chat.log).to_have_attribute("aria-live", "off")
        page.evaluate(NOTE_SAID)
        chat.ask("Tell")
        expect(chat.status.first).to_contain_text("Writing an answer")
        chat.await_end()
        expect(chat.status.first).to_contain_text("Answer finished: w0 w1 w2")
        said = page.evaluate("said")
        assert len(said) <= 4, said
        assert all(len(one) < 400 for one in said), "the first 300 characters, not all of it"
        assert set(page.evaluate(LIVE_REGIONS)) <= {"status", "alert"}


def test_it_is_said_that_an_answer_was_stopped(page: Page) -> None:
    with site(page, ANSWERS, is_held=False, rate=100) as server:
        chat = Chat(page, server.url)
        chat.ask("Go")
        expect(chat.status.first).to_contain_text("Writing an answer")
        expect(chat.text).to_contain_text("w0 w1")
        chat.stop_button.click()
        server.await_finished(cancelled=1)
        expect(chat.status.first).to_contain_text(re.compile("stopped|finished", re.IGNORECASE))


def test_everything_has_a_name_and_a_place(page: Page) -> None:
    with site(page, ANSWERS, is_held=False) as server:
        chat = Chat(page, server.url)
        chat.ask_and_wait("hi")
        for role in ("banner", "main", "log"):
            expect(page.get_by_role(role)).to_have_count(1)  # pyright: ignore[reportArgumentType]
        expect(page.get_by_role("navigation", name="Conversations")).to_have_count(1)
        expect(page.locator("html")).to_have_attribute("lang", "en")
        expect(page).to_have_title(re.compile("headrace"))
        assert page.evaluate(NAMELESS) == []
