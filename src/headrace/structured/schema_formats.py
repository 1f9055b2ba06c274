"""The values of the keyword `format` in a JSON Schema that headrace supports."""

from __future__ import annotations

__all__ = ["FORMATS", "IGNORED_FORMATS", "PATTERNS"]

# llguidance checks dates and times, too, but it takes every year for a leap year and allows a leap second in every
# minute. So they are regular expressions here. A year has four digits and does not begin with 0.
_LEAP_YEAR = "(?:[1-9][0-9](?:0[48]|[2468][048]|[13579][26])|(?:[2468][048]|[13579][26])00)"
_DATE = (
    "(?:[1-9][0-9]{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    f"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP_YEAR}-02-29)"
)
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
# Pydantic's formats for a UUID of one version.
_UUIDS = {
    f"uuid{version}": f"^[0-9a-f]{{8}}-[0-9a-f]{{4}}-{version}[0-9a-f]{{3}}-[89ab][0-9a-f]{{3}}-[0-9a-f]{{12}}$"
    for version in (1, 3, 4, 5, 6, 7, 8)
}
# Formats that are replaced by a regular expression.
PATTERNS = {"date": f"^{_DATE}$", "date-time": f"^{_DATE}T{_TIME}$", "time": f"^{_TIME}$", **_UUIDS}
# Formats that llguidance enforces.
FORMATS = frozenset(("duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"))
# Formats that do not restrict a string: those of OpenAPI's registry, and Pydantic's for bytes and paths.
IGNORED_FORMATS = frozenset(("binary", "double", "float", "int32", "int64", "password", "path"))
