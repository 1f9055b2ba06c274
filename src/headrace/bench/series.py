"""`Series`: the measured values of one quantity, with median, least and most."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

__all__ = ["Series"]


@dataclass(frozen=True, slots=True)
class Series:
    """The measured values of one quantity, one per round."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median value."""
        return statistics.median(self.values)

    @property
    def least(self) -> float:
        """The smallest value."""
        return min(self.values)

    @property
    def most(self) -> float:
        """The largest value."""
        return max(self.values)

    def as_dict(self) -> dict[str, Any]:
        """Return the values, rounded, for JSON."""
        named = {"median": round(self.median, 3), "least": round(self.least, 3), "most": round(self.most, 3)}
        return {**named, "values": [round(value, 3) for value in self.values]}
