"""Runs and their journaled stages."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

__all__ = ["STAGES", "Run", "RunState", "StageRecord"]

STAGES = ("snapshot", "check", "train", "evaluate", "package", "register", "gate")


class RunState(StrEnum):
    """What became of a run. GATED_OUT: it finished, its gate did not pass."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    GATED_OUT = "gated_out"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class StageRecord:
    """One stage of a run in the journal; `outputs` is small JSON (paths, digests, metrics)."""

    stage: str
    state: str  # started | done | failed
    inputs: str  # digest of what it read
    started: datetime
    finished: datetime | None = None
    outputs: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    seconds: float | None = None  # by the machine's monotonic clock; started and finished are domain time


@dataclass(frozen=True, slots=True)
class Run:
    """One training run. `until` is the domain time it looks back from; `code` the applied code snapshot."""

    id: str
    model: str
    cause: str  # "manual", "drift", "schedule", ...
    state: RunState
    created: datetime
    until: datetime
    code: str
    params: dict[str, Any] = field(default_factory=dict)
    train_on: str | None = None  # overrides the model's, e.g. "9d"
    trigger: str | None = None
    version: str | None = None
    error: str = ""
    finished: datetime | None = None
    stages: tuple[StageRecord, ...] = ()
