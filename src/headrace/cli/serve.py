"""`headrace serve`: serves models over OpenAI's HTTP endpoints and a WebSocket."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.cli.failures import exit_code, message
from headrace.cli.models import complete_model
from headrace.cli.shared_options import DraftOption, SpeculationOption, kv_type_help
from headrace.llama.kv_types import KVType
from headrace.values.errors import HeadraceError

if TYPE_CHECKING:
    from headrace.server.serving.settings import Settings

__all__ = ["serve"]

# The packages that `headrace[server]` installs.
_PACKAGES = {
    "fastapi",
    "httptools",
    "prometheus_client",
    "pydantic",
    "pydantic_settings",
    "starlette",
    "uvicorn",
    "websockets",
}


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=]MODEL",
            help="A model to serve: a name (see headrace models), or a path to a .gguf file. NAME= sets the name that "
            "clients use.",
            autocompletion=complete_model,
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "-m", metavar="[NAME=]MODEL", help="The same, as an option; may be given several times."
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.  [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 for any free port.  [default: 8080]")] = None,
    websocket: Annotated[
        bool | None,
        typer.Option("--websocket/--no-websocket", help="Serve a WebSocket at /ws.  [default: no]"),
    ] = None,
    page: Annotated[
        bool | None,
        typer.Option("--page/--no-page", help="Serve the chat page at /.  [default: yes]"),
    ] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="An API key that clients must send; may be given several times. Other users of this machine can see "
            "it in the process list.",
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="A file of API keys, one per line; lines that begin with # are skipped.")
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN", help="An origin whose web pages may use the server; may be given several times."
        ),
    ] = None,
    max_streams: Annotated[
        int | None,
        typer.Option(help="Maximum number of streams that decode at the same time; more wait.  [default: 16]"),
    ] = None,
    max_queue: Annotated[
        int | None, typer.Option(help="Maximum number of waiting streams; more are refused.  [default: 64]")
    ] = None,
    max_body_mb: Annotated[float | None, typer.Option(help="Maximum size of a request, in MB.  [default: 4]")] = None,
    n_ctx: Annotated[
        int | None,
        typer.Option(
            help="Size of the context in tokens, shared by all streams; if absent, as much as the model was trained "
            "with and memory holds."
        ),
    ] = None,
    kv_type: Annotated[
        KVType | None,
        typer.Option(metavar="TYPE", help=f"{kv_type_help}  [default: f16]"),
    ] = None,
    prefix_cache_mb: Annotated[
        float | None,
        typer.Option(
            help="Main memory, in MB, for the KV of prompts and answers that no stream is using, so that it need not "
            "be computed again; 0 is none.  [default: 256]"
        ),
    ] = None,
    draft: DraftOption = None,
    threads: Annotated[
        int | None, typer.Option(help="Maximum number of compute threads; if absent, one per available core.")
    ] = None,
    gpu_layers: Annotated[
        int | None, typer.Option(help="Number of layers to put on a GPU; -1 for all.  [default: 0]")
    ] = None,
    speculation: SpeculationOption = None,
    timeout_ms: Annotated[
        float | None,
        typer.Option(help="Milliseconds that a stream may take; 0 is no limit.  [default: 600000]"),
    ] = None,
    stall_timeout_ms: Annotated[
        float | None,
        typer.Option(
            help="Milliseconds that a stream may be paused because its client does not read; 0 is no limit.  [default: "
            "60000]"
        ),
    ] = None,
    shutdown_timeout: Annotated[
        float | None,
        typer.Option(help="Seconds that running streams have to end after the server is stopped.  [default: 30]"),
    ] = None,
    price_prompt: Annotated[
        float | None, typer.Option(help="Price of a million prompt tokens; with prices, answers include their cost.")
    ] = None,
    price_cached: Annotated[
        float | None,
        typer.Option(help="Price of a million cached prompt tokens; if absent, --price-prompt."),
    ] = None,
    price_completion: Annotated[float | None, typer.Option(help="Price of a million completion tokens.")] = None,
    currency: Annotated[str | None, typer.Option(help="Currency of the prices.  [default: USD]")] = None,
    log_json: Annotated[
        bool | None, typer.Option("--log-json/--no-log-json", help="Log JSON objects, one per line.  [default: no]")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="A TOML file of settings; options and environment variables override it."),
    ] = None,
) -> None:
    """Serve models over HTTP, compatible with OpenAI's clients.

    Each option can also be set by an environment variable or in the TOML file: --n-ctx is HEADRACE_N_CTX and n_ctx.
    There, options that may be given several times have a plural name, such as HEADRACE_MODELS, with commas between the
    values.

    On the first Ctrl-C or SIGTERM, the server accepts no more requests and waits for running ones. A second one ends
    the process.
    """
    given = {
        "models": [*(models or []), *(model or [])] or None,
        "host": host,
        "port": port,
        "websocket": websocket,
        "page": page,
        "api_keys": api_key or None,
        "api_key_file": api_key_file,
        "cors_origins": cors_origin or None,
        "max_streams": max_streams,
        "max_queue": max_queue,
        "max_body_mb": max_body_mb,
        "n_ctx": n_ctx,
        "kv_type": kv_type,
        "prefix_cache_mb": prefix_cache_mb,
        "draft": draft,
        "threads": threads,
        "gpu_layers": gpu_layers,
        "speculation": speculation,
        "timeout_ms": timeout_ms,
        "stall_timeout_ms": stall_timeout_ms,
        "shutdown_timeout": shutdown_timeout,
        "price_prompt": price_prompt,
        "price_cached": price_cached,
        "price_completion": price_completion,
        "currency": currency,
        "log_json": log_json,
    }
    try:
        from headrace.server.serving.settings import read_settings

        variable = os.environ.get("HEADRACE_CONFIG")
        settings = read_settings(
            {name: value for name, value in given.items() if value is not None},
            config or (Path(variable) if variable else None),
        )
        _serve(settings)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _PACKAGES:
            raise
        raise typer.BadParameter(
            f"the server needs the package {error.name}, which is not installed; run: pip install 'headrace[server]'",
            param_hint="serve",
        ) from None


def _serve(settings: Settings) -> None:
    from headrace.server.serve import serve
    from headrace.server.serving.logs import announce, logging_to_stderr

    with logging_to_stderr(as_json=settings.log_json):
        try:
            serve(settings)
        except (HeadraceError, OSError) as error:
            if not settings.log_json:
                raise
            fields: dict[str, Any] = {"exit_code": exit_code(error)}
            announce("failed", message(error), level=logging.ERROR, **fields)
            raise typer.Exit(exit_code(error)) from None
