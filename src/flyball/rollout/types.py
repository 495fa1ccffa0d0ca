"""Spec (what the user wants), status (what the controller knows), evidence, decision."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

from flyball.rollout.routing import Condition
from flyball.units import Margin

__all__ = [
    "ArmCounts", "Calendar", "Decision", "Evidence", "Freeze", "GuardrailEvidence", "GuardrailKind", "GuardrailSpec",
    "Measured", "Outside", "Phase", "RolloutEvent", "RolloutSpec", "RolloutStatus", "SAFE_ALPHA", "ShadowEvidence",
    "Step", "Strategy", "TERMINAL",
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
SAFE_ALPHA = 0.05  # level of each bound that a promotion needs: it is watched for harm, not for false alarms


class Strategy(StrEnum):
    """How a candidate comes to all traffic, or does not."""

    CANARY = "canary"  # rising steps; gradual, segment-first and shadow-first are canaries with other steps
    BLUE_GREEN = "blue-green"  # all traffic at once after a shadow phase, the other side kept warm
    ALL_AT_ONCE = "all-at-once"
    AB = "ab"  # one share until the primary metric has a verdict
    BANDIT = "bandit"  # shares follow the primary metric until one arm has won
    CHALLENGER = "challenger"  # a standing comparison; only a person ends it with a promotion


@dataclass(frozen=True, slots=True)
class Step:
    """One share of the traffic, and what must be seen before the next.

    None means what the spec says. `where` limits the step to requests whose attributes fit: `share` is then of those.
    """

    share: float
    bake: timedelta | None = None
    min_requests: int | None = None
    min_units: int = 0
    weeks: int = 0  # whole weeks that the step holds, so that every weekday counts alike
    approval: bool = False  # a person approves before it begins
    where: tuple[Condition, ...] = ()
    name: str = ""


@dataclass(frozen=True, slots=True)
class Freeze:
    """A stretch of every week, or of certain days, in which no share may rise: minutes of the week from Monday 0:00."""

    start: int = 0
    end: int = 0
    days: tuple[str, ...] = ()  # ISO dates that are frozen as a whole
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Calendar:
    """When shares may rise; rolling back is always allowed."""

    timezone: str = "UTC"
    freezes: tuple[Freeze, ...] = ()


GuardrailKind = Literal[
    "errors", "timeouts", "fallbacks", "latency", "metric", "shift", "drift", "srm", "resources", "custom"
]


@dataclass(frozen=True, slots=True)
class GuardrailSpec:
    """One guardrail: what must not get worse, by how much, judged how.

    kinds "errors", "timeouts", "fallbacks", "latency": e-process on unit episodes (margin relative = m of the test,
    absolute = promotion floor); "metric": confidence sequence on `metric` of outcomes; the others are told by their
    builders in `guard`. `weight` is its part of the rollout's error budget; what only holds takes none.
    """

    name: str
    kind: GuardrailKind
    margin: Margin = Margin()
    metric: str = ""
    limit: float | None = None  # absolute limit (`max=`); of "latency" the seconds above which an answer is slow
    weight: float = 1.0
    action: Literal["roll_back", "hold"] = "roll_back"
    harm: Literal["up", "down"] = "up"  # the direction that is bad
    quantile: float | None = None  # judged at this quantile instead of the mean, in (0, 1)
    over: str = ""  # denominator of a ratio metric
    covariate: str = ""  # a served feature that is known before the arm is, for CUPED
    min_samples: int = 0
    delay: timedelta = timedelta(0)  # how long outcomes take; younger predictions neither count nor are waited for
    times: float = 0.0  # "latency": slow is more than so many times the control's own quantile; 0 for `limit`
    cap: float | None = None  # "latency": absolute limit of the quantile, seconds; "resources": of the processor share


@dataclass(frozen=True, slots=True)
class RolloutSpec:
    """What the user wants; frozen when the rollout starts.

    `steps` have rising shares in (0, 1]; a final 100 % is the promotion itself. `shadow` 0 means no shadow phase.
    """

    steps: tuple[Step, ...]
    bake: timedelta
    shadow: timedelta = timedelta(0)
    guardrails: tuple[GuardrailSpec, ...] = ()
    min_requests: int = 200  # candidate requests a step (and the shadow) must have seen
    max_wait: timedelta = timedelta(days=7)
    alpha: float = 0.01  # error budget of everything that can roll back
    episode: timedelta = timedelta(minutes=10)
    strategy: Strategy = Strategy.CANARY
    primary: GuardrailSpec | None = None  # what "ab" and "bandit" hope to move; its margin is the least that counts
    calendar: Calendar = Calendar()
    approve_promotion: bool = False  # a person approves before the candidate becomes champion
    floor: float = 0.1  # "bandit": least share of either arm
    pace: timedelta = timedelta(hours=1)  # "bandit": least time between two allocations


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
    approved: int = -1  # the highest step that a person approved, by index; len(steps) is the promotion
    began: datetime | None = None  # when the present step began; `entered` is later where a bandit moved its share
    fault: str = ""  # the guardrail, "veto", "abort", "table" or "primary" that sent the traffic back


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
    action: Literal["roll_back", "hold"] = "roll_back"
    better: bool = False  # the candidate is shown to be better, beyond `margin` (primary metrics)
    error: float | None = None  # standard error of `harm`
    power: float | None = None  # chance that harm of the margin's size would have been seen by now, in [0, 1]
    holds: bool = False  # no share may rise now: breached with action "hold", or its value is not known
    coverage: float | None = None  # labelled share of the matured predictions, in [0, 1]; None: none is


@dataclass(frozen=True, slots=True)
class ShadowEvidence:
    """How the candidate's answers compare with the champion's to the same rows; no guardrail, but worth a look."""

    rows: int
    agreement: float  # share of rows on which both said the same
    shift: float | None  # mean of candidate less champion
    deviation: float | None  # standard deviation of that
    seconds: float  # mean time of the discarded answers


@dataclass(frozen=True, slots=True)
class Measured:
    """A value that comes from outside the prediction log, such as drift or memory; None while it is not known."""

    value: float | None
    at: datetime | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Outside:
    """What a look at a rollout takes from outside the log; recorded with every decision, so that a replay has it."""

    vetoed: str = ""
    measured: dict[str, Measured] = field(default_factory=dict)  # by guardrail


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
    primary: GuardrailEvidence | None = None
    units_in_phase: int = 0  # distinct units of the candidate since the phase or step began
    control_in_phase: int | None = None  # requests of the control beside `in_phase`; None: not counted
    silent: timedelta = timedelta(0)  # time since the phase began that nobody saw: no request for longer than a lull
    silent_weeks: timedelta = timedelta(0)  # the same, where a weekend may be silent


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
