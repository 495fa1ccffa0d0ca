"""Rollback storms: after several rollbacks of a model in a short time, new automatic rollouts of it wait.

The surprise: only rollbacks by evidence count. An abort is a person's will, a lost A/B test is an answer, and a
champion that changed underneath is nobody's fault; none of them says that the next candidate will be bad too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from flyball.rollout.types import Phase, RolloutStatus
from flyball.units import spoken

__all__ = ["Storm", "StormRule", "storm"]

_NO_FAULT = frozenset({"", "abort", "table", "primary"})


@dataclass(frozen=True, slots=True)
class StormRule:
    """So many rollbacks of a model within `window` make a storm."""

    rollbacks: int = 3
    window: timedelta = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Storm:
    """A model's rollbacks that hold new rollouts back, until `until`."""

    model: str
    rollbacks: tuple[str, ...]  # ids, oldest first
    until: datetime
    rule: StormRule

    def __str__(self) -> str:
        faults = f"{len(self.rollbacks)} rollbacks of {self.model} within {spoken(self.rule.window)}"
        return f"{faults}; new rollouts wait until {self.until:%Y-%m-%d %H:%M} UTC, or start one by hand with --force"


def storm(statuses: Iterable[RolloutStatus], model: str, now: datetime, rule: StormRule | None = None) -> Storm | None:
    """Return the storm that a model is in at `now`, None in calm.

    Args:
        statuses: Rollouts, of any model and in any order.
        model: The model.
        now: Domain time.
        rule: How many rollbacks within what time; three within seven days when left out.

    Returns:
        The storm, with the moment at which the oldest of its rollbacks is old enough.
    """
    rule = rule or StormRule()
    faults = sorted(
        (status.finished, status.id)
        for status in statuses
        if status.model == model and status.phase is Phase.ROLLED_BACK and status.finished is not None
        and status.fault not in _NO_FAULT and now - rule.window < status.finished <= now
    )  # fmt: skip
    if rule.rollbacks < 1 or len(faults) < rule.rollbacks:
        return None
    counted = faults[-rule.rollbacks :]
    return Storm(model, tuple(rollout for _, rollout in faults), counted[0][0] + rule.window, rule)
