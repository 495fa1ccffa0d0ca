"""Spec (what the user wants), status (what the controller knows), evidence, decision."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

from flyball.units import Margin

__all__ = [
    "ArmCounts", "Decision", "Evidence", "GuardrailEvidence", "GuardrailSpec", "Phase", "RolloutEvent", "RolloutSpec",
    "RolloutStatus", "TERMINAL",
]  # fmt: skip


class Phase(StrEnum):
    """Where a rollout stands."""

    PENDING = "Pending"
    SHADOW = "Shadow"
    STEP = "Step"
    PAUSED = "Paused"
    ROLLING_BACK = "RollingBack"
    ROLLED_BACK = "RolledBack"
    PROMOTED = "Promoted"


TERMINAL = frozenset({Phase.ROLLED_BACK, Phase.PROMOTED})


@dataclass(frozen=True, slots=True)
class GuardrailSpec:
    """One guardrail: what must not get worse, by how much, judged how.

    kind "errors": e-process on unit episodes (margin relative = m of the test, absolute = promotion floor);
    kind "metric": confidence sequence on `metric` ("mae", "mse") of outcomes; kind "latency": p99 limit in seconds.
    `weight` is its part of the rollout's error budget.
    """

    name: str
    kind: Literal["errors", "metric", "latency"]
    margin: Margin = Margin()
    metric: str = ""
    limit: float | None = None  # absolute limit (`max=`), seconds for latency
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class RolloutSpec:
    """What the user wants; frozen when the rollout starts.

    `steps` are rising shares in (0, 1]; a final 100 % is the promotion itself. `shadow` 0 means no shadow phase.
    """

    steps: tuple[float, ...]
    bake: timedelta
    shadow: timedelta = timedelta(0)
    guardrails: tuple[GuardrailSpec, ...] = ()
    min_requests: int = 200  # candidate requests a step (and the shadow) must have seen
    max_wait: timedelta = timedelta(days=7)
    alpha: float = 0.01  # error budget of everything that can roll back
    episode: timedelta = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class RolloutStatus:
    """What the controller knows; written once per pass."""

    id: str
    model: str
    candidate: str
    champion: str
    phase: Phase
    revision: int
    created: datetime
    step: int = -1  # index into spec.steps while phase is STEP
    entered: datetime | None = None  # when the present phase or step began
    resume: Phase | None = None  # phase before a pause
    wanted: Literal["run", "pause", "promote", "abort"] = "run"  # the latest order, with its reason
    reason: str = ""
    cause: str = ""  # why the rollout was started
    actor: str = ""
    skip_shadow: bool = False
    share: float = 0.0
    finished: datetime | None = None
    cursor: dict[str, int] = field(default_factory=dict)  # segment -> offset folded so far
    state: dict[str, Any] = field(default_factory=dict)  # latest evidence, for display (JSON)
    bins: int = 0  # bins folded so far


@dataclass(frozen=True, slots=True)
class ArmCounts:
    """Cumulative counts of one arm."""

    requests: int = 0
    errors: int = 0
    episodes: int = 0


@dataclass(frozen=True, slots=True)
class GuardrailEvidence:
    """One guardrail's evidence so far.

    `breached` and `safe` are what its test says (safe: the harm bound lies inside the margin); neither is "not yet".
    `harm` is (candidate - control) in the metric's unit, badness positive, with bounds.
    """

    name: str
    breached: bool
    safe: bool
    e_value: float | None = None
    limit: float | None = None
    harm: float | None = None
    lower: float | None = None
    upper: float | None = None
    margin: float | None = None
    samples: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True)
class ShadowEvidence:
    """How the candidate's answers compare with the champion's to the same rows; no guardrail, but worth a look."""

    rows: int
    agreement: float  # share of rows on which both said the same
    shift: float | None  # mean of candidate less champion
    deviation: float | None  # standard deviation of that
    seconds: float  # mean time of the discarded answers


@dataclass(frozen=True, slots=True)
class Evidence:
    """What reconcile observed, at `at` (domain time)."""

    at: datetime
    candidate: ArmCounts
    control: ArmCounts
    in_phase: int  # candidate requests (or shadow answers) since the phase or step began
    guardrails: tuple[GuardrailEvidence, ...]
    newest: datetime | None  # T of the newest folded record
    vetoed: str = ""  # a worker's veto and its cause
    incident: bool = False  # both arms fail together
    mismatch: bool = False  # units arrive in other shares than the table says: hold
    shadow: ShadowEvidence | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, and one sentence why."""

    action: Literal["wait", "start_shadow", "set_step", "pause", "resume", "roll_back", "finish_rollback", "promote"]
    reason: str
    step: int = -1
    share: float = 0.0
    guardrail: str = ""


@dataclass(frozen=True, slots=True)
class RolloutEvent:
    """A fact about a rollout, in the past tense."""

    rollout: str
    at: datetime
    kind: str  # RolloutStarted, ShadowStarted, WeightsChanged, GuardrailBreached, RolledBack, Promoted, Paused, ...
    reason: str
    details: dict[str, Any] = field(default_factory=dict)
