"""Conversations on the page: edited, written anew, kept, found again, deleted."""

from __future__ import annotations

import re

import pytest
from cases import sampled
from harness import wait_until
from playwright.sync_api import Page, expect

from page.chat import Chat, words_of
from page.probes import IS_KEPT, SPOIL
from page.serving import MODEL, Answers, site

ANSWERS: Answers = {f"q{number}": f"answer {number}" for number in range(5)}


def contents(chat: dict[str, object]) -> list[str]:
    """What the messages of a request say."""
    messages = chat["messages"]
    assert isinstance(messages, list)
    return [message["content"] for message in messages]


def test_a_conversation_goes_on(page: Page) -> None:
    with site(page, ANSWERS, is_held=False) as server:
        chat = Chat(page, server.url)
        for number in range(3):
            chat.ask_and_wait(f"q{number}")
        assert contents(server.last_chat) == ["q0", "answer 0", "q1", "answer 1", "q2"]
        assert [one["role"] for one in server.last_chat["messages"]] == ["user", "assistant"] * 2 + ["user"]


def test_editing_a_message(page: Page) -> None:
    with site(page, ANSWERS, is_held=False) as server:
        chat = Chat(page, server.url)
        for number in range(3):
            chat.ask_and_wait(f"q{number}")
        chat.questions.nth(1).get_by_role("button", name="Edit message").click()
        box = page.get_by_role("textbox", name="Edit message")
        expect(box).to_be_focused()
        expect(box).to_have_value("q1")
        box.fill("q4")
        chat.button("Save and send").click()
        expect(chat.answers).to_have_count(2)
        expect(chat.text).to_have_text("answer 4")
        expect(box).to_have_count(0)
        assert contents(server.last_chat) == ["q0", "answer 0", "q4"]
        chat.await_end()
        chat.reload()
        expect(chat.answers).to_have_count(2)
        expect(chat.questions.last).to_contain_text("q4")


@pytest.mark.parametrize("how", ["button", "Escape"])
def test_an_edit_can_be_given_up(page: Page, how: str) -> None:
    with site(page, ANSWERS, is_held=False) as server:
        chat = Chat(page, server.url)
        chat.ask_and_wait("q0")
        edit = chat.questions.get_by_role("button", name="Edit message")
        edit.click()
        box = page.get_by_role("textbox", name="Edit message")
        box.fill("something else")
        if how == "button":
            chat.button("Cancel").click()
        else:
            box.press("Escape")
        expect(box).to_have_count(0)
        expect(edit).to_be_focused()
        expect(chat.questions).to_contain_text("q0")
        expect(chat.text).to_have_text("answer 0")
        assert len(server.chats) == 1


def test_writing_an_answer_anew(page: Page) -> None:
    with site(page, ANSWERS, is_held=False) as server:
        chat = Chat(page, server.url)
        chat.ask_and_wait("q0")
        chat.ask_and_wait("q1")
        server.answers["q1"] = "another answer"
        chat.answer.get_by_role("button", name="Regenerate").click()
        expect(chat.text).to_have_text("another answer")
        chat.await_end()
        expect(chat.answers).to_have_count(2)
        first, second = server.chats[-2:]
        assert first["messages"] == second["messages"]
        chat.reload()
        expect(chat.answers).to_have_count(2)
        expect(chat.text).to_have_text("another answer")


def test_copying(page: Page) -> None:
    answer = "Look:\n\n```python\nprint(1)\n```\n\nDone **well**."
    with site(page, {"Go": answer}, is_held=False) as server:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=server.url)
        chat = Chat(page, server.url)
        chat.ask_and_wait("Go")
        chat.answer.get_by_role("button", name=re.compile("^Cop(y answer|ied)")).click()
        expect(chat.answer.get_by_text("Copied")).to_be_visible()
        assert page.evaluate("navigator.clipboard.readText()") == answer
        chat.answer.get_by_role("button", name="Copy code").click()
        wait_until(lambda: page.evaluate("navigator.clipboard.readText()").strip() == "print(1)")


def test_several_conversations(page: Page) -> None:
    with site(page, ANSWERS, is_held=False) as server:
        chat = Chat(page, server.url)
        chat.ask_and_wait("q0")
        address = page.url
        assert "#/c/" in address
        chat.begin()
        expect(chat.message).to_be_focused()
        chat.ask_and_wait("q1")
        assert contents(server.last_chat) == ["q1"], "the other conversation is not told"
        newest_first = chat.nav.get_by_role("button", name=re.compile("^q"))
        expect(newest_first).to_have_text(["q1", "q0"])
        expect(newest_first.first).to_have_attribute("aria-current", "page")
        expect(newest_first.last).not_to_have_attribute("aria-current", "page")
        newest_first.last.click()
        expect(chat.text).to_have_text("answer 0")
        expect(page).to_have_url(address)
        page.go_back()
        expect(chat.text).to_have_text("answer 1")
        chat.ask_and_wait("q2")
        assert contents(server.last_chat) == ["q1", "answer 1", "q2"]


def test_a_reload_finds_everything(page: Page) -> None:
    with site(page, ANSWERS, is_held=False) as server:
        chat = Chat(page, server.url)
        chat.ask_and_wait("q0")
        chat.begin()
        chat.ask_and_wait("q1")
        figures = chat.metrics.inner_text()
        chat.reload()
        expect(chat.text).to_have_text("answer 1")
        expect(chat.metrics).to_have_text(figures)
        chat.nav.get_by_role("button", name="q0", exact=True).click()
        expect(chat.text).to_have_text("answer 0")
        chat.ask_and_wait("q2")
        assert contents(server.last_chat) == ["q0", "answer 0", "q2"]


def test_a_link_opens_a_conversation(page: Page) -> None:
    with site(page, ANSWERS, is_held=False) as server:
        chat = Chat(page, server.url)
        chat.ask_and_wait("q0")
        address = page.url
        chat.begin()
        chat.ask_and_wait("q1")
        other = page.context.new_page()
        there = Chat(other, address)
        expect(there.text).to_have_text("answer 0")
        other.close()


@pytest.mark.parametrize("hash", sampled(["#/c/no-such-one", "#/c/", "#/nowhere", "#%zz", "#/c/%E0%A4%A"], 2))
def test_an_address_that_is_none(page: Page, hash: str) -> None:
    with site(page, ANSWERS, is_held=False) as server:
        chat = Chat(page, server.url + hash)
        chat.ask_and_wait("q0")
        expect(chat.text).to_have_text("answer 0")


def test_deleting(page: Page) -> None:
    with site(page, ANSWERS, is_held=False) as server:
        chat = Chat(page, server.url)
        chat.ask_and_wait("q0")
        chat.begin()
        chat.ask_and_wait("q1")
        delete(chat, "q1")
        titles = chat.nav.get_by_role("button", name=re.compile("^q"))
        expect(titles).to_have_text(["q0"])
        expect(chat.log.get_by_text("answer 1")).to_have_count(0)
        assert page.evaluate("document.activeElement !== document.body"), "the focus must not be lost"
        chat.reload()
        expect(titles).to_have_text(["q0"])
        delete(chat, "q0")
        expect(titles).to_have_count(0)
        expect(chat.answers).to_have_count(0)
        chat.ask_and_wait("q2")


def test_deleting_what_is_being_written(page: Page) -> None:
    with site(page, {"Go": words_of(5000), **ANSWERS}, is_held=False, rate=50) as server:
        chat = Chat(page, server.url)
        chat.ask("Go")
        expect(chat.text).to_contain_text("w0 w1 w2")
        delete(chat, "Go")
        server.await_finished(cancelled=1)
        expect(chat.answers).to_have_count(0)
        chat.ask_and_wait("q0")
        chat.reload()
        expect(chat.nav.get_by_role("button", name=re.compile("^(q|Go)"))).to_have_text(["q0"])


def delete(chat: Chat, title: str) -> None:
    """Delete a conversation, which is asked about once."""
    question = chat.page.get_by_role("dialog", name="Delete conversation")
    chat.button(f"Delete {title}").click()
    question.get_by_role("button", name="Cancel").click()
    expect(chat.nav.get_by_role("button", name=title, exact=True)).to_have_count(1)
    chat.button(f"Delete {title}").click()
    expect(question).to_contain_text(title)
    question.get_by_role("button", name="Delete").click()


def test_a_conversation_that_is_left_goes_on(page: Page) -> None:
    with site(page, {"Go": "one two three", **ANSWERS}) as server:
        chat = Chat(page, server.url)
        chat.ask("Go")
        server.tap.let()
        expect(chat.text).to_have_text("one")
        chat.begin()
        expect(chat.send_button).to_be_visible()
        server.tap.open()
        server.await_finished(stop=1)
        expect(chat.answers).to_have_count(0)
        chat.ask_and_wait("q0")
        assert contents(server.last_chat) == ["q0"]
        chat.nav.get_by_role("button", name="Go", exact=True).click()
        expect(chat.text).to_have_text("one two three")
        chat.await_end()


def test_a_reload_in_mid_answer_goes_on(page: Page) -> None:
    with site(page, {"Go": words_of(10)}) as server:
        chat = Chat(page, server.url)
        chat.ask("Go")
        server.tap.let(3)
        expect(chat.text).to_have_text(words_of(3))
        chat.reload()
        expect(chat.text).to_have_text(words_of(3))
        expect(chat.answer).to_have_attribute("aria-busy", "true")
        server.tap.let()
        expect(chat.text).to_have_text(words_of(4))
        chat.reload()
        server.tap.open()
        expect(chat.text).to_have_text(words_of(10))
        chat.await_end()
        assert len(server.chats) == 1
        server.await_finished(stop=1)
        expect(chat.metrics).to_have_text(re.compile("^11 tokens "))


def test_an_answer_goes_on_that_was_stopped_after_a_reload(page: Page) -> None:
    with site(page, {"Go": words_of(5000)}, is_held=False, rate=50) as server:
        chat = Chat(page, server.url)
        chat.ask("Go")
        expect(chat.text).to_contain_text("w0 w1 w2")
        chat.reload()
        expect(chat.text).to_contain_text("w0 w1 w2")
        chat.stop_button.click()
        server.await_finished(cancelled=1)
        chat.await_end()


def test_an_answer_that_is_gone_from_the_server_is_shown_as_far_as_it_came(page: Page, quiet: object) -> None:
    with site(page, {"Go": words_of(10), **ANSWERS}, settings={"resume_window": 0}) as server:
        chat = Chat(page, server.url)
        chat.ask("Go")
        server.tap.let(3)
        expect(chat.text).to_have_text(words_of(3))
        wait_until(lambda: page.evaluate(IS_KEPT, words_of(3)))
        address = page.url
        page.goto("about:blank")
        server.tap.open()
        server.await_finished(stop=1)
        page.goto(address)
        expect(chat.text).to_have_text(words_of(3))
        chat.await_end()
        expect(chat.answer).to_contain_text("Cut off")
        chat.ask_and_wait("q0")


@pytest.mark.parametrize(
    "how",
    sampled(
        [
            "Object.defineProperty(window, 'indexedDB', {value: undefined})",
            "IDBFactory.prototype.open = () => { throw new DOMException('no', 'SecurityError') }",
            "IDBFactory.prototype.open = () => { const r = new EventTarget(); r.error = new DOMException('no');"
            " setTimeout(() => { const e = new Event('error'); r.onerror?.(e); r.dispatchEvent(e) }); return r }",
            "for (const k of ['getItem', 'setItem', 'removeItem', 'key'])"
            " Storage.prototype[k] = () => { throw new DOMException('no', 'SecurityError') }",
            "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no', 'SecurityError') }})",
        ],
        2,
    ),
)
def test_nothing_can_be_kept(page: Page, how: str) -> None:
    page.add_init_script(how)
    with site(page, ANSWERS, is_held=False) as server:
        chat = Chat(page, server.url)
        chat.ask_and_wait("q0")
        expect(chat.text).to_have_text("answer 0")
        chat.begin()
        chat.ask_and_wait("q1")
        chat.nav.get_by_role("button", name="q0", exact=True).click()
        expect(chat.text).to_have_text("answer 0")
        chat.set(Temperature="0.5")
        chat.ask_and_wait("q2")
        assert server.last_chat["temperature"] == 0.5
        if "localStorage" not in how and "Storage" not in how:
            expect(chat.nav.get_by_text(re.compile("keep nothing"))).to_be_visible()


@pytest.mark.parametrize(
    "rubbish",
    sampled(
        [
            "{",
            None,
            [],
            {},
            {"messages": None, "title": None, "updated": "x"},
            {"messages": [None, 1, {}, {"role": "alien"}, {"role": "assistant", "toolCalls": 3, "content": {"a": 1}}]},
            {"version": 999, "title": {}, "messages": {"length": -1}},
        ],
        3,
    ),
)
def test_rubbish_in_the_browsers_store(page: Page, rubbish: object) -> None:
    with site(page, ANSWERS, is_held=False) as server:
        chat = Chat(page, server.url)
        chat.set(Temperature="0.5")
        chat.ask_and_wait("q0")
        page.evaluate(SPOIL, rubbish)
        page.reload()
        expect(chat.model).to_have_value(MODEL)
        chat.begin()
        chat.ask_and_wait("q1")
        expect(chat.text).to_have_text("answer 1")
        for title in chat.nav.locator("[aria-current], li button:first-child").all():
            title.click()
        chat.begin()
        chat.ask_and_wait("q2")
