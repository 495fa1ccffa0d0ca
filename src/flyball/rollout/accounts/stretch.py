"""Cumulative counts of one allocation: what every account of rates divides by."""

from __future__ import annotations

from dataclasses import dataclass, field

from flyball.rollout.bins import CANDIDATE, CONTROL, Counts

__all__ = ["Stretch"]


@dataclass(slots=True)
class Stretch:
    """Cumulative (candidate, control) counts of one allocation."""

    requests: list[int] = field(default_factory=lambda: [0, 0])
    exposures: list[int] = field(default_factory=lambda: [0, 0])
    fresh: list[int] = field(default_factory=lambda: [0, 0])
    timed: list[int] = field(default_factory=lambda: [0, 0])

    def add(self, counts: Counts) -> None:
        """Take one bin's counts."""
        for mine, new in ((self.requests, counts.requests), (self.exposures, counts.exposures),
                          (self.fresh, counts.fresh), (self.timed, counts.timed)):  # fmt: skip
            mine[CANDIDATE] += new[CANDIDATE]
            mine[CONTROL] += new[CONTROL]
