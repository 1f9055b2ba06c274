"""`app`: the commands of `headrace`. Nothing here imports the engine, so that `--help` is fast."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.cli.bench import bench
from headrace.cli.models import models
from headrace.cli.run import run
from headrace.cli.serve import serve

__all__ = ["app"]

app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(run)
app.command()(serve)
app.command()(models)
app.command()(bench)


def _print_version(wanted: bool) -> None:
    if wanted:
        from headrace.values.version import VERSION

        typer.echo(f"headrace {VERSION}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def headrace(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version, and exit.")
    ] = False,
) -> None:
    """Stream text from local language models.

    Exit codes: 0 done, 1 internal error, 2 usage, 3 model, 4 generation or timeout, 130 stopped by Ctrl-C,
    141 the reader of standard output has left.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)
