"""Markdown on the page: the same as it grows as when it is there, harmless, and never in the way."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
from cases import sampled
from playwright.sync_api import Page

from page.conftest import Problems
from page.markdown_harness import markdown_page

ROOT = Path(__file__).resolve().parents[2]
# What the blocks of these are may change with each character.
DOCUMENTS = {
    "inline": "**bold *and* more**, `code`, ~~gone~~ \\* &amp; [l](http://a.b 'd') <http://e.f> www.g.hi x@y.zz  \nend",
    "headings": "# One\ntext\n## Two ##\nSetext\n===\nother\n---\n#no\n####### no",
    "rules": "a\n***b**\n\n***\n* * *\n- - x\n---\nz",
    "lists": "- a\n- b\n  - c\n\n    d\n- e\nlazy\n* other\n1. one\n2. two\n   1. deep\n\n3) three\n\n\nend",
    "loose": "1. a\n2. b\n\n3. c\n\n   more\n10. d\n- x\n\n\n- y",
    "table": "x\n| a | b |\n|---|:-:|\n| 1 | `2|3` |\n| 4\n5 | 6 | 7\n\n|no|table|\n|---|--|x|\n",
    "code": "text\n```js\nlet x = `1`;\n\n```\nafter\n~~~~\n```\n~~~\n~~~~\n    in\n\n      more\n\nend ```not code```",
    "unclosed": "a\n\n``` c++ title\n  b\n\nc\n",
    "quotes": "> a\nlazy\n> - b\n> c\n\n> > d\n> e\n\n> ```\n> f\n\n> g\n===",
    "nested": "- a\n  > b\n  > c\n\n  ```\n  d\n  ```\n- | x | y |\n  |---|---|\n  | 1 | 2 |\n- # e\n",
    "emphasis": "*a **b *c* d** e*f* __g__h_ i ***j*** k ** l",
    "blank": "\n\n\na\n\n \n\t\n   b\n\n\n",
    "other scripts": "# Zażółć\n- **日本語**\n- `שלום` 👩‍👩‍👧 e\u0301\n\n한국어",
    "windows": "# a\r\n\r\n- b\r\n- c\r\n\r\n```\r\nd\r\n```\r\ne\rf",
}
# Here a later line changes what earlier blocks look like, which is seen when the text is final.
LATE = {
    "reference": "[a], [b][c] and [d][c].\n\n- [A]\n\n[a]: http://x.y\n\n> [c]: <http://z.w> 'title'\n\n[a]: http://second.of/it",
    "two lines": "[a]\n\n[a]:\nhttp://x.y\n'title'\n\nend",
}
MIXED = "".join(
    f"## Part {i}\n\nSome **bold** text about `thing{i}` and a [link](https://example.com/{i}), _and so on_.\n\n"
    f"- one\n- **two** with `code`\n  - nested {i}\n\n| name | value |\n|---|--:|\n| a{i} | {i} |\n| b | `x` |\n\n"
    f"```python\ndef f{i}(x):\n    return x\n```\n\n1. first\n2. second\n\n> quoted\n\n"
    for i in range(30)
)
LONG = {
    "list": "".join(f"- item {i} with **bold** and `code`\n" for i in range(1500)),
    "numbers": "".join(f"{i}. item\n" for i in range(7, 2000)),
    "table": "| a | b | c |\n|---|:-:|--:|\n" + "".join(f"| {i} | **x** | `y` |\n" for i in range(1500)),
    "code": "```js\n" + "".join(f"let x{i} = {i};\n" + "\n" * (i % 3) for i in range(2500)) + "```\n",
    "paragraphs": "".join(f"Paragraph {i}.\n\n" for i in range(1500)),
    "mixed": MIXED * 3,
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with markdown_page() as address:
        yield address


@pytest.fixture
def views(page: Page, url: str) -> Page:
    """The page, with what harness.js has for tests."""
    return opened(page, url)


def opened(page: Page, url: str) -> Page:
    page.goto(url)
    page.wait_for_function("() => 'given' in window")
    return page


def given(page: Page, *texts: str, options: dict[str, Any] | None = None) -> dict[str, Any]:
    shown: dict[str, Any] = page.evaluate(
        "async ([texts, options]) => { const { container, ...rest } = await given(texts, options); return rest; }",
        [texts, options or {}],
    )
    return shown


@pytest.mark.parametrize("name", sampled(DOCUMENTS, 4))
def test_each_moment_is_what_marked_makes_of_the_text_so_far(views: Page, name: str) -> None:
    assert views.evaluate("(text) => moments(text)", DOCUMENTS[name]) == []


@pytest.mark.parametrize("name", sampled([*LATE, *DOCUMENTS], 2))
def test_every_cut(views: Page, name: str) -> None:
    assert views.evaluate("(text) => cuts(text)", (DOCUMENTS | LATE)[name]) == []


@pytest.mark.parametrize("seed", sampled([1, 2, 3], 3))
def test_texts_put_together_at_random(views: Page, seed: int) -> None:
    fuzz = "async (seed) => (await import('./harness/fuzz.js')).fuzz(seed, 300)"
    assert views.evaluate(fuzz, seed) == []


@pytest.mark.parametrize("path", sampled(["README.md", "CONTRIBUTING.md", "bench/README.md", "docs/server.md"], 2))
def test_real_documents(views: Page, path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    wanted = views.evaluate("(text) => reference(text)", text)
    assert given(views, text)["shown"] == wanted
    steps = [text[:end] for end in range(0, len(text), 997)]
    assert given(views, *steps, text)["shown"] == wanted


@pytest.mark.parametrize(("step", "name"), sampled(product([37, 1913, 33333], LONG), 7))
def test_a_long_text_is_the_same_however_it_came(views: Page, name: str, step: int) -> None:
    text = LONG[name] + "\n\nThe *end*."
    # The steps are small in one place, so that it does not take long.
    steps = [text[:end] for end in [*range(3000, 6000, min(step, 300)), *range(6000, len(text), max(step, 900))]]
    at_once, grown = given(views, text), given(views, *steps, text)
    assert grown["shown"] == at_once["shown"]
    assert at_once["shown"].endswith("<p>The <em>end</em>.</p>")


def test_parts_of_long_blocks_lose_nothing(views: Page) -> None:
    code = LONG["code"].removeprefix("```js\n").removesuffix("```\n")
    views.evaluate(
        "async (text) => { window.last = await given([text]); }", f"{LONG['code']}\n{LONG['numbers']}\n{LONG['table']}"
    )
    assert views.evaluate("last.container.querySelector('code').textContent") == code.removesuffix("\n")
    numbers = "[...last.container.querySelectorAll('ol')].map(list => [list.start, list.children.length])"
    lists: list[list[int]] = views.evaluate(numbers)
    assert len(lists) > 1, "a very long list is several"
    assert lists[0][0] == 7
    assert sum(count for _, count in lists) == 1993
    for (start, count), (following, _) in pairwise(lists):
        assert following == start + count
    rows = "[...last.container.querySelectorAll('tbody td:first-child')].map(cell => cell.textContent)"
    assert views.evaluate(rows) == [str(i) for i in range(1500)]
    assert (
        views.evaluate("new Set([...last.container.querySelectorAll('thead')].map(head => head.outerHTML)).size") == 1
    )


# Each would set `pwned`, or ask another host for something, if it could. A request is also what `page` looks for.
HOSTILE = [
    "<img src=x onerror=pwned=1>",
    "<script>pwned=1</script>",
    "<pre><img src=x onerror=pwned=1\n\n<svg/onload=pwned=1>",
    "<svg onload=pwned=1><a xlink:href=javascript:pwned=1>x</a></svg>",
    "![x](http://evil.invalid/a.png) ![<img src=x onerror=pwned=1>](http://evil.invalid '\"onload=pwned=1')",
    "[![a](http://evil.invalid/b.png)](http://evil.invalid/c)",
    "[a](javascript:pwned=1) [b](JaVaScRiPt:pwned=1) [c](java&#10;script:pwned=1) [d](&#x6a;avascript:pwned=1)",
    "[a](<javascript:pwned=1>) [b](\x01javascript:pwned=1) [c](data:text/html,x) [d](vbscript:x)",
    "[e](//evil.invalid) [f](/v1) [g](#/c/1) [h](file:///etc/passwd) [i](blob:http://x.y/z)",
    "<javascript:pwned=1> [r][s]\n\n[s]: javascript:pwned=1",
    '[a](http://x.y"onmouseover=pwned=1) [b](http://x.y \'"onfocus=pwned=1 autofocus "\')',
    '```"><img/src/onerror=pwned=1>\n</code></pre><img src=x onerror=pwned=1>\n```',
    "`</code><img src=x onerror=pwned=1>`",
    "<form action=//evil.invalid id=body><input name=children autofocus onfocus=pwned=1></form>",
    "<a id=location name=cookie>x</a> <div id=text class=answer-text style='position:fixed'>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=pwned=1&gt;'>",
    "<iframe srcdoc='<script>parent.pwned=1</script>'></iframe><object data=javascript:pwned=1>",
    "<embed src=//evil.invalid><audio src=//evil.invalid autoplay></audio><video poster=//evil.invalid>",
    "<meta http-equiv=refresh content=0;url=//evil.invalid><base href=//evil.invalid>",
    "<link rel=stylesheet href=//evil.invalid><style>*{background:url(//evil.invalid)}</style>",
    "| <img src=x onerror=pwned=1> | [x](javascript:pwned=1) |\n|---|---|\n| <script>pwned=1</script> | b |",
    "- [ ] <img src=x onerror=pwned=1>\n- [x] done",
    "<!-- --!><img src=x onerror=pwned=1> -->",
    "<style>@import '//evil.invalid';</style><template><img src=x onerror=pwned=1></template>",
]
ALLOWED = {
    *("a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre"),
    *("strong", "table", "tbody", "td", "th", "thead", "tr", "ul"),
    # What we put around that.
    *("button", "div", "figcaption", "figure", "span"),
}


@pytest.mark.parametrize("text", sampled(HOSTILE, 3))
def test_hostile_text(views: Page, text: str) -> None:
    cuts = [text[:end] for end in range(1, len(text), 3)]
    views.evaluate("async (texts) => { window.last = await given(texts); }", [*cuts, text, f"{text}\n\nThe end."])
    tags = set(views.evaluate("[...last.container.querySelectorAll('*')].map(node => node.localName)"))
    assert tags <= ALLOWED
    attributes: list[list[str]] = views.evaluate(
        "[...last.container.querySelectorAll('*')].flatMap("
        "node => [...node.attributes].map(({ name, value }) => [node.localName, name, value]))"
    )
    for tag, name, value in attributes:
        if tag == "a":
            assert name in ("href", "rel", "target", "title")
            assert name != "href" or value.startswith(("http://", "https://"))
        else:
            assert name in ("class", "align", "start", "tabindex", "role", "aria-label", "type")
    # Those of ours; none that the text brought.
    classes = {word for _, name, value in attributes if name == "class" for word in value.split()}
    assert classes <= {"html", "plain", "part", "code", "language", "table", "quiet", "copy"}
    assert views.evaluate("document.querySelectorAll('[id]').length") == 1
    assert views.evaluate("'pwned' in window") is False
    assert "The end." in views.evaluate("last.container.textContent")
    links = "[...last.container.querySelectorAll('a')].every(a => a.target === '_blank' && a.rel.includes('noopener'))"
    assert views.evaluate(links)


def test_html_and_tasks_are_shown_as_text(views: Page) -> None:
    shown = given(views, "a <b>c</b> &lt;\n\n<div>\n  d\n</div>\n\n- [ ] e\n- [x] f")
    assert shown["text"] == "a <b>c</b> <<div>  d</div>☐ e☑ f"
    assert given(views, "![alt](http://x.y/z.png)")["shown"] == '<p><a href="http://x.y/z.png">alt</a></p>'


# 100,000 characters that are meant to take long, or to take much room.
ENDLESS = {
    "a word": "x" * 100_000,
    "a line": "hello " * 16_667,
    "quotes": ">" * 100_000,
    "brackets": "[" * 100_000,
    "links": "[a](" * 25_000,
    "stars": "*a **b " * 14_286,
    "stars alone": "*" * 100_000,
    "underscores": "_a" * 50_000,
    "backticks": " ".join("`" * (i % 300) + "a" for i in range(660)),
    "nested": "- " * 50_000,
    "stairs": "\n".join(" " * i + "- x" for i in range(440)),
    "blank": "\n" * 100_000,
    "paragraphs": "a\n\n" * 33_333,
    "list": "- a\n" * 25_000,
    "table": "|a|b|c|\n|-|-|-|\n" + "|x|y|z|\n" * 12_500,
    "empty cells": "|a" * 29 + "\n" + "|-" * 29 + "\n" + "|\n" * 50_000,
    "columns": "|a" * 5000 + "\n" + "|-" * 5000 + "\n" + "|\n" * 40_000,
    "code": "```js\n" + "let x = 1;\n" * 9091,
    "a line of code": "```\n" + "y" * 100_000 + "\n```",
    "definitions": "".join(f"[a{i}]: /u\n" for i in range(8000)),
    "tags": "<a " * 33_333,
    "ampersands": "&" * 100_000,
    "quoted": "> a\n" * 25_000,
    "strong": "**" * 25_000 + "a" + "**" * 25_000,
}


@pytest.mark.parametrize("name", sampled(ENDLESS, 3))
def test_a_hundred_thousand_characters(views: Page, name: str) -> None:
    """All of it is there, and what comes after is Markdown again. That no frame is long, bench/page.py says."""
    text = ENDLESS[name]
    shown = given(views, text[:30_000], text[:60_000], f"{text}\n\n```\n```\n\nThe *end*.")
    assert shown["text"].endswith("The end.") or "```" in text
    letters = sum(map(text.count, "xyhelo"))
    assert sum(map(shown["text"].count, "xyhelo")) >= letters
    assert shown["work"]["lexed"] <= shown["work"]["jobs"] * 20_000


@pytest.mark.parametrize("name", sampled(LONG, 3))
def test_what_one_update_costs_does_not_grow(views: Page, name: str) -> None:
    """A token more is lexed with the block that it belongs to, and only its item, row or line is drawn again."""
    most = views.evaluate("([text, step]) => costs(text, step)", [LONG[name][:18_000], 120])
    assert most["lexed"] <= 5000
    assert most["sanitised"] <= 1500
    assert most["nodes"] <= 60


def test_a_frame_is_drawn_once(views: Page) -> None:
    counts = views.evaluate(
        """async (text) => {
          const { view, counts } = make();
          for (let length = 1; length <= text.length; length += 1) view.update(text.slice(0, length), false);
          await view.flush();
          return counts;
        }""",
        "word " * 300,
    )
    assert counts["renders"] <= 3


def test_what_is_settled_is_not_touched_and_a_selection_stays(views: Page) -> None:
    kept = views.evaluate(
        """async () => {
          const { container, view } = make();
          const shows = async (text) => { view.update(text, false); await view.flush(); };
          const selected = [];
          const select = (node) => getSelection().setBaseAndExtent(node, 0, node, 5);
          await shows("First **strong** one.\\n\\nSecond");
          const first = container.querySelector("p");
          select(container.querySelectorAll("p")[1].firstChild);
          await shows("First **strong** one.\\n\\nSecond one grows\\n\\n```\\nlet x");
          selected.push(String(getSelection()));
          select(container.querySelector(".part").firstChild);
          await shows("First **strong** one.\\n\\nSecond one grows\\n\\n```\\nlet x = 1;\\nlet y = 2;");
          selected.push(String(getSelection()));
          return { selected, isSame: first === container.querySelector("p") };
        }"""
    )
    assert kept == {"selected": ["Secon", "let x"], "isSame": True}


def test_a_text_that_becomes_another_one(views: Page) -> None:
    shown = given(views, "# One\n\n- a\n- b\n\nmore", "Other *text*", "Other *text* again\n\n- c")
    assert shown["shown"] == given(views, "Other *text* again\n\n- c")["shown"]


def test_a_final_text_that_goes_on(views: Page) -> None:
    shown = views.evaluate(
        """async () => {
          const { container, view } = make();
          for (const [text, isFinal] of [["- a", true], ["- a\\n- b", false], ["- a\\n- b\\n\\nc", true]]) {
            view.update(text, isFinal);
            await view.flush();
          }
          return shown(container);
        }"""
    )
    assert shown == given(views, "- a\n- b\n\nc")["shown"]


def test_destroy_ends_it(views: Page) -> None:
    text = views.evaluate(
        """async () => {
          const { container, view } = make();
          view.update("before", false);
          await view.flush();
          view.update("before and after", false);
          view.destroy();
          view.update("before and after that", true);
          await view.flush();
          return container.textContent;
        }"""
    )
    assert text == "before"


def test_copying_code(views: Page) -> None:
    views.context.grant_permissions(["clipboard-read", "clipboard-write"])
    code = LONG["code"].removeprefix("```js\n").removesuffix("```\n")
    given(views, "- a\n\n  ```py\n  b = 1\n\n  c = 2\n  ```\n\n" + LONG["code"])
    buttons = views.get_by_role("button", name="Copy code")
    for wanted in ("b = 1\n\nc = 2", code.removesuffix("\n")):
        # The one that was pressed says so for a while, and is not the first of this name any more.
        buttons.first.click()
        views.get_by_role("button", name="Copied").last.wait_for()
        assert views.evaluate("navigator.clipboard.readText()") == wanted


def test_a_worker_that_takes_too_long_is_ended(page: Page) -> None:
    with markdown_page(worker="harness/hanging-worker.js") as url:
        views = opened(page, url)
        shown = given(views, "First **a**.\n\nThis will _hang_.\n\n- third *b*")
        assert shown["shown"] == ("<p>First <strong>a</strong>.</p>This will _hang_.<ul><li>third <em>b</em></li></ul>")
        assert views.evaluate("lexer.numEnded") > 0
        # One that hangs again and again is given up.
        shown = given(views, "\n\n".join(f"**hang** {i}" for i in range(30)))
        assert shown["text"].count("**hang**") == 30


def test_without_what_is_from_others(page: Page, quiet: object) -> None:
    with markdown_page(has_vendor=False) as url:
        views = opened(page, url)
        text = "# Not a *heading*\n\n    <img src=x onerror=pwned=1>\n"
        shown = given(views, text[:9], text)
        assert shown["text"] == text
        assert shown["work"]["jobs"] == 0
        assert views.evaluate("getComputedStyle(document.querySelector('.plain')).whiteSpace") == "pre-wrap"


def test_without_a_worker(page: Page, quiet: object) -> None:
    with markdown_page(worker="harness/missing.js") as url:
        views = opened(page, url)
        assert given(views, "a *b*\n\nc", "a *b*\n\nc d")["text"] == "a *b*\n\nc d"


def test_plain_text(views: Page, problems: Problems) -> None:
    text = "a *b*\n\n# c\n" * 3000
    assert given(views, text[:500], text, options={"plain": True})["text"] == text
    assert problems.seen == []
