"""What the command shows on a terminal."""

from __future__ import annotations

import io
import signal

from rich.console import Console

from cli.commands import HELLO, PATIENCE, start, wait_until
from headrace.cli.terminal import Waiting, one_line


def test_on_a_terminal_the_text_ends_with_a_line_break(hello, terminal):
    with start(*HELLO, stdout=terminal.slave) as process:
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read() == b""
    assert terminal.read_all().decode() == hello[1]["text"] + "\r\n"


def test_a_long_prompt_shows_that_it_is_read_until_ctrl_c(terminal):
    prompt = "The quick brown fox jumps over the lazy dog. " * 700
    with start("run", "smollm2", prompt, "--raw", "--threads", "1", stderr=terminal.slave) as process:
        terminal.read_until(b"reading the prompt (7001 tokens)")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output) == (130, b"")
    assert terminal.read_all().endswith(b"\x1b[2K")  # the line is wiped


def test_what_is_waited_for_is_shown_after_a_moment():
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    with Waiting("loading [a] model", measured=True, console=console, moment=0) as waiting:
        wait_until(lambda: "loading [a] model" in screen.getvalue())
        waiting.update(0.5)
        waiting.stop()
        waiting.stop()
    assert screen.getvalue().count("\x1b[?25l") == screen.getvalue().count("\x1b[?25h")  # the cursor is back


def test_what_is_over_sooner_is_not_shown():
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    with Waiting("loading", console=console, moment=PATIENCE) as waiting:
        waiting.update(1.0)
    assert "loading" not in screen.getvalue()


def test_one_line_has_no_line_breaks_and_no_control_characters():
    assert one_line("a\n  b\x1b[0m\udcffé") == "a b\\x1b[0m\\udcffé"
