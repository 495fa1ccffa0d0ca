"""Triggers, damping and what the loop did about them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

__all__ = ["LoopEvent", "RetrainSpec", "Trigger", "TriggerSpec"]


@dataclass(frozen=True, slots=True)
class TriggerSpec:
    """Why the loop trains: a paged drift window, a cron schedule (in `timezone`), a metric beyond its limit."""

    kind: Literal["drift", "schedule", "performance"]
    cron: str = ""
    timezone: str = "UTC"
    metric: str = ""
    max: float | None = None
    min: float | None = None


@dataclass(frozen=True, slots=True)
class RetrainSpec:
    """When to retrain, and how much at most."""

    on: tuple[TriggerSpec, ...]
    cooldown: timedelta = timedelta(hours=6)
    budget: int = 3
    budget_window: timedelta = timedelta(weeks=1)


@dataclass(frozen=True, slots=True)
class Trigger:
    """One reason to train, with its evidence; `state` says what became of it and `reason` why."""

    id: str  # stable: the same evidence gives the same id
    model: str
    kind: str
    at: datetime
    evidence: dict[str, Any]
    state: Literal["open", "running", "handled", "damped"] = "open"
    reason: str = ""
    run: str | None = None
    rollout: str | None = None


@dataclass(frozen=True, slots=True)
class LoopEvent:
    """A fact about the loop, for `loop why`."""

    at: datetime
    model: str
    kind: (
        str  # ScheduleArmed, TriggerFired, TriggerDamped, RunStarted, RunFinished, RolloutStarted, RolloutFinished, ...
    )
    text: str
    ids: dict[str, str] = field(default_factory=dict)
