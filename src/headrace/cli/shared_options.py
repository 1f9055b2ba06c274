"""The options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.llama.kv_types import KV_TYPES, KVType

__all__ = ["DraftOption", "GPULayers", "KVTypeOption", "SpeculationOption", "kv_type_help"]

kv_type_help = f"Precision of the KV cache: {', '.join(KV_TYPES)}."

KVTypeOption = Annotated[KVType, typer.Option(metavar="TYPE", help=kv_type_help)]
DraftOption = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL", help="A smaller model with the same vocabulary, which guesses tokens where that is faster."
    ),
]
GPULayers = Annotated[int, typer.Option(help="Number of layers to put on a GPU; -1 for all.")]
SpeculationOption = Annotated[
    bool | None,
    typer.Option(
        "--speculation/--no-speculation",
        help="Whether to guess tokens from earlier text where that is faster.  [default: unless there is a seed]",
    ),
]
