"""`dumps` and `quoted`: JSON as the server writes it, compact and in ASCII."""

from __future__ import annotations

import json
from json.encoder import encode_basestring_ascii

__all__ = ["dumps", "quoted"]

dumps = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
# A string as JSON. It is ASCII, so a character stays whole wherever the bytes are cut on their way.
quoted = encode_basestring_ascii
