"""When to retrain: what a user writes (`Retrain`, `on`), which evidence fires, and what damps it (pure).

The surprise: only the newest evidence fires. A page of last week that a later quiet window answered is history, and
of three missed cron ticks one training is enough.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from flyball.errors import DefinitionError, UnknownName
from flyball.loop.types import RetrainSpec, Trigger, TriggerSpec
from flyball.monitoring.types import DriftWindow, PerformanceWindow
from flyball.units import duration, per, spoken

__all__ = ["Damping", "Retrain", "damp", "drift_trigger", "next_tick", "on", "performance_trigger",
           "schedule_trigger"]  # fmt: skip

_COVERAGE = 0.5  # a performance window with fewer labels fires nothing
_ROWS = 200
STARTED = "started"  # key in a trigger's evidence: when its run was launched (ISO, domain time)


class on:  # noqa: N801 a namespace that reads as fb.on.drift()
    """Reasons to retrain."""

    @staticmethod
    def drift() -> TriggerSpec:
        """Retrain when a drift window of the champion pages."""
        return TriggerSpec("drift")

    @staticmethod
    def schedule(cron: str, *, timezone: str = "UTC") -> TriggerSpec:
        """Retrain at every tick of a cron expression, such as "0 4 * * 1", in a timezone.

        Raises:
            DefinitionError: no cron expression of five fields, or no such timezone.
        """
        from croniter import croniter

        if len(cron.split()) != 5 or not croniter.is_valid(cron):
            raise DefinitionError(
                f"{cron!r} is no cron expression; write five fields, such as '0 4 * * 1' (Mondays, 4:00)"
            )
        try:
            ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise DefinitionError(f"there is no timezone {timezone!r}; write one such as America/New_York") from error
        return TriggerSpec("schedule", cron=cron, timezone=timezone)

    @staticmethod
    def performance(metric: str, *, max: float | None = None, min: float | None = None) -> TriggerSpec:
        """Retrain when a metric of final windows lies beyond a limit in 2 of 3.

        Raises:
            DefinitionError: neither or both limits are given.
        """
        from flyball.monitoring.definitions import METRIC_NAMES

        if metric not in METRIC_NAMES:
            raise UnknownName.of("performance metric", metric, METRIC_NAMES)
        if (max is None) == (min is None):
            raise DefinitionError(
                f"on.performance({metric!r}) needs one limit; give max= for errors or min= for scores"
            )
        return TriggerSpec("performance", metric=metric, max=max, min=min)


def Retrain(on: Iterable[TriggerSpec], *, cooldown: str | timedelta = "6h", budget: str = "3/week") -> RetrainSpec:
    """Say when the loop retrains a model, and how much at most.

    Args:
        on: Reasons: `on.drift()`, `on.schedule(...)`, `on.performance(...)`.
        cooldown: Least time between the starts of two runs.
        budget: Largest number of runs in any such span, such as 3/week.
    """
    triggers = tuple(on)
    if not triggers:
        raise DefinitionError("Retrain(on=[]) never retrains; name a reason, such as on.drift(), or leave retrain out")
    count, window = per(budget)
    return RetrainSpec(triggers, duration(cooldown), count, window)


@dataclass(frozen=True, slots=True)
class Damping:
    """What to do with an open trigger, and why: launch a run, keep it waiting, or drop it."""

    action: Literal["launch", "wait", "drop"]
    reason: str


def damp(
    trigger: Trigger,
    spec: RetrainSpec,
    history: Sequence[Trigger],
    frozen: str | None,
    now: datetime,
    *,
    champion: str | None = None,
    active: str | None = None,
) -> Damping:
    """Decide about one open trigger.

    Args:
        trigger: The open trigger.
        spec: Cooldown and budget.
        history: All triggers of the model, in any order.
        frozen: Why the loop is frozen, else None.
        now: Domain time.
        champion: The present champion, when known; evidence against another version is handled already.
        active: What is still going on for this model ("run r7", "rollout o3"), else None.

    Returns:
        "wait" only while a run or rollout is active; everything else that stands in the way drops the trigger, since
        evidence that lasts comes again with the next window.
    """
    against = trigger.evidence.get("version")
    if frozen is not None:
        return Damping("drop", f"the loop is frozen: {frozen}")
    if champion is not None and against is not None and against != champion:
        return Damping("drop", f"already handled: {against} is no longer champion, {champion} is")
    newer = [t for t in history if t.kind == trigger.kind and t.state == "open" and t.at > trigger.at]
    if newer:
        return Damping("drop", f"newer evidence came: {newer[-1].id}")
    starts = sorted(s for t in history if (s := started(t)) is not None)
    if starts and starts[-1] >= trigger.at:
        return Damping(
            "drop", f"already handled: a run started at {starts[-1]:%Y-%m-%d %H:%M} UTC, after this evidence"
        )
    if active is not None:
        return Damping("wait", f"{active} is still active")
    if starts and now - starts[-1] < spec.cooldown:
        left = spec.cooldown - (now - starts[-1])
        return Damping("drop", f"cooldown: the last run started {spoken(now - starts[-1])} ago, {spoken(left)} to go")
    spent = sum(now - s < spec.budget_window for s in starts)
    if spent >= spec.budget:
        return Damping("drop", f"budget: {spent} of {spec.budget} runs in {spoken(spec.budget_window)} are used")
    return Damping("launch", "nothing stands in the way")


def started(trigger: Trigger) -> datetime | None:
    """Return when a trigger's run was launched, None when it was not."""
    text = trigger.evidence.get(STARTED)
    return datetime.fromisoformat(text) if isinstance(text, str) else None


def drift_trigger(model: str, windows: Sequence[DriftWindow], champion: str | None, now: datetime) -> Trigger | None:
    """Return a trigger when the newest judged window of the champion pages.

    Args:
        model: Whose windows.
        windows: Drift windows, oldest first.
        champion: The present champion; None takes the version of the newest window.
        now: When it is noticed.
    """
    judged = [w for w in windows if w.features and champion in (None, w.version)]
    if not judged or judged[-1].level != "page":
        return None
    window = judged[-1]
    moved = sorted((f for f in window.features if f.level == "page"), key=lambda f: -f.distance)
    evidence = {
        "version": window.version,
        "start": window.start.isoformat(),
        "end": window.end.isoformat(),
        "features": {f.feature: round(f.distance, 4) for f in moved[:5]},
        "text": window.text,
    }
    return Trigger(f"drift/{model}/{window.version}/{_stamp(window.start)}", model, "drift", now, evidence)


def schedule_trigger(model: str, spec: TriggerSpec, armed: datetime, now: datetime) -> Trigger | None:
    """Return a trigger for the newest cron tick in (`armed`, `now`]; missed ticks before it are left out."""
    from croniter import croniter

    local = (now + timedelta(seconds=1)).astimezone(ZoneInfo(spec.timezone))
    tick: datetime = croniter(spec.cron, local).get_prev(datetime)
    due = tick.astimezone(UTC)
    if not armed < due <= now:
        return None
    evidence = {"cron": spec.cron, "timezone": spec.timezone, "tick": due.isoformat()}
    text = f"the schedule {spec.cron!r} ({spec.timezone}) was due at {tick:%Y-%m-%d %H:%M}"
    return Trigger(f"schedule/{model}/{_stamp(due)}", model, "schedule", now, evidence | {"text": text})


def next_tick(specs: Iterable[TriggerSpec], now: datetime) -> datetime | None:
    """Return when the next schedule of several is due after `now`, None without schedules."""
    from croniter import croniter

    schedules = [spec for spec in specs if spec.kind == "schedule"]
    ticks = [croniter(s.cron, now.astimezone(ZoneInfo(s.timezone))).get_next(datetime) for s in schedules]
    return min((tick.astimezone(UTC) for tick in ticks), default=None)


def performance_trigger(
    model: str, spec: TriggerSpec, windows: Sequence[PerformanceWindow], champion: str | None, now: datetime
) -> Trigger | None:
    """Return a trigger when the newest final window lies beyond the limit, and one of the two before it did too."""
    final = [w for w in windows if w.metric == spec.metric and w.state == "final" and champion in (None, w.version)]
    final = [w for w in final if w.value is not None and w.rows >= _ROWS and w.coverage >= _COVERAGE][-3:]
    beyond = [w for w in final if _beyond(spec, w.value)]
    if len(beyond) < 2 or not final or beyond[-1] is not final[-1]:
        return None
    window = final[-1]
    limit = f"above {spec.max:g}" if spec.max is not None else f"below {spec.min:g}"
    text = f"{spec.metric} was {window.value:.4g}, {limit}, in {len(beyond)} of {len(final)} windows"
    evidence = {"version": window.version, "start": window.start.isoformat(), "value": window.value, "text": text}
    name = f"performance/{model}/{window.version}/{spec.metric}/{_stamp(window.start)}"
    return Trigger(name, model, "performance", now, evidence)


def _beyond(spec: TriggerSpec, value: float | None) -> bool:
    if value is None:
        return False
    return value > spec.max if spec.max is not None else spec.min is not None and value < spec.min


def _stamp(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
