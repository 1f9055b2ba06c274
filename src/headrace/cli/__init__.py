"""The command `headrace`: one line on standard error for whatever goes wrong, and an exit code that says what kind.

0    done
1    an error inside headrace, or standard output could not be written, or the server's address not be listened on
2    usage: a flag, a value or a prompt that cannot be used
3    the model could not be found or loaded
4    the generation failed, or ran into a deadline
130  stopped by Ctrl-C
141  whoever read standard output has left, as after `| head -1`
"""

from __future__ import annotations

import os
import signal
import sys
import traceback

import typer

from headrace.cli.app import app
from headrace.cli.failures import exit_code, message
from headrace.cli.terminal import one_line, say
from headrace.values.errors import HeadraceError

__all__ = ["main"]

_INTERRUPTED = 130


def main() -> None:
    """Run the command with the arguments of this process, and exit."""
    code = _run()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # one more Ctrl-C must not break into the interpreter's shutdown
    sys.exit(code)


def _run() -> int:
    try:
        return app(prog_name="headrace", standalone_mode=False) or 0
    except typer.TyperException as error:  # what typer finds wrong with the arguments
        say(f"headrace: {one_line(error.format_message())}")
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _INTERRUPTED
    except Exception as error:
        if not isinstance(error, HeadraceError) and os.environ.get("HEADRACE_DEBUG", "0") not in ("", "0"):
            traceback.print_exception(error)
        say(f"headrace: {message(error)}")
        return exit_code(error)
