"""How long the chat page keeps the browser's main thread busy while an answer streams, and while a long one loads.

    python bench/page.py [--tokens 3000] [--rate 300] [--rounds 3] [--json]

`streaming`: a scripted model streams Markdown with headings, lists, code and tables to the page in a headless Chromium,
at a steady rate, four characters a token. `stored`: the page is reloaded with a stored answer of 100,000 characters,
and measured until all of it is shown. The figures are the tasks of the page's main thread, as the browser traces them:
their times on the clock, and their processor times, which do not depend on other processes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

# The scripted server of the tests.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from page.chat import Chat
from page.serving import site

# Characters a token, as with an ordinary tokenizer and English text.
CHARACTERS = 4
STORED = 100_000
# Timeout of each action, in milliseconds.
PATIENCE = 300_000
# Whether all of the answer is shown. It is evaluated in each frame, so it must be cheap.
SHOWN = """(count) => !document.querySelector("[aria-busy=true]")
  && document.querySelectorAll(".answer-text h2").length === count"""
NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")


class Watch:
    """The tasks of the main threads of pages, as the browser traces them."""

    def __init__(self, browser: Browser) -> None:
        self._session = browser.new_browser_cdp_session()
        self._session.on("Tracing.dataCollected", lambda data: self._events.extend(data["value"]))
        self._session.on("Tracing.tracingComplete", lambda _: self._ended.append(True))
        self._events: list[dict[str, Any]] = []
        self._ended: list[bool] = []

    def start(self) -> None:
        self._events.clear()
        self._ended.clear()
        config = {"includedCategories": ["toplevel", "__metadata"]}
        self._session.send("Tracing.start", {"traceConfig": config, "transferMode": "ReportEvents"})

    def stop(self, page: Page) -> dict[str, Any]:
        """Return the figures since the start."""
        self._session.send("Tracing.end")
        while not self._ended:
            # Playwright receives events only while it waits for something.
            page.evaluate("() => new Promise(requestAnimationFrame)")
        mains = {
            (one["pid"], one["tid"])
            for one in self._events
            if one["name"] == "thread_name" and one["args"]["name"] == "CrRendererMain"
        }
        tasks = [one for one in self._events if one.get("ph") == "X" and (one["pid"], one["tid"]) in mains]
        busy = sorted((one.get("tdur", 0) / 1000 for one in tasks), reverse=True)
        return {
            "longest_task_ms": round(max((one["dur"] / 1000 for one in tasks), default=0), 1),
            "of_it_cpu_ms": round(busy[0], 1) if busy else 0,
            "next_cpu_ms": [round(ms, 1) for ms in busy[1:5]],
            "tasks_over_50_ms": sum(one["dur"] > 50_000 for one in tasks),
            "cpu_s": round(sum(busy) / 1000, 2),
        }


def markdown(length: int) -> str:
    """Return `length` characters of Markdown such as a model writes."""
    text = ""
    number = 0
    while len(text) < length:
        number += 1
        text += (
            f"## Part {number}\n\nSome **bold** words about `part_{number}` and a [link](https://example.com/), "
            "which go on for a line or two, _as they do_, until all is said that there is to say.\n\n"
            "- the first of three\n- the **second** one, with `code`\n  - and one in it\n- the third\n\n"
            f"| name | value | note |\n|---|--:|---|\n| a{number} | {number} | `x` |\n| b | {number * 7} | **y** |\n\n"
            f"```python\ndef part_{number}(x):\n    return x + {number}\n\n\nprint(part_{number}(1))\n```\n\n"
            "1. one\n2. two\n\n> As it was said.\n\n"
        )
    return text[:length]


def measure(browser: Browser, tokens: int, rate: float) -> dict[str, dict[str, Any]]:
    """Measure one round."""
    found: dict[str, dict[str, Any]] = {}
    watch = Watch(browser)
    for name, length, size in (("streaming", tokens * CHARACTERS, CHARACTERS), ("stored", STORED, 200)):
        text = markdown(length)
        pieces = [text[start : start + size] for start in range(0, length, size)]
        is_streaming = name == "streaming"
        with browser.new_context() as context:
            context.set_default_timeout(PATIENCE)
            page = context.new_page()
            with site(page, {"Write": pieces}, rate=rate if is_streaming else None, is_held=False) as server:
                chat = Chat(page, server.url)
                chat.set(**{"Max tokens": str(len(pieces) + 1)})
                if is_streaming:
                    watch.start()
                chat.ask("Write")
                page.wait_for_function(SHOWN, arg=text.count("## Part"))
                if not is_streaming:
                    watch.start()
                    page.reload()
                    page.wait_for_function(SHOWN, arg=text.count("## Part"))
                found[name] = {**watch.stop(page), "answer": chat.metrics.inner_text()}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, default=3000, help="tokens of the streamed answer")
    parser.add_argument("--rate", type=float, default=300, help="tokens a second")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    if executable is None:
        print(f"no browser: none of {', '.join(NAMES)} is on the PATH", file=sys.stderr)
        return 1
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    expect.set_options(timeout=PATIENCE)
    rounds: list[dict[str, dict[str, Any]]] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=arguments)
        for number in range(options.rounds):
            rounds.append(measure(browser, options.tokens, options.rate))
            if not options.json:
                for name, found in rounds[-1].items():
                    values = ", ".join(f"{key} {value}" for key, value in found.items())
                    print(f"round {number + 1}, {name}: {values}", flush=True)
        browser.close()
    if options.json:
        print(json.dumps(rounds, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
