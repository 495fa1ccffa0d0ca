from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flyball.control import connect
from flyball.control.database import Database
from flyball.errors import ConflictError
from flyball.loop.governor import Governor
from flyball.loop.policy import Retrain, on
from flyball.loop.story import lines, why
from flyball.monitoring.types import DriftWindow, FeatureDrift
from flyball.rollout.types import Phase, RolloutEvent, RolloutSpec, RolloutStatus, Step
from flyball.training.types import Run, RunState, StageRecord

NOW = datetime(2020, 3, 18, 4, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
SPEC = Retrain(on=[on.drift()], cooldown="6h", budget="3/week")


class Crash(BaseException):
    """A kill -9."""


class Crashing:
    """A store whose calls are counted over all stores; the call `budget` reaches is killed before or after it acts."""

    def __init__(self, inner: object, meter: Meter) -> None:
        self._inner, self._meter = inner, meter

    def __getattr__(self, name: str):
        call = getattr(self._inner, name)

        def counted(*args, **kwargs):
            self._meter.tick(after=False)
            result = call(*args, **kwargs)
            self._meter.tick(after=True)
            return result

        return counted


class Meter:
    def __init__(self, at: int | None = None) -> None:
        self.at, self.count = at, 0

    def tick(self, *, after: bool) -> None:
        self.count += 1
        if self.count == self.at:
            raise Crash


class World:
    """A model whose runs and rollouts are moved by the test, on the real SQLite stores."""

    def __init__(self, folder: Path) -> None:
        self.db: Database = connect(f"sqlite:///{folder / 'control.db'}")
        self.champion, self.launched, self.started = "v1", 0, 0
        self.refuse_rollouts = False

    def governor(self, spec=SPEC, meter: Meter | None = None) -> Governor:
        def seen(store):
            return store if meter is None else Crashing(store, meter)

        return Governor(
            store=seen(self.db.loop),
            monitors=seen(self.db.monitors),
            runs=seen(self.db.runs),
            rollouts=seen(self.db.rollouts),
            launch=seen(self).launch,
            start_rollout=seen(self).start_rollout,
            specs={"m": spec},
            champion=lambda _m: self.champion,
        )

    def launch(self, model: str, cause: str, trigger: str, now: datetime) -> str:
        self.launched += 1
        name = f"r{self.launched}"
        self.db.runs.create(Run(name, model, cause, RunState.PENDING, now, now, "code", trigger=trigger))
        return name

    def start_rollout(self, model: str, version: str, cause: str, now: datetime) -> str:
        if self.refuse_rollouts:
            raise ConflictError("another rollout of m is not finished")
        self.started += 1
        name = f"o{self.started}"
        status = RolloutStatus(name, model, version, self.champion, Phase.PENDING, 0, now, cause=cause)
        self.db.rollouts.create(RolloutSpec((Step(0.1),), HOUR), status)
        return name

    def drift(self, day: int, level: str = "page", version: str | None = None) -> None:
        start = NOW + (day - 1) * DAY
        feature = FeatureDrift("trips_1h", 0.4, 0.1, 1e-9, level, True)
        text = "trips_1h moved by 0.40 (usual at most 0.10)"
        window = DriftWindow("m", version or self.champion, start, start + DAY, 900, level, (feature,), text)
        self.db.monitors.record_drift(window)

    def finish_run(self, name: str, state: RunState, version: str | None = None, error: str = "") -> None:
        self.db.runs.record_stage(
            name,
            StageRecord("gate", "done", "x", NOW, NOW, {"checks": [{"text": "mae 3.1 < 4.2", "verdict": "passing"}]}),
        )
        self.db.runs.set_state(name, state, now=NOW, version=version, error=error)

    def finish_rollout(self, name: str, phase: Phase) -> None:
        _, status = self.db.rollouts.get(name)
        event = RolloutEvent(name, NOW + DAY, str(phase), "every guardrail holds")
        done = replace(status, phase=phase, reason="every guardrail holds", finished=NOW + DAY)
        self.db.rollouts.save(done, expected=status.revision, fence=None, events=[event])
        if phase is Phase.PROMOTED:
            self.champion = status.candidate

    def kinds(self) -> list[str]:
        return [e.kind for e in self.db.loop.story("m")]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_loop_goes_all_the_way_round(world: World) -> None:
    governor = world.governor()
    assert governor.step(NOW, 1) == []
    world.drift(0)
    assert [e.kind for e in governor.step(NOW, 1)] == ["TriggerFired", "RunStarted"]
    assert governor.step(NOW + HOUR, 1) == []
    world.finish_run("r1", RunState.SUCCEEDED, "v2")
    assert [e.kind for e in governor.step(NOW + HOUR, 1)] == ["RunFinished", "RolloutStarted"]
    world.finish_rollout("o1", Phase.PROMOTED)
    assert [e.kind for e in governor.step(NOW + DAY, 1)] == ["RolloutFinished"]
    assert governor.step(NOW + DAY, 1) == []
    trigger = world.db.loop.triggers("m")[0]
    assert (trigger.state, trigger.run, trigger.rollout) == ("handled", "r1", "o1")
    assert (world.launched, world.started) == (1, 1)


def test_why_tells_window_run_gate_rollout_and_verdict(world: World) -> None:
    test_the_loop_goes_all_the_way_round(world)
    chapters = why("m", store=world.db.loop, runs=world.db.runs, rollouts=world.db.rollouts)
    assert chapters[0]["run"] | {"gate": 0} == {
        "id": "r1",
        "state": "succeeded",
        "version": "v2",
        "error": "",
        "gate": 0,
    }
    assert chapters[0]["rollout"]["phase"] == "Promoted"
    assert lines(chapters) == [
        "2020-03-18 04:00  drift: trips_1h moved by 0.40 (usual at most 0.10)",
        "  2020-03-18 04:00  run r1 started because of drift",
        "  2020-03-18 05:00  run r1: v2 passed its gate",
        "  2020-03-18 05:00  rollout o1 of v2 started",
        "  2020-03-19 04:00  v2 was promoted: every guardrail holds",
        "    gate: mae 3.1 < 4.2 [passing]",
        "    2020-03-19 04:00  Promoted: every guardrail holds",
    ]
    assert lines([]) == ["nothing has fired yet"]


@pytest.mark.parametrize(
    ("state", "reason"),
    [(RunState.FAILED, "run r1 failed: it rains"), (RunState.GATED_OUT, "run r1: v2 did not pass its gate (it rains)")],
)
def test_a_run_without_a_release_is_recorded_and_the_next_page_tries_again(
    world: World, state: RunState, reason: str
) -> None:
    governor = world.governor()
    world.drift(0)
    governor.step(NOW, 1)
    world.finish_run("r1", state, "v2", error="it rains")
    governor.step(NOW + HOUR, 1)
    assert world.db.loop.triggers("m")[0].reason == reason
    world.drift(1)
    governor.step(NOW + DAY, 1)
    assert world.launched == 2


def test_a_page_during_cooldown_is_damped_with_the_reason(world: World) -> None:
    governor = world.governor(Retrain(on=[on.drift()], cooldown="30h"))
    world.drift(0)
    governor.step(NOW, 1)
    world.finish_run("r1", RunState.GATED_OUT, "v2")
    world.drift(1)
    events = governor.step(NOW + DAY, 1)
    assert [e.kind for e in events] == ["RunFinished", "TriggerFired", "TriggerDamped"]
    assert events[-1].text == "cooldown: the last run started 1 d ago, 6 h to go"
    assert world.launched == 1


def test_a_page_during_a_rollout_waits_and_is_dropped_when_the_champion_changed(world: World) -> None:
    governor = world.governor()
    world.drift(0)
    governor.step(NOW, 1)
    world.finish_run("r1", RunState.SUCCEEDED, "v2")
    governor.step(NOW + HOUR, 1)
    world.drift(1)
    governor.step(NOW + DAY, 1)
    assert world.db.loop.triggers("m")[1].reason == "rollout o1 is still active"
    world.finish_rollout("o1", Phase.PROMOTED)
    governor.step(NOW + DAY + HOUR, 1)
    assert world.db.loop.triggers("m")[1].reason == "already handled: v1 is no longer champion, v2 is"
    assert world.launched == 1


def test_a_page_during_a_rollout_retrains_after_it_was_rolled_back(world: World) -> None:
    governor = world.governor()
    world.start_rollout("m", "bad", "manual", NOW)
    world.drift(0)
    governor.step(NOW, 1)
    assert world.launched == 0
    world.finish_rollout("o1", Phase.ROLLED_BACK)
    governor.step(NOW + HOUR, 1)
    assert world.launched == 1


def test_frozen_damps_triggers_and_holds_rollouts(world: World) -> None:
    governor = world.governor()
    world.drift(0)
    governor.step(NOW, 1)
    world.finish_run("r1", RunState.SUCCEEDED, "v2")
    world.db.loop.freeze(None, reason="audit week", now=NOW)
    governor.step(NOW + HOUR, 1)
    assert world.started == 0
    assert world.db.loop.triggers("m")[0].reason == "v2 waits for its rollout: the loop is frozen: audit week"
    world.db.loop.thaw(None)
    governor.step(NOW + HOUR, 1)
    assert world.started == 1
    world.db.loop.freeze("m", reason="audit", now=NOW)
    world.drift(1)
    governor.step(NOW + DAY, 1)
    assert world.db.loop.triggers("m")[1].reason == "the loop is frozen: audit"


def test_a_rollout_that_may_not_start_yet_is_tried_again(world: World) -> None:
    governor = world.governor()
    world.drift(0)
    governor.step(NOW, 1)
    world.finish_run("r1", RunState.SUCCEEDED, "v2")
    world.refuse_rollouts = True
    governor.step(NOW + HOUR, 1)
    assert "another rollout of m is not finished" in world.db.loop.triggers("m")[0].reason
    world.refuse_rollouts = False
    governor.step(NOW + 2 * HOUR, 1)
    assert world.db.loop.triggers("m")[0].rollout == "o1"


def test_a_schedule_fires_once_for_missed_ticks_and_survives_a_restart(world: World) -> None:
    spec = Retrain(on=[on.schedule("0 4 * * *")], cooldown="1h")
    world.governor(spec).step(NOW + HOUR, 1)
    assert world.launched == 0
    world.governor(spec).step(NOW + 3 * DAY + 2 * HOUR, 1)
    world.governor(spec).step(NOW + 3 * DAY + 3 * HOUR, 1)
    assert world.launched == 1
    assert world.kinds() == ["ScheduleArmed", "TriggerFired", "RunStarted"]


def test_drift_and_schedule_at_once_train_once(world: World) -> None:
    spec = Retrain(on=[on.drift(), on.schedule("0 4 * * *")], cooldown="1h")
    world.governor(spec).step(NOW - HOUR, 1)
    world.drift(0)
    world.governor(spec).step(NOW, 1)
    world.finish_run("r1", RunState.GATED_OUT)
    world.governor(spec).step(NOW + 2 * HOUR, 1)
    assert world.launched == 1
    assert [t.state for t in world.db.loop.triggers("m")] == ["handled", "damped"]


def _story(world: World, meter: Meter | None = None) -> None:
    """Go round once; every pass that is killed is followed by a new governor's pass."""

    def step(now: datetime) -> None:
        try:
            world.governor(meter=meter).step(now, 1)
        except Crash:
            world.governor().step(now, 2)

    world.drift(0)
    step(NOW)
    world.finish_run("r1", RunState.SUCCEEDED, "v2")
    step(NOW + HOUR)
    world.finish_rollout("o1", Phase.PROMOTED)
    step(NOW + DAY)


def test_a_crash_before_or_after_any_call_neither_loses_nor_doubles_anything(tmp_path: Path) -> None:
    meter = Meter()
    whole = World(tmp_path)
    _story(whole, meter)
    assert meter.count > 40
    for at in range(1, meter.count + 1):
        folder = tmp_path / str(at)
        folder.mkdir()
        world = World(folder)
        _story(world, Meter(at))
        assert (world.launched, world.started) == (1, 1), at
        assert world.kinds() == whole.kinds(), at
        assert world.db.loop.triggers("m") == whole.db.loop.triggers("m"), at
        world.db.close()
