"""`VERSION`: the version of headrace; it stands only here."""

from __future__ import annotations

__all__ = ["VERSION"]

VERSION = "0.1.0"
