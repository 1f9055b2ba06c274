"""The page with the real thing: `headrace serve` and SmolLM2."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from clients.serving import Server
from playwright.sync_api import Page, expect

from page.chat import Chat


def test_a_real_model_writes_and_is_stopped(page: Page, tmp_path: Path) -> None:
    with contextlib.closing(Server(tmp_path / "serve.log", "--n-ctx", "2048")) as server:
        chat = Chat(page, server.url)
        expect(chat.model).to_have_value("smollm2")
        chat.set(Temperature="0", Max_tokens="8")
        chat.ask_and_wait("What is the capital of France?")
        expect(chat.text).not_to_be_empty()
        figures = r"^8 tokens · [\d.]+ tok/s · first token after [\d.,]+ (ms|s)$"
        expect(chat.metrics).to_have_text(re.compile(figures))
        expect(chat.answer).to_contain_text("Cut off at the limit of tokens")
        chat.set(Max_tokens="1000")
        chat.ask("Tell me a very long story about the sea.")
        expect(chat.answers).to_have_count(2)
        seen: set[str] = set()
        while len(seen) < 5:  # it grows before our eyes
            expect(chat.text).not_to_have_text(max(seen, key=len, default=""))
            seen.add(chat.text.inner_text().strip())
        assert all(max(seen, key=len).startswith(one[:10]) for one in seen)
        page.keyboard.press("Escape")
        chat.await_end()
        shown = chat.text.inner_text().strip()
        assert len(shown) >= len(max(seen, key=len))
        chat.reload()
        expect(chat.answers).to_have_count(2)
        expect(chat.text).to_have_text(shown)
        assert server.metric("headrace_streams_finished_total", reason="cancelled") == 1
