"""The command `headrace`. An error is one line on standard error, and the exit code says its kind.

0    done
1    an internal error, or standard output cannot be written, or the server cannot listen on its address
2    usage: a flag, a value or a prompt that cannot be used
3    the model was not found, or could not be loaded
4    the generation failed, or a deadline passed
130  stopped by Ctrl-C
141  the reader of standard output has left, as with `| head -1`
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # another Ctrl-C must not interrupt the interpreter's shutdown
    sys.exit(code)


def _run() -> int:
    try:
        return app(prog_name="headrace", standalone_mode=False) or 0
    except typer.TyperException as error:  # arguments that typer refuses
        say(f"headrace: {one_line(error.format_message())}")
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _INTERRUPTED
    except Exception as error:
        if not isinstance(error, HeadraceError) and os.environ.get("HEADRACE_DEBUG", "0") not in ("", "0"):
            traceback.print_exception(error)
        say(f"headrace: {message(error)}")
        return exit_code(error)
