"""Close the loop: evidence -> trigger -> run -> gate -> rollout -> verdict, without a hand.

The surprise: the governor holds no state. Each pass reads the stores, tells the story's next fact once, and then makes
it so; killed between any two lines, the next pass finds the fact told or the thing done, and goes on from there. A
run is found again by its trigger, a rollout by its candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime

from flyball.errors import ConflictError
from flyball.loop.policy import STARTED, damp, drift_trigger, performance_trigger, schedule_trigger
from flyball.loop.ports import LoopStore
from flyball.loop.types import LoopEvent, RetrainSpec, Trigger, TriggerSpec
from flyball.monitoring.ports import MonitorStore
from flyball.rollout.ports import RolloutStore
from flyball.rollout.types import TERMINAL, Phase, RolloutStatus
from flyball.training.ports import RunStore
from flyball.training.types import Run, RunState

__all__ = ["Governor", "Launch", "StartRollout"]

Launch = Callable[[str, str, str, datetime], str]  # model, cause, trigger id, now -> run id
StartRollout = Callable[[str, str, str, datetime], str]  # model, version, cause, now -> rollout id


class Governor:
    """Turn the loop of every model with a `Retrain`; one per project, under the control lease."""

    def __init__(
        self,
        *,
        store: LoopStore,
        monitors: MonitorStore,
        runs: RunStore,
        launch: Launch,
        start_rollout: StartRollout,
        rollouts: RolloutStore,
        specs: Mapping[str, RetrainSpec],
        champion: Callable[[str], str | None] | None = None,
    ) -> None:
        """Wire the governor.

        Args:
            store: Triggers, freezes, story.
            monitors: Closed windows.
            runs: Training runs; a run that `launch` creates carries its trigger's id.
            launch: Create and start a run; returns its id.
            start_rollout: Start a rollout of a version; a ConflictError means "not now", it is tried again.
            rollouts: Rollouts of all models.
            specs: When to retrain which model.
            champion: The present champion of a model; without it, the version of the newest drift window counts.
        """
        self._store = store
        self._monitors = monitors
        self._runs = runs
        self._launch = launch
        self._start_rollout = start_rollout
        self._rollouts = rollouts
        self._specs = specs
        self._champion = champion or (lambda _model: None)

    def step(self, now: datetime, fence: int) -> list[LoopEvent]:
        """Do everything that is due at `now`; return the facts that are new.

        `fence` is the caller's; it goes into each event, and the stores behind `launch` and `start_rollout` check it.
        """
        return [e for model, spec in self._specs.items() for e in _Pass(self, model, spec, now, fence).run()]


class _Pass:
    """One pass over one model."""

    def __init__(self, governor: Governor, model: str, spec: RetrainSpec, now: datetime, fence: int) -> None:
        self._g = governor
        self._store = governor._store
        self._model = model
        self._spec = spec
        self._now = now
        self._fence = fence
        self._story = self._store.story(model)
        self._told = {(e.kind, e.ids.get("trigger", "")) for e in self._story}
        self._events: list[LoopEvent] = []

    def run(self) -> list[LoopEvent]:
        champion = self._g._champion(self._model)
        for trigger in self._store.triggers(self._model):
            if trigger.state == "running":
                self._advance(trigger)
        for spec in self._spec.on:
            found = self._evidence(spec, champion)
            if found is not None:
                self._fire(found)
        for trigger in self._store.triggers(self._model):
            if trigger.state == "open":
                self._start(trigger, champion)
        return self._events

    def _evidence(self, spec: TriggerSpec, champion: str | None) -> Trigger | None:
        match spec.kind:
            case "drift":
                windows = self._g._monitors.drift(self._model, version=champion, limit=10)
                return drift_trigger(self._model, windows, champion, self._now)
            case "schedule":
                return schedule_trigger(self._model, spec, self._armed(spec), self._now)
            case "performance":
                values = self._g._monitors.performance(self._model, limit=100)
                return performance_trigger(self._model, spec, values, champion, self._now)

    def _armed(self, spec: TriggerSpec) -> datetime:
        """Return when this schedule was first seen: ticks before it do not fire."""
        name = f"{spec.cron} {spec.timezone}"
        for event in self._story:
            if event.kind == "ScheduleArmed" and event.ids.get("schedule") == name:
                return event.at
        self._record("ScheduleArmed", f"the schedule {spec.cron!r} ({spec.timezone}) is armed", schedule=name)
        return self._now

    def _fire(self, trigger: Trigger) -> None:
        if any(t.id == trigger.id for t in self._store.triggers(self._model)):
            return
        self._tell("TriggerFired", trigger, str(trigger.evidence.get("text", trigger.kind)))
        self._store.put(trigger)

    def _start(self, trigger: Trigger, champion: str | None) -> None:
        run = self._run_of(trigger)
        if run is None:
            history, frozen = self._store.triggers(self._model), self._store.frozen(self._model)
            active = self._active()
            verdict = damp(trigger, self._spec, history, frozen, self._now, champion=champion, active=active)
            if verdict.action == "wait":
                if verdict.reason != trigger.reason:
                    self._store.update(replace(trigger, reason=verdict.reason))
                return
            if verdict.action == "drop":
                self._tell("TriggerDamped", trigger, verdict.reason)
                self._store.update(replace(trigger, state="damped", reason=verdict.reason))
                return
            name = self._g._launch(self._model, trigger.kind, trigger.id, self._now)
        else:
            name = run.id
        begun = (run.created if run is not None else self._now).isoformat()
        self._tell("RunStarted", trigger, f"run {name} started because of {trigger.kind}", run=name)
        evidence = trigger.evidence | {STARTED: begun}
        self._store.update(replace(trigger, state="running", reason="", run=name, evidence=evidence))

    def _advance(self, trigger: Trigger) -> None:
        if trigger.rollout is not None:
            self._finish_rollout(trigger, trigger.rollout)
            return
        run = self._g._runs.get(trigger.run or "")
        match run.state:
            case RunState.PENDING | RunState.RUNNING:
                return
            case RunState.FAILED:
                self._handled(trigger, "RunFinished", f"run {run.id} failed: {run.error or 'no cause recorded'}")
            case RunState.GATED_OUT:
                text = f"run {run.id}: {run.version or 'its version'} did not pass its gate"
                self._handled(trigger, "RunFinished", text + (f" ({run.error})" if run.error else ""))
            case RunState.SUCCEEDED:
                self._tell("RunFinished", trigger, f"run {run.id}: {run.version} passed its gate", run=run.id)
                self._roll_out(trigger, run)

    def _roll_out(self, trigger: Trigger, run: Run) -> None:
        version = run.version or ""
        status = self._rollout_of(version)
        if status is None:
            frozen = self._store.frozen(self._model)
            if frozen is not None:
                self._wait(trigger, f"{version} waits for its rollout: the loop is frozen: {frozen}")
                return
            try:
                name = self._g._start_rollout(self._model, version, trigger.kind, self._now)
            except ConflictError as error:
                self._wait(trigger, f"{version} waits for its rollout: {error}")
                return
        else:
            name = status.id
        self._tell("RolloutStarted", trigger, f"rollout {name} of {version} started", rollout=name, version=version)
        self._store.update(replace(trigger, rollout=name, reason=""))

    def _finish_rollout(self, trigger: Trigger, rollout: str) -> None:
        _, status = self._g._rollouts.get(rollout)
        if status.phase not in TERMINAL:
            return
        verdict = "promoted" if status.phase is Phase.PROMOTED else "rolled back"
        text = (
            f"{status.candidate} was {verdict}: {status.reason}"
            if status.reason
            else f"{status.candidate} was {verdict}"
        )
        self._handled(trigger, "RolloutFinished", text)

    def _handled(self, trigger: Trigger, kind: str, text: str) -> None:
        self._tell(kind, trigger, text)
        self._store.update(replace(trigger, state="handled", reason=text))

    def _wait(self, trigger: Trigger, reason: str) -> None:
        if trigger.reason != reason:
            self._store.update(replace(trigger, reason=reason))

    def _active(self) -> str | None:
        """Return what still goes on for the model: a run of the loop or of a person, or a rollout."""
        for trigger in self._store.triggers(self._model):
            if trigger.state == "running":
                return f"rollout {trigger.rollout}" if trigger.rollout else f"run {trigger.run}"
        for _, status in self._g._rollouts.list(self._model, active=True):
            return f"rollout {status.id}"
        return None

    def _run_of(self, trigger: Trigger) -> Run | None:
        return next((r for r in self._g._runs.list(self._model) if r.trigger == trigger.id), None)

    def _rollout_of(self, version: str) -> RolloutStatus | None:
        return next((s for _, s in self._g._rollouts.list(self._model) if s.candidate == version), None)

    def _tell(self, kind: str, trigger: Trigger, text: str, **ids: str) -> None:
        """Record a fact about a trigger unless the story has it: each kind of fact happens once to a trigger."""
        if (kind, trigger.id) in self._told:
            return
        known = {"run": trigger.run, "rollout": trigger.rollout}
        self._told.add((kind, trigger.id))
        self._record(kind, text, trigger=trigger.id, **{k: v for k, v in known.items() if v} | ids)

    def _record(self, kind: str, text: str, **ids: str) -> None:
        event = LoopEvent(self._now, self._model, kind, text, ids | {"fence": str(self._fence)})
        self._store.record(event)
        self._events.append(event)
