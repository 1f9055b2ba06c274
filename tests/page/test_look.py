"""What the page looks like in each of its states: nothing sticks out, nothing jumps, and axe finds nothing serious."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cases import sampled
from playwright.sync_api import Locator, Page, expect

import headrace
from page.chat import Chat, words_of
from page.probes import NOTE_SHIFTS, SCROLLER, STICKS_OUT
from page.serving import Site, call, site

AXE = Path(headrace.__file__).parent / "web" / "vendor" / "node_modules" / "axe-core" / "axe.min.js"

RICH = f"""# A heading

Some **strong** and *soft* text with `code`, a [link](https://example.org/), and {"averyveryverylongword" * 10}.

- a list
  - in a list
- [x] done

1. one
2. two

> What somebody said.

| a | b | c | d | e | f | g | h |
|---|:-:|--:|---|---|---|---|---|
| {" | ".join(["a rather wide cell"] * 8)} |

```python
def long(line):  # {"a comment that does not end " * 8}
    return line
```

---

The end.
"""
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
ANSWERS: dict[str, Any] = {
    "rich": f"<think>\nLet me think about {'x' * 200}.\n</think>\n\n{RICH}",
    "look": list(call("look", json.dumps({"at": "y" * 200}))),
    "Go": words_of(2000),
    "x" * 300: "Yes.",
}
WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 360, "height": 640}


def empty(chat: Chat, server: Site) -> None:
    """The first sight."""
    server.tap.open()
    expect(chat.model.get_by_role("option")).to_have_count(1)


def full(chat: Chat, server: Site) -> None:
    """All that an answer can have."""
    server.tap.open()
    chat.set(**{"Tools (JSON)": json.dumps(TOOLS)})
    chat.ask_and_wait("x" * 300)
    chat.ask_and_wait("look")
    expect(chat.answer.locator(".tool-call")).to_be_visible()
    chat.ask_and_wait("rich")
    expect(chat.text.locator("table")).to_be_visible()
    chat.answer.locator("details.thinking summary").click()


def calling(chat: Chat, server: Site) -> None:
    """A call that waits for its result."""
    server.tap.open()
    chat.set(**{"Tools (JSON)": json.dumps(TOOLS)})
    chat.ask_and_wait("look")
    expect(chat.page.get_by_role("textbox", name="Result of look")).to_be_visible()


def writing(chat: Chat, server: Site) -> None:
    """In the middle of an answer."""
    chat.ask("Go")
    server.tap.let(30)
    expect(chat.text).to_have_text(words_of(30))


def editing(chat: Chat, server: Site) -> None:
    """A message that is being edited."""
    server.tap.open()
    chat.ask_and_wait("x" * 300)
    chat.questions.get_by_role("button", name="Edit message").click()
    expect(chat.page.get_by_role("textbox", name="Edit message")).to_be_visible()


def failed(chat: Chat, server: Site) -> None:
    """An answer that was refused."""
    server.service.is_draining = True
    chat.ask("Go")
    expect(chat.alert).to_be_visible()


def settings(chat: Chat, server: Site) -> None:
    """The dialog, with something wrong in it."""
    server.tap.open()
    dialog = chat.open_settings()
    dialog.get_by_label("Temperature", exact=True).fill("hot")
    dialog.get_by_role("button", name="Done").click()
    expect(dialog.get_by_text("hot")).to_be_visible()


def comparing(chat: Chat, server: Site) -> None:
    """Both sides with answers."""
    server.tap.open()
    chat.button("Compare").click()
    chat.ask("rich")
    for side in ("Left", "Right"):
        region = chat.page.get_by_role("region", name=side)
        expect(region.locator(".answer-text table")).to_be_visible()
        expect(region.locator(".metrics")).to_contain_text("tok/s")


def drawer(chat: Chat, server: Site) -> None:
    """The list of conversations; a drawer on a small screen."""
    server.tap.open()
    chat.ask_and_wait("x" * 300)
    if (button := chat.button("Conversations")).is_visible():
        button.click()
    expect(chat.nav.get_by_role("button", name=re.compile("^xxx")).first).to_be_visible()


STATES = (empty, full, calling, writing, editing, failed, settings, comparing, drawer)
SIZES = {"wide": WIDE, "narrow": NARROW}
STATES_IN_SIZES = [
    pytest.param(state, size, id=f"{state.__name__}-{name}") for state in STATES for name, size in SIZES.items()
]


@contextmanager
def in_state(page: Page, reach: Callable[[Chat, Site], None], size: dict[str, int]) -> Iterator[Chat]:
    """The page in one of its states."""
    page.set_viewport_size(size)  # pyright: ignore[reportArgumentType]
    page.emulate_media(reduced_motion="reduce")  # what slides in is there at once
    with site(page, ANSWERS) as server:
        chat = Chat(page, server.url)
        reach(chat, server)
        yield chat


def axe(page: Page) -> list[str]:
    """What axe finds that is serious or worse."""
    result = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['id']} ({one['impact']}): {one['help']}: {node['html'][:150]} {node.get('failureSummary', '')[:300]}"
        for one in result["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


@pytest.mark.parametrize(("state", "size"), sampled(STATES_IN_SIZES, 3))
def test_a_state(page: Page, quiet: object, state: Callable[[Chat, Site], None], size: dict[str, int]) -> None:
    with in_state(page, state, size):
        assert page.evaluate(STICKS_OUT) == []
        page.evaluate(AXE.read_text("utf-8"))
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            assert axe(page) == [], scheme


def test_everything_can_be_done_on_a_small_screen(page: Page) -> None:
    page.set_viewport_size(NARROW)  # pyright: ignore[reportArgumentType]
    with site(page, ANSWERS, is_held=False) as server:
        chat = Chat(page, server.url)
        expect(chat.nav).to_be_hidden()
        chat.ask_and_wait("rich")
        menu = chat.button("Conversations")
        menu.click()
        expect(chat.nav).to_be_visible()
        page.keyboard.press("Escape")
        expect(chat.nav).to_be_hidden()
        expect(menu).to_be_focused()
        menu.click()
        chat.button("New conversation").click()
        expect(chat.nav).to_be_hidden()
        expect(chat.answers).to_have_count(0)
        menu.click()
        chat.nav.get_by_role("button", name="rich", exact=True).click()
        expect(chat.nav).to_be_hidden()
        expect(chat.text).to_contain_text("The end.")
        chat.open_settings().get_by_role("button", name="Done").click()
        for target in page.locator("button:visible").all():
            box = target.bounding_box()
            assert box is not None
            assert min(box["width"], box["height"]) >= 24, f"too small to be hit: {target.inner_text()!r} {box}"


def scroller(chat: Chat) -> Locator:
    """The element that scrolls the conversation."""
    assert chat.log.evaluate(SCROLLER), "nothing scrolls"
    return chat.page.locator("[data-scroller]")


AT_END = """
() => {
  const one = document.querySelector("[data-scroller]");
  return one.scrollHeight - one.scrollTop - one.clientHeight < 3;
}
"""


def test_it_follows_only_from_the_end(page: Page) -> None:
    with site(page, {"Go": words_of(3000)}) as server:
        chat = Chat(page, server.url)
        chat.set(Max_tokens=5000)
        chat.ask("Go")
        server.tap.let(1000)
        expect(chat.text).to_contain_text("w999")
        one = scroller(chat)
        page.wait_for_function(AT_END)
        to_end = chat.button("Scroll to the end")
        expect(to_end).to_be_hidden()
        one.hover()
        page.mouse.wheel(0, -300)
        expect(to_end).to_be_visible()
        page.wait_for_function("() => document.querySelector('[data-scroller]').scrollTop > 0")
        at = settled_scroll(page)
        server.tap.let(500)
        expect(chat.text).to_contain_text("w1499")
        assert one.evaluate("one => one.scrollTop") == pytest.approx(at, abs=1)
        to_end.click()
        page.wait_for_function(AT_END)
        expect(to_end).to_be_hidden()
        server.tap.let(500)
        expect(chat.text).to_contain_text("w1999")
        page.wait_for_function(AT_END)
        server.tap.open()
        chat.await_end()
        page.wait_for_function(AT_END)


EXCUSED = re.compile(r'<(div class="answer-foot|span class="(figures|metrics))|<(table|thead|tbody|tr|th|td)\b')


def settled_scroll(page: Page) -> float:
    """Where the scrolling has come to rest."""
    return page.evaluate(
        """() => new Promise((resolve) => {
          const one = document.querySelector("[data-scroller]");
          let last = -1, still = 0;
          const look = () => {
            still = one.scrollTop === last ? still + 1 : 0;
            last = one.scrollTop;
            if (still > 10) resolve(last); else requestAnimationFrame(look);
          };
          look();
        })"""
    )


@pytest.mark.parametrize("answer", [RICH, words_of(100)], ids=["long", "short"])
def test_nothing_jumps(page: Page, answer: str) -> None:
    """What was read is where it was. Columns find their widths, and in the end the figures take their place."""
    with site(page, {"Go": answer}, rate=100) as server:
        chat = Chat(page, server.url)
        chat.ask("Go")
        server.tap.let(5)
        expect(chat.text).not_to_be_empty()
        page.evaluate(NOTE_SHIFTS)
        server.tap.open()
        chat.await_end()
        expect(chat.text).to_contain_text(answer.split()[-1])
        shifts = page.evaluate(
            "new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(() => resolve(shifts))))"
        )
        unwanted = [one for one in shifts if not all(EXCUSED.match(moved) for moved in one[1])]
        assert unwanted == []
        assert sum(value for value, _ in shifts) < 0.1


def test_nothing_moves_for_those_who_want_no_motion(page: Page) -> None:
    page.emulate_media(reduced_motion="reduce")
    with site(page, {"Go": words_of(50)}) as server:
        chat = Chat(page, server.url)
        chat.ask("Go")
        server.tap.let(10)
        expect(chat.text).to_have_text(words_of(10))
        moving = "document.getAnimations().filter((one) => one.playState === 'running').map((one) => one.animationName)"
        assert page.evaluate(moving) == []
        server.tap.open()
        chat.await_end()
