"""One chat request to a scripted server, for the tests of chats."""

from __future__ import annotations

from typing import Any

from harness import run_async

from server.harness import Answer, checked, running

TEXT = 'Blue 🌊 é\n\u2028 "quoted" \\ back\t</s>'


def ask(script: Any = TEXT, settings: dict[str, Any] | None = None, **body: Any) -> Answer:
    """One chat request to a server of its own."""

    async def run() -> Answer:
        async with running(script, settings) as server:
            return checked(await server.chat(**body))

    return run_async(run())
