"""The comparison view: one message to two settings or models, both answers at once."""

from __future__ import annotations

import re

from harness import wait_until
from playwright.sync_api import Locator, Page, expect

from page.chat import Chat, words_of
from page.serving import site


class Comparison(Chat):
    """The page with both sides."""

    def __init__(self, page: Page, url: str) -> None:
        super().__init__(page, url + "#/compare")
        self.left = page.get_by_role("region", name="Left")
        self.right = page.get_by_role("region", name="Right")
        expect(self.left).to_be_visible()
        expect(self.right).to_be_visible()

    @staticmethod
    def text_of(side: Locator) -> Locator:
        """What a side has written."""
        return side.get_by_role("article", name="Answer").last.locator(".answer-text")

    @staticmethod
    def metrics_of(side: Locator) -> Locator:
        """What it took."""
        return side.get_by_role("article", name="Answer").last.locator(".metrics")


def test_both_sides_stream_at_once(page: Page) -> None:
    with site(page, {"Go": words_of(6)}) as server:
        chat = Comparison(page, server.url)
        chat.ask("Go")
        live = server.service.live
        wait_until(lambda: len(live) == 2 and all(live.values()))
        # The first of these steps may have begun before the other side was there.
        server.tap.let(3)
        for side in (chat.left, chat.right):
            expect(chat.text_of(side)).to_have_text(re.compile("^w0 w1"))
            expect(chat.text_of(side)).not_to_contain_text("w4")
        server.tap.open()
        for side in (chat.left, chat.right):
            expect(chat.text_of(side)).to_have_text(words_of(6))
            expect(chat.metrics_of(side)).to_have_text(re.compile("^7 tokens · .* tok/s"))
        server.await_finished(stop=2)


def test_two_models(page: Page) -> None:
    with site(page, {"Go": words_of(6)}, models=("small", "large")) as server:
        chat = Comparison(page, server.url)
        for side, model in ((chat.left, "small"), (chat.right, "large")):
            side.get_by_role("combobox", name="Model").select_option(model)
        chat.ask("Go")
        # Now one goes on, and now the other: each on an engine of its own.
        server.taps["large"].let(3)
        expect(chat.text_of(chat.right)).to_have_text("large: w0 w1")
        expect(chat.text_of(chat.left)).to_have_text("")
        server.taps["small"].let(2)
        expect(chat.text_of(chat.left)).to_have_text("small: w0")
        expect(chat.text_of(chat.right)).to_have_text("large: w0 w1")
        server.taps["large"].open()
        expect(chat.text_of(chat.right)).to_have_text(f"large: {words_of(6)}")
        expect(chat.stop_button).to_be_visible()
        server.taps["small"].open()
        expect(chat.text_of(chat.left)).to_have_text(f"small: {words_of(6)}")
        expect(chat.send_button).to_be_visible()


def test_each_side_has_settings_of_its_own(page: Page) -> None:
    fields = ("Temperature", "Top p", "Max tokens", "System prompt")
    given = {"Left": ("0.1", "0.5", "50", "Be brief."), "Right": ("1.5", "0.9", "60", "Be verbose.")}
    with site(page, {"Go": "Yes.", "On": "Yes!"}, is_held=False) as server:
        chat = Comparison(page, server.url)
        for name, values in given.items():
            side = page.get_by_role("region", name=name)
            for label, value in zip(fields, values, strict=True):
                side.get_by_label(label, exact=True).fill(value)
        chat.ask("Go")
        for side in (chat.left, chat.right):
            expect(chat.text_of(side)).to_have_text("Yes.")
        expect(chat.send_button).to_be_visible()
        seen = sorted(
            (one["temperature"], one["top_p"], one.get("max_tokens", one.get("max_completion_tokens")), one["messages"])
            for one in server.chats
        )
        assert seen == [
            (float(t), float(p), int(limit), [{"role": "system", "content": system}, {"role": "user", "content": "Go"}])
            for t, p, limit, system in given.values()
        ]
        chat.ask("On")
        for side in (chat.left, chat.right):
            expect(chat.text_of(side)).to_have_text("Yes!")


def test_stop_stops_both(page: Page) -> None:
    with site(page, {"Go": words_of(5000)}, is_held=False, rate=50) as server:
        chat = Comparison(page, server.url)
        chat.ask("Go")
        for side in (chat.left, chat.right):
            expect(chat.text_of(side)).to_contain_text("w0 w1 w2")
        page.keyboard.press("Escape")
        server.await_finished(cancelled=2)
        expect(chat.send_button).to_be_visible()
        for side in (chat.left, chat.right):
            expect(chat.text_of(side)).to_contain_text("w0 w1 w2")


def test_one_side_may_fail(page: Page, quiet: object) -> None:
    with site(page, {"Go": "Yes."}, models=("small", "large"), is_held=False) as server:
        chat = Comparison(page, server.url)
        chat.left.get_by_role("combobox", name="Model").select_option("small")
        chat.right.get_by_role("combobox", name="Model").select_option("large")
        served = server.service._served.pop("large")
        chat.ask("Go")
        expect(chat.text_of(chat.left)).to_have_text("small: Yes.")
        expect(chat.right.get_by_role("alert")).to_contain_text("large")
        expect(chat.left.get_by_role("alert")).to_have_count(0)
        server.service._served["large"] = served
        chat.right.get_by_role("button", name="Try again").click()
        expect(chat.text_of(chat.right)).to_have_text("large: Yes.")


def test_a_value_that_cannot_be_used_is_named(page: Page) -> None:
    with site(page, {"Go": "Yes."}, is_held=False) as server:
        chat = Comparison(page, server.url)
        field = chat.right.get_by_label("Temperature", exact=True)
        field.fill("hot")
        chat.ask("Go")
        expect(chat.right.get_by_text("hot")).to_be_visible()
        assert server.chats == []
        field.fill("0.5")
        chat.ask("Go")
        expect(chat.text_of(chat.right)).to_have_text("Yes.")


def test_the_way_there_and_back(page: Page) -> None:
    with site(page, {"Go": "Yes."}, is_held=False) as server:
        chat = Chat(page, server.url)
        chat.ask_and_wait("Go")
        compare = chat.button("Compare")
        expect(compare).to_have_attribute("aria-pressed", "false")
        compare.click()
        expect(page).to_have_url(re.compile("#/compare$"))
        expect(compare).to_have_attribute("aria-pressed", "true")
        expect(page.get_by_role("region", name="Left")).to_be_visible()
        compare.click()
        expect(compare).to_have_attribute("aria-pressed", "false")
        expect(page.get_by_role("region", name="Left")).to_have_count(0)
        chat.nav.get_by_role("button", name="Go", exact=True).click()
        expect(chat.text).to_have_text("Yes.")
        chat.reload()
        expect(chat.text).to_have_text("Yes.")
