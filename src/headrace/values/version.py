"""The version of headrace: the one place where it stands."""

from __future__ import annotations

__all__ = ["VERSION"]

VERSION = "0.1.0"
