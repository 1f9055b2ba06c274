"""A real Chromium for the tests of the page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
from harness import PATIENCE
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, WebError, expect, sync_playwright

# In this order; Debian has the first, others the rest.
NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
# With "required" a missing browser is a failure.
REQUIRED = "PAGE_BROWSER"  # not HEADRACE_...: of such variables the server expects settings


@dataclass
class Problems:
    """What a page did that no page of ours may do. A test that provokes such things sets `are_fine` or removes them."""

    seen: list[str] = field(default_factory=list)
    are_fine: bool = False
    may_fail: bool = False  # requests may be refused or cut off

    def on_console(self, message: ConsoleMessage) -> None:
        # What a policy forbids is told here, too.
        if message.type == "error" and not (self.may_fail and message.text.startswith("Failed to load resource")):
            self.seen.append(f"console: {message.text} ({message.location['url']})")

    def on_error(self, error: WebError) -> None:
        self.seen.append(f"error: {error.error}")

    def on_request(self, request: Request) -> None:
        url = urlsplit(request.url)
        if url.scheme in ("http", "https", "ws", "wss") and url.hostname != "127.0.0.1":
            self.seen.append(f"request: {request.url}")


# Not for the whole session: while Playwright runs, this thread has an event loop, and other tests could have none.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    if executable is None:
        reason = f"no browser: none of {', '.join(NAMES)} is on the PATH; on Debian: apt-get install chromium"
        if os.environ.get(REQUIRED) == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    # Chromium's own sandbox does not start for root.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    expect.set_options(timeout=PATIENCE * 1000)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture
def problems() -> Problems:
    return Problems()


@pytest.fixture
def quiet(problems: Problems) -> None:
    """For a test in which requests fail: what the browser says of that is no failure."""
    problems.may_fail = True


@pytest.fixture
def page(browser: Browser, problems: Problems) -> Iterator[Page]:
    """A page in a browser that knows nothing yet. An error there, or a request to another host, fails the test."""
    with browser.new_context() as context:
        context.set_default_timeout(PATIENCE * 1000)
        context.on("console", problems.on_console)
        context.on("weberror", problems.on_error)
        context.on("request", problems.on_request)
        yield context.new_page()
    assert problems.are_fine or problems.seen == []
