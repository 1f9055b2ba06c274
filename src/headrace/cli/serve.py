"""`headrace serve`: models behind OpenAI's HTTP endpoints and a WebSocket."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.cli.failures import exit_code, message
from headrace.cli.models import complete_model
from headrace.cli.options import DraftOption, SpeculationOption, kv_type_help
from headrace.llama.kv_types import KVType
from headrace.values.errors import HeadraceError

if TYPE_CHECKING:
    from headrace.server.serving.settings import Settings

__all__ = ["serve"]

# What `headrace[server]` brings.
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
            help="What to serve: a name (see headrace models), or a path to a .gguf file; NAME= says what clients call "
            "it.",
            autocompletion=complete_model,
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "-m", metavar="[NAME=]MODEL", help="The same as an option; may be given several times."
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.  [default: 127.0.0.1]")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; 0 for any that is free.  [default: 8080]")
    ] = None,
    websocket: Annotated[
        bool | None,
        typer.Option("--websocket/--no-websocket", help="Whether there is a WebSocket at /ws.  [default: no]"),
    ] = None,
    page: Annotated[
        bool | None,
        typer.Option("--page/--no-page", help="Whether there is the chat page at /.  [default: yes]"),
    ] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY", help="A key that clients must send; may be given several times. Other users can see it here."
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="A file of such keys, one a line; lines that begin with # do not count.")
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="An origin whose pages may use the server; may be given several times."),
    ] = None,
    max_streams: Annotated[
        int | None, typer.Option(help="Streams that decode together at most; more wait.  [default: 16]")
    ] = None,
    max_queue: Annotated[
        int | None, typer.Option(help="Streams that may wait at most; more are refused.  [default: 64]")
    ] = None,
    max_body_mb: Annotated[float | None, typer.Option(help="Megabytes that a request may have.  [default: 4]")] = None,
    n_ctx: Annotated[
        int | None,
        typer.Option(
            help="Tokens of context, shared by all streams; if absent, what the model was trained for and memory holds."
        ),
    ] = None,
    kv_type: Annotated[
        KVType | None,
        typer.Option(metavar="TYPE", help=f"{kv_type_help}  [default: f16]"),
    ] = None,
    prefix_cache_mb: Annotated[
        float | None,
        typer.Option(
            help="Megabytes of main memory for what nobody has used for a while, to spare computing it again; 0 is "
            "none.  [default: 256]"
        ),
    ] = None,
    draft: DraftOption = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads that compute at most; if absent, one per available core.")
    ] = None,
    gpu_layers: Annotated[int | None, typer.Option(help="Layers to put on a GPU; -1 for all.  [default: 0]")] = None,
    speculation: SpeculationOption = None,
    timeout_ms: Annotated[
        float | None,
        typer.Option(help="Milliseconds that a stream may take; 0 is no limit.  [default: 600000]"),
    ] = None,
    stall_timeout_ms: Annotated[
        float | None,
        typer.Option(
            help="Milliseconds for which a client may read nothing of its stream; 0 is no limit.  [default: 60000]"
        ),
    ] = None,
    shutdown_timeout: Annotated[
        float | None,
        typer.Option(help="Seconds that running streams have to end when the server is stopped.  [default: 30]"),
    ] = None,
    price_prompt: Annotated[
        float | None, typer.Option(help="Price of a million tokens of prompts; answers then say what they cost.")
    ] = None,
    price_cached: Annotated[
        float | None,
        typer.Option(help="Price of a million tokens of prompts that were cached; if absent, that of the others."),
    ] = None,
    price_completion: Annotated[float | None, typer.Option(help="Price of a million tokens of answers.")] = None,
    currency: Annotated[str | None, typer.Option(help="Currency of the prices.  [default: USD]")] = None,
    log_json: Annotated[
        bool | None, typer.Option("--log-json/--no-log-json", help="Log JSON objects, one a line.  [default: no]")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="A TOML file of settings, for those that are given neither here nor as variables."),
    ] = None,
) -> None:
    """Serve models over HTTP, as OpenAI's clients expect it.

    Each option is a variable as well, and a key of the TOML file: --n-ctx is HEADRACE_N_CTX and n_ctx. Those that may
    be given several times have names in the plural there, such as HEADRACE_MODELS, with commas between the values.

    The first Ctrl-C or SIGTERM takes no more requests and waits for those that run; a second one ends the process.
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
            f"the package {error.name} is not installed, which the server needs; pip install 'headrace[server]'",
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
