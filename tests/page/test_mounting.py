"""The page elsewhere: under a prefix, in an app of somebody's own, and without the libraries for Markdown."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from playwright.sync_api import Page, expect

import headrace.server.page
from headrace.server import openai_router, page_router, streams_router
from page.chat import Chat
from page.serving import site

ANSWERS = {"hi": "It is **so**.\n\n- one\n- two\n"}


def mounted(app: FastAPI) -> FastAPI:
    """The whole server under a prefix."""
    outer = FastAPI()
    outer.mount("/llm", app)
    return outer


def included(app: FastAPI) -> FastAPI:
    """Its routers in an app of somebody's own."""
    outer = FastAPI()
    for make in (page_router, openai_router, streams_router):
        outer.include_router(make(app.state.service), prefix="/llm")
    return outer


@pytest.mark.parametrize("make_app", [mounted, included])
def test_under_a_prefix(page: Page, make_app: Callable[[FastAPI], Any]) -> None:
    with site(page, ANSWERS, is_held=False, make_app=make_app, path="/llm/") as server:
        chat = Chat(page, server.url)
        chat.ask("hi")
        expect(chat.text.locator("li")).to_have_text(["one", "two"])
        chat.await_end()
        chat.reload()
        expect(chat.text.locator("strong")).to_have_text("so")
        assert {one.path.split("/")[1] for one in server.requests} == {"llm"}


def test_without_the_libraries_an_answer_is_plain_text(
    page: Page, quiet: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "web"
    shutil.copytree(headrace.server.page._FOLDER, folder, ignore=shutil.ignore_patterns("vendor"))
    monkeypatch.setattr(headrace.server.page, "_FOLDER", folder)
    with site(page, ANSWERS, is_held=False) as server:
        chat = Chat(page, server.url)
        chat.ask_and_wait("hi")
        assert chat.text.inner_text().strip() == "It is **so**.\n\n- one\n- two"
        expect(chat.text.locator("strong")).to_have_count(0)
