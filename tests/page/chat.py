"""The chat page by the names that people and screen readers know its parts by."""

from __future__ import annotations

import re
from typing import Any

from playwright.sync_api import Locator, Page, expect

__all__ = ["Chat", "words_of"]


def words_of(count: int, word: str = "w") -> str:
    """A text of numbered words, each of which is a token."""
    return " ".join(f"{word}{number}" for number in range(count))


class Chat:
    """The page in a browser.

    Args:
        page: the browser's page.
        url: where to go; None where it is there already.
    """

    def __init__(self, page: Page, url: str | None = None) -> None:
        self.page = page
        if url is not None:
            page.goto(url)
        self.message = page.get_by_role("textbox", name="Message", exact=True)
        self.send_button = page.get_by_role("button", name="Send", exact=True)
        self.stop_button = page.get_by_role("button", name="Stop", exact=True)
        self.log = page.get_by_role("log", name="Conversation")
        self.questions = page.get_by_role("article", name="You")
        self.answers = page.get_by_role("article", name="Answer")
        self.settings = page.get_by_role("dialog", name="Settings")
        self.alert = page.get_by_role("alert")
        self.status = page.get_by_role("status")
        self.nav = page.get_by_role("navigation", name="Conversations")
        self.model = page.get_by_role("banner").get_by_role("combobox", name="Model")

    @property
    def answer(self) -> Locator:
        """The last answer."""
        return self.answers.last

    @property
    def text(self) -> Locator:
        """The text of the last answer."""
        return self.answer.locator(".answer-text")

    @property
    def metrics(self) -> Locator:
        """What the last answer took."""
        return self.answer.locator(".metrics")

    def button(self, name: str | re.Pattern[str]) -> Locator:
        """A button by its name."""
        return self.page.get_by_role("button", name=name, exact=True)

    def ask(self, text: str) -> None:
        """Send a message."""
        self.message.fill(text)
        self.send_button.click()

    def ask_and_wait(self, text: str) -> None:
        """Send a message, and wait for the end of its answer."""
        count = self.answers.count()
        self.ask(text)
        expect(self.answers).to_have_count(count + 1)
        self.await_end()

    def begin(self) -> None:
        """Begin a new conversation."""
        self.button("New conversation").click()
        expect(self.answers).to_have_count(0)

    def reload(self) -> None:
        """Load the page anew; the conversation comes back."""
        count = self.answers.count()
        self.page.reload()
        expect(self.answers).to_have_count(count)

    def await_end(self) -> None:
        """Wait for the end of the answer that is being written."""
        expect(self.answer).not_to_have_attribute("aria-busy", "true")
        expect(self.send_button).to_be_visible()

    def open_settings(self) -> Locator:
        """The dialog of the settings."""
        self.button("Settings").click()
        expect(self.settings).to_be_visible()
        return self.settings

    def set(self, **fields: Any) -> None:
        """Fill in fields of the settings, by their labels with _ for a space, and close the dialog."""
        dialog = self.open_settings()
        for label, value in fields.items():
            dialog.get_by_label(label.replace("_", " "), exact=True).fill(str(value))
        dialog.get_by_role("button", name="Done").click()
        expect(dialog).to_be_hidden()
