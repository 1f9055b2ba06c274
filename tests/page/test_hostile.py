"""Answers that want to run script, call home or freeze the page; and what the server tells the browser to allow."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from cases import sampled
from playwright.sync_api import Page, expect

from page.chat import Chat
from page.conftest import Problems
from page.serving import call, site

# Each would set `pwned`, or ask another host for something, if it could.
HOSTILE = {
    "image": "<img src=x onerror='window.pwned=1'> done",
    "script": "<script>window.pwned=1</script> done",
    "svg": "<svg onload=window.pwned=1><animate onbegin=window.pwned=1 attributeName=x></svg> done",
    "link": "[press](javascript:window.pwned=1) [me](JaVaScRiPt&colon;window.pwned=1)"
    " <a href='&#x6a;avascript:pwned=1'>x</a> done",
    "data link": "[press](data:text/html;base64,PHNjcmlwdD5wd25lZD0xPC9zY3JpcHQ+) [me](vbscript:pwned) done",
    "remote": "![x](http://evil.invalid/a.png) <iframe src='//evil.invalid'></iframe> <link rel=stylesheet"
    " href=//evil.invalid/a.css> <style>@import url(//evil.invalid/b.css)</style> done",
    "meta": "<meta http-equiv=refresh content='0;url=//evil.invalid'><base href='//evil.invalid/'> done",
    "form": "<form action='//evil.invalid' id=body name=forms><input name=attributes autofocus></form> done",
    "clobber": "<a id=document name=body></a><img name=getElementById><div id=app></div> done",
    "mathml": "<math><mtext><table><mglyph><style><!--</style>"
    "<img title='--&gt;&lt;img src=1 onerror=pwned=1&gt;'> done",
    "code": "```html\n<img src=x onerror=window.pwned=1>\n``` \n\n`<script>pwned=1</script>` done",
    "language": '```"><img/src/onerror=window.pwned=1>\ncode\n```\n\ndone',
    "template": "<template><script>pwned=1</script></template>{{constructor.constructor('pwned=1')()}} done",
    "object": "<object data=javascript:pwned=1></object><embed src=javascript:pwned=1> done",
    "title": "[a](http://localhost \"x' onmouseover='window.pwned=1\") done",
}


@contextmanager
def watched(page: Page) -> Iterator[None]:
    """Nothing may come of it: no dialog, no script, no navigation, no other host."""
    seen: list[str] = []
    page.on("dialog", lambda dialog: (seen.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("popup", lambda popup: seen.append(f"popup: {popup.url}"))
    page.on("request", lambda request: seen.append(request.url) if "evil.invalid" in request.url else None)
    yield
    assert page.evaluate("typeof window.pwned") == "undefined"
    assert seen == []


def test_hostile_answers(page: Page) -> None:
    answers = {name: list(text) for name, text in HOSTILE.items()}
    with site(page, answers, is_held=False) as server, watched(page):
        chat = Chat(page, server.url)
        for name in HOSTILE:
            chat.ask_and_wait(name)
            expect(chat.text).to_contain_text("done")
            assert page.evaluate("typeof window.pwned") == "undefined", name
        unwanted = "script, style, iframe, object, embed, form, input, svg, math, meta, base, link, img, template"
        address = page.url
        for _ in range(2):
            for link in chat.log.locator(".answer-text").get_by_role("link").all():
                assert (link.get_attribute("href") or "").startswith(("http:", "https:", "mailto:"))
                assert "noopener" in (link.get_attribute("rel") or "")
                link.hover()
            expect(chat.log.locator(f".answer-text :is({unwanted})")).to_have_count(0)
            assert page.url == address
            chat.reload()
            expect(chat.text).to_contain_text("done")


def test_everything_else_that_is_not_ours_is_text(page: Page, quiet: object) -> None:
    """What a person, a model's thoughts and calls, and a server's error can say."""
    bad = "<img src=x onerror='window.pwned=1'>"
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    arguments = json.dumps({"at": bad})
    answers: dict[str, Any] = {bad: list(f"<think>\n{bad}\n</think>\n\nSeen."), "look": list(call("look", arguments))}
    with site(page, answers, is_held=False) as server, watched(page):
        chat = Chat(page, server.url)
        chat.set(**{"Tools (JSON)": json.dumps(tools)})
        chat.ask_and_wait(bad)
        expect(chat.questions).to_contain_text(bad)
        expect(chat.nav.get_by_role("button", name=bad, exact=True)).to_be_visible()
        chat.answer.locator("details.thinking summary").click()
        expect(chat.answer.locator("details.thinking")).to_contain_text(bad)
        chat.ask_and_wait("look")
        expect(chat.answer.locator(".tool-call")).to_contain_text("onerror")
        chat.set(**{"Tools (JSON)": json.dumps([{"type": "function", "function": {"name": bad}}])})
        chat.ask("Go")
        expect(chat.alert).to_contain_text(bad)
        chat.reload()
        expect(chat.questions.first).to_contain_text(bad)
        expect(page.locator("img[src=x]")).to_have_count(0)


def test_names_of_models_are_text(page: Page) -> None:
    name = "<img/src=x/onerror='window.pwned=1'>"
    with site(page, {"Go": "Yes."}, models=(name,), is_held=False) as server, watched(page):
        chat = Chat(page, server.url)
        expect(chat.model.get_by_role("option")).to_have_text([name])
        chat.ask_and_wait("Go")


ENDLESS = {
    "one word": ["x" * 100] * 1000,
    "stars": ["*a_`" * 25] * 1000,
    "lists": [f"{' ' * (depth % 500)}- x\n"[:200] for depth in range(1000)],
    "a table": ["|a|b|\n|-|-|\n", *(["|x|y|\n" * 20] * 1000)],
    "code": ["```js\n", *(["let x = 1;\n" * 10] * 1000)],
}


@pytest.mark.parametrize("name", sampled(ENDLESS, 5))
def test_the_page_answers_while_a_hundred_thousand_characters_come(page: Page, name: str) -> None:
    with site(page, {"Go": ENDLESS[name]}, rate=500) as server:
        chat = Chat(page, server.url)
        # A task of a second is a page that does not answer; a good page stays far below.
        page.evaluate(
            "window.longest = 0; new PerformanceObserver(list => list.getEntries().forEach("
            "one => { window.longest = Math.max(longest, one.duration) })).observe({type: 'longtask'})"
        )
        chat.ask("Go")
        server.tap.let(990)  # not all, so that it does not end before the page was tried
        expect(chat.text).not_to_be_empty()
        expect(chat.stop_button).to_be_visible()
        chat.open_settings()
        chat.settings.get_by_role("button", name="Done").click()
        expect(chat.settings).to_be_hidden()
        chat.message.fill("still here")
        expect(chat.stop_button).to_be_visible()
        server.tap.open()
        # Roles and names of tens of thousands of cells take long to compute, so it is asked by selector here.
        page.wait_for_function("() => !document.querySelector('article[aria-busy]')", polling=100)
        server.await_finished(stop=1)
        assert page.evaluate("longest") < 1000
        page.reload()
        expect(chat.text).not_to_be_empty()
        chat.message.fill("still here")
        expect(chat.message).to_have_value("still here")


def test_what_the_browser_is_told(page: Page) -> None:
    with site(page, {}) as server:
        Chat(page, server.url)
        paths = {
            "": "text/html",
            "headrace.js": "javascript",
            "page/main.js": "javascript",
            "page/style.css": "text/css",
        }
        for path, kind in paths.items():
            with urllib.request.urlopen(server.url + path, timeout=30) as answer:
                assert kind in answer.headers["Content-Type"]
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                if not path:
                    policy = answer.headers["Content-Security-Policy"]
                    assert answer.headers["Referrer-Policy"] == "no-referrer"
        directives = dict(part.strip().partition(" ")[::2] for part in policy.split(";") if part.strip())
        assert directives["default-src"] == "'none'"
        assert directives["script-src"] == "'self'"
        assert directives["connect-src"] == "'self'"
        assert directives["frame-ancestors"] == "'none'"
        assert "require-trusted-types-for" in directives
        assert "unsafe" not in policy
        assert "*" not in policy


def test_the_policy_is_kept_by_the_browser(page: Page, problems: Problems) -> None:
    """What the policy forbids is forbidden indeed: the other tests would not notice if it were not there."""
    problems.are_fine = True
    with site(page, {"Go": "Yes."}, is_held=False) as server:
        chat = Chat(page, server.url)
        chat.ask_and_wait("Go")
        page.evaluate(
            """() => {
              window.blocked = [];
              document.addEventListener("securitypolicyviolation", (event) => blocked.push(event.effectiveDirective));
              const script = document.createElement("script");
              try { script.textContent = "window.pwned = 1"; document.body.append(script); } catch {}
              try { document.body.innerHTML = "<b>gone</b>"; } catch {}
              const image = new Image(); image.src = "http://evil.invalid/x.png"; document.body.append(image);
              fetch("http://evil.invalid/").catch(() => {});
            }"""
        )
        page.wait_for_function("() => blocked.includes('img-src') && blocked.includes('connect-src')")
        assert page.evaluate("typeof window.pwned") == "undefined"
        assert page.evaluate("blocked.includes('require-trusted-types-for')")
        expect(chat.text).to_have_text("Yes.")
