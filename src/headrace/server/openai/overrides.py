"""`Overrides`: a part of a request as settings of a `Caller`."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Overrides"]


class Overrides(NamedTuple):
    """A part of a request as settings.

    Attributes:
        settings: for `Caller.chat_job` and `Caller.job`.
        names: wire names of these settings, for errors; see `as_api_error`.
    """

    settings: dict[str, Any]
    names: dict[str, str]
