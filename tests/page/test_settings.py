"""Settings of the page: what they are on the wire, what is refused, and that they are kept."""

from __future__ import annotations

import json
import re

import pytest
from cases import sampled
from playwright.sync_api import Page, expect

from page.chat import Chat
from page.serving import site

ANSWERS = {"hi": "Yes."}

GIVEN = {
    "Temperature": "0.25",
    "Top p": "0.8",
    "Top k": "7",
    "Min p": "0.05",
    "Max tokens": "99",
    "Seed": "42",
    "Repeat penalty": "1.1",
    "Stop sequences": "END\nTHE END",
}
ON_THE_WIRE = {
    "temperature": 0.25,
    "top_p": 0.8,
    "top_k": 7,
    "min_p": 0.05,
    "seed": 42,
    "repeat_penalty": 1.1,
    "stop": ["END", "THE END"],
}


def limit_of(chat: dict[str, object]) -> object:
    """How many tokens the answer may have, under either of OpenAI's names."""
    return chat.get("max_tokens", chat.get("max_completion_tokens"))


def test_settings_reach_the_server(page: Page) -> None:
    with site(page, ANSWERS, is_held=False) as server:
        chat = Chat(page, server.url)
        chat.ask_and_wait("hi")
        bare = server.last_chat
        assert not set(ON_THE_WIRE) & set(bare), "what is not said is the server's to decide"
        assert limit_of(bare) == 1024
        chat.set(**GIVEN)
        chat.reload()  # they are kept
        chat.ask_and_wait("hi")
        assert {name: server.last_chat.get(name) for name in ON_THE_WIRE} == ON_THE_WIRE
        assert limit_of(server.last_chat) == 99
        dialog = chat.open_settings()
        for label, value in GIVEN.items():
            expect(dialog.get_by_label(label, exact=True)).to_have_value(value)
        dialog.get_by_role("button", name="Reset").click()
        for label in set(GIVEN) - {"Max tokens"}:
            expect(dialog.get_by_label(label, exact=True)).to_have_value("")
        dialog.get_by_role("button", name="Done").click()
        chat.ask_and_wait("hi")
        assert not set(ON_THE_WIRE) & set(server.last_chat)
        assert limit_of(server.last_chat) == 1024


def test_zero_is_not_nothing(page: Page) -> None:
    with site(page, ANSWERS, is_held=False) as server:
        chat = Chat(page, server.url)
        chat.set(Temperature="0", Seed="0", Top_k="0")
        chat.ask_and_wait("hi")
        assert {name: server.last_chat.get(name) for name in ("temperature", "seed", "top_k")} == {
            "temperature": 0,
            "seed": 0,
            "top_k": 0,
        }


def test_the_system_prompt_comes_first_and_is_not_shown(page: Page) -> None:
    with site(page, ANSWERS, is_held=False) as server:
        chat = Chat(page, server.url)
        chat.set(System_prompt="You are a cat.")
        chat.ask_and_wait("hi")
        assert server.last_chat["messages"] == [
            {"role": "system", "content": "You are a cat."},
            {"role": "user", "content": "hi"},
        ]
        expect(chat.log.get_by_text("You are a cat.")).to_have_count(0)


BAD = {
    "Temperature": "hot",
    "Top p": "2",
    "Top k": "1.5",
    "Min p": "-1",
    "Max tokens": "0",
    "Seed": "-1",
    "Repeat penalty": "0",
    "Tools (JSON)": "{}",
}


@pytest.mark.parametrize("label", sampled(BAD, 3))
def test_a_value_that_cannot_be_used_is_named(page: Page, label: str) -> None:
    with site(page, ANSWERS, is_held=False) as server:
        chat = Chat(page, server.url)
        dialog = chat.open_settings()
        field = dialog.get_by_label(label, exact=True)
        field.fill(BAD[label])
        dialog.get_by_role("button", name="Done").click()
        expect(dialog).to_be_visible()
        expect(field).to_be_focused()
        expect(field).to_have_attribute("aria-invalid", "true")
        (problem, *_) = (field.get_attribute("aria-describedby") or "").split()
        expect(page.locator(f"[id='{problem}']")).to_contain_text(label.partition(" (")[0])
        field.fill("")
        dialog.get_by_role("button", name="Done").click()
        expect(dialog).to_be_hidden()


def test_what_only_the_server_can_refuse(page: Page, quiet: object) -> None:
    tools = [{"type": "function", "function": {"name": "no blanks allowed"}}]
    with site(page, ANSWERS, is_held=False) as server:
        chat = Chat(page, server.url)
        chat.set(**{"Tools (JSON)": json.dumps(tools)})
        chat.ask("hi")
        expect(chat.alert).to_contain_text("no blanks allowed")
        chat.set(**{"Tools (JSON)": ""})
        chat.button("Try again").click()
        expect(chat.text).to_have_text("Yes.")


def test_escape_closes_the_dialog_and_not_the_answer(page: Page) -> None:
    with site(page, {"Go": "one two three"}) as server:
        chat = Chat(page, server.url)
        chat.ask("Go")
        server.tap.let()
        expect(chat.text).to_have_text("one")
        chat.open_settings()
        page.keyboard.press("Escape")
        expect(chat.settings).to_be_hidden()
        expect(chat.button("Settings")).to_be_focused()
        server.tap.open()
        expect(chat.text).to_have_text("one two three")
        server.await_finished(stop=1)


def test_choosing_a_model(page: Page) -> None:
    with site(page, ANSWERS, models=("small", "large"), is_held=False) as server:
        chat = Chat(page, server.url)
        expect(chat.model.get_by_role("option")).to_have_text(["small", "large"])
        chat.model.select_option("large")
        chat.ask_and_wait("hi")
        expect(chat.text).to_have_text("large: Yes.")
        assert server.last_chat["model"] == "large"
        chat.reload()
        expect(chat.model).to_have_value("large")
        chat.model.select_option("small")
        chat.ask_and_wait("hi")
        expect(chat.text).to_have_text("small: Yes.")


def test_a_model_that_is_no_longer_there(page: Page) -> None:
    with site(page, ANSWERS, models=("small", "large"), is_held=False) as server:
        chat = Chat(page, server.url)
        chat.model.select_option("large")
        chat.ask_and_wait("hi")
        del server.service._served["large"]
        chat.reload()
        expect(chat.model).to_have_value("small")
        chat.ask_and_wait("hi")
        expect(chat.text).to_have_text("small: Yes.")


def brightness(page: Page) -> float:
    """Of the page's background, from 0 to 255."""
    color = page.evaluate("getComputedStyle(document.body).backgroundColor")
    channels = [float(channel) for channel in re.findall(r"[\d.]+", color)[:3]]
    if color == "rgba(0, 0, 0, 0)":
        color = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        channels = [float(channel) for channel in re.findall(r"[\d.]+", color)[:3]]
    return sum(channels) / 3


def test_light_and_dark(page: Page) -> None:
    with site(page, ANSWERS, is_held=False) as server:
        page.emulate_media(color_scheme="light")
        chat = Chat(page, server.url)
        assert brightness(page) > 200
        page.emulate_media(color_scheme="dark")
        assert brightness(page) < 60
        chat.open_settings().get_by_label("Theme").select_option("Light")
        assert brightness(page) > 200
        chat.settings.get_by_role("button", name="Done").click()
        chat.reload()
        assert brightness(page) > 200
        page.emulate_media(color_scheme="light")
        chat.open_settings().get_by_label("Theme").select_option("Dark")
        assert brightness(page) < 60
        chat.settings.get_by_label("Theme").select_option("System")
        assert brightness(page) > 200
