"""`VERSION`: the version of the Python package, defined only here."""

from __future__ import annotations

__all__ = ["VERSION"]

VERSION = "0.1.0"
