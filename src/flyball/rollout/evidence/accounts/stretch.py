"""Cumulative counts of one allocation: what every account of rates divides by."""

from __future__ import annotations

from dataclasses import dataclass, field

from flyball.rollout.evidence.closed import CANDIDATE, CONTROL, Counts

__all__ = ["Stretch"]


def _none() -> list[int]:
    return [0, 0]


@dataclass(slots=True)
class Stretch:
    """Cumulative (candidate, control) counts of one allocation."""

    requests: list[int] = field(default_factory=_none)
    exposures: list[int] = field(default_factory=_none)
    fresh: list[int] = field(default_factory=_none)
    timed: list[int] = field(default_factory=_none)
    unusable: list[int] = field(default_factory=_none)
    crowded: list[int] = field(default_factory=_none)
    judged: dict[int, list[int]] = field(default_factory=dict)  # by guardrail
    due: dict[int, list[int]] = field(default_factory=dict)  # by group of delay

    def add(self, counts: Counts) -> None:
        """Take one bin's counts."""
        for mine, new in ((self.requests, counts.requests), (self.exposures, counts.exposures),
                          (self.fresh, counts.fresh), (self.timed, counts.timed)):  # fmt: skip
            mine[CANDIDATE] += new[CANDIDATE]
            mine[CONTROL] += new[CONTROL]
        if counts.unusable:
            _into(self.unusable, counts.unusable)
        if counts.crowded:
            _into(self.crowded, counts.crowded)
        for rail, new in counts.judged.items():
            _into(self.judged.setdefault(rail, [0, 0]), new)
        for group, new in counts.due.items():
            _into(self.due.setdefault(group, [0, 0]), new)


def _into(mine: list[int], new: list[int]) -> None:
    mine[CANDIDATE] += new[CANDIDATE]
    mine[CONTROL] += new[CONTROL]
