from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest

from flyball.control import Database, connect
from flyball.datasets.types import DatasetManifest
from flyball.errors import ConflictError, FenceLost, InputError, RevisionConflict, UnknownName
from flyball.features.spec import ColumnSpec, EntitySpec, FeatureSpec, SourceSpec, Stat, ViewSpec
from flyball.loop.types import LoopEvent, Trigger
from flyball.monitoring.types import Alert, DriftWindow, FeatureDrift, PerformanceWindow
from flyball.registry.types import Lifecycle, ModelVersion, Version
from flyball.rollout.routing import ModelRoute, RoutingTable, VersionRef
from flyball.rollout.types import GuardrailSpec, Phase, RolloutEvent, RolloutSpec, RolloutStatus, Step
from flyball.training.types import Run, RunState, StageRecord
from flyball.units import Margin

NOW = datetime(2020, 3, 11, 12, 0, 0, 123456, tzinfo=UTC)
HOUR = timedelta(hours=1)


def version(name: str = "v1", **changes: object) -> Version:
    plain = Version("eta", ModelVersion(name), "run1", Lifecycle.CANDIDATE, "a/eta/v1", "d" * 64, "ds", "code", NOW)
    return dataclasses.replace(plain, **changes)


def manifest(digest: str, model: str = "eta") -> DatasetManifest:
    return DatasetManifest(
        digest, model, 10, 8, 2, "f", "l", "c", "as_known", NOW, NOW + HOUR, NOW, 7, 0, 0, poisoned=((NOW, NOW + HOUR),)
    )


def status(rollout: str = "r1", model: str = "eta", **changes: object) -> RolloutStatus:
    return dataclasses.replace(RolloutStatus(rollout, model, "v2", "v1", Phase.PENDING, 0, NOW), **changes)


SPEC = RolloutSpec(
    steps=(Step(0.1), Step(0.5)), bake=HOUR, guardrails=(GuardrailSpec("errors", "errors", Margin(absolute=0.01)),)
)
VIEW = ViewSpec(
    "traffic",
    EntitySpec("zone", (ColumnSpec("zone", "int64"),)),
    SourceSpec("trips", "data/*.parquet", "at", None, "UTC", (("m", "a / b"),), "m > 0", 0),
    None,
    (FeatureSpec("n", "int64", None, Stat.COUNT, 3_600_000_000, 60_000_000),),
)


# versions


def test_a_run_reserves_one_version_name_however_often_it_asks(db: Database) -> None:
    names = [db.versions.reserve("eta", run) for run in ("a", "b", "a", "c")]
    assert names == ["v1", "v2", "v1", "v3"]
    assert db.versions.reserve("other", "z") == "v1"


def test_a_version_is_read_as_it_was_written(db: Database) -> None:
    written = version(metrics={"mae": 3.1}, trained_from=NOW, gate="passing", lifecycle=Lifecycle.CHAMPION)
    db.versions.add(written)
    assert db.versions.get("eta", "v1") == written
    assert db.versions.models() == ["eta"]


def test_adding_the_same_version_twice_changes_nothing_and_other_content_conflicts(db: Database) -> None:
    db.versions.add(version())
    db.versions.set_lifecycle("eta", "v1", Lifecycle.CHAMPION, now=NOW)
    db.versions.add(version())
    assert db.versions.get("eta", "v1").lifecycle is Lifecycle.CHAMPION
    with pytest.raises(ConflictError, match="v1 is registered with other content"):
        db.versions.add(version(digest="e" * 64))


def test_a_new_champion_retires_the_old_one(db: Database) -> None:
    for name in ("v1", "v2"):
        db.versions.add(version(name))
        db.versions.set_lifecycle("eta", name, Lifecycle.CHAMPION, now=NOW)
    assert [(v.version, v.lifecycle.value) for v in db.versions.list("eta")] == [("v1", "retired"), ("v2", "champion")]
    champion = db.versions.champion("eta")
    assert champion is not None
    assert champion.version == "v2"
    assert db.versions.champion("nobody") is None


def test_an_unknown_version_names_near_ones(db: Database) -> None:
    db.versions.add(version("v11"))
    with pytest.raises(UnknownName, match="did you mean v11"):
        db.versions.get("eta", "v1")
    with pytest.raises(UnknownName):
        db.versions.set_gate("eta", "v9", "passing")
    with pytest.raises(UnknownName):
        db.versions.set_lifecycle("eta", "v9", Lifecycle.CHAMPION, now=NOW)


def test_a_value_that_json_cannot_hold_is_refused(db: Database) -> None:
    with pytest.raises(InputError, match=r"Version.metrics.mae is nan"):
        db.versions.add(version(metrics={"mae": float("nan")}))


# data sets


def test_a_training_set_is_found_by_digest_and_unique_prefix(db: Database) -> None:
    for digest in ("abc1", "abd2", "abd2"):
        db.datasets.add(manifest(digest))
    assert db.datasets.get("abc") == manifest("abc1")
    assert [m.digest for m in db.datasets.list("eta")] == ["abc1", "abd2"]
    with pytest.raises(UnknownName, match="more than one"):
        db.datasets.get("ab")
    with pytest.raises(UnknownName, match="no training set"):
        db.datasets.get("%")


def test_poisoned_stretches_are_kept_per_model(db: Database) -> None:
    db.datasets.poison("eta", NOW, NOW + HOUR, reason="meter broke")
    assert db.datasets.poisoned("eta") == [(NOW, NOW + HOUR)]
    assert db.datasets.poisoned("other") == []
    with pytest.raises(InputError, match="is empty"):
        db.datasets.poison("eta", NOW, NOW, reason="")


# runs


def run(name: str = "r1", model: str = "eta") -> Run:
    return Run(name, model, "manual", RunState.RUNNING, NOW, NOW, "code", {"max_iter": 200})


def test_a_run_keeps_its_journal(db: Database) -> None:
    db.runs.create(run())
    first = StageRecord("snapshot", "started", "i", NOW)
    train = StageRecord("train", "done", "j", NOW, NOW + HOUR, {"rows": 10})  # a simulated clock stands still
    for stage in (train, first, dataclasses.replace(first, state="done")):
        db.runs.record_stage("r1", stage)
    found = db.runs.get("r1")
    assert found.state is RunState.PENDING
    assert [(s.stage, s.state) for s in found.stages] == [("snapshot", "done"), ("train", "done")]
    assert db.runs.list("eta") == [found]
    assert db.runs.list("other") == []


def test_a_final_state_stamps_the_end_and_resuming_takes_it_away(db: Database) -> None:
    db.runs.create(run())
    db.runs.set_state("r1", RunState.FAILED, now=NOW, error="boom")
    failed = db.runs.get("r1")
    assert (failed.error, failed.finished) == ("boom", NOW)
    db.runs.set_state("r1", RunState.RUNNING, now=NOW, version="v4")
    db.runs.set_state("r1", RunState.SUCCEEDED, now=NOW + HOUR)
    done = db.runs.get("r1")
    assert (done.error, done.finished, done.version) == ("", NOW + HOUR, "v4")


def test_notes_are_merged(db: Database) -> None:
    db.runs.create(run())
    db.runs.note("r1", pid=7, log="a.log")
    db.runs.note("r1", pid=8)
    assert db.runs.notes("r1") == {"pid": 8, "log": "a.log"}


def test_unknown_and_repeated_runs_are_refused(db: Database) -> None:
    db.runs.create(run())
    with pytest.raises(ConflictError):
        db.runs.create(run())
    with pytest.raises(UnknownName):
        db.runs.get("r2")
    with pytest.raises(UnknownName):
        db.runs.record_stage("r2", StageRecord("train", "done", "", NOW))


# rollouts


def test_a_rollout_is_read_as_it_was_written(db: Database) -> None:
    begun = status(state={"e": [1.5, None]}, cursor={"w0/a.seg": 12}, skip_shadow=True)
    db.rollouts.create(SPEC, begun)
    assert db.rollouts.get("r1") == (SPEC, begun)


def test_one_rollout_at_a_time_per_model(db: Database) -> None:
    db.rollouts.create(SPEC, status())
    db.rollouts.create(SPEC, status("other", "churn"))
    with pytest.raises(ConflictError, match="eta has rollout r1 under way"):
        db.rollouts.create(SPEC, status("r2"))
    db.rollouts.save(status(phase=Phase.ROLLED_BACK), expected=0, fence=None)
    db.rollouts.create(SPEC, status("r2"))
    assert [s.id for _, s in db.rollouts.list("eta")] == ["r1", "r2"]
    assert [s.id for _, s in db.rollouts.list(active=True)] == ["other", "r2"]


def test_a_save_over_another_revision_writes_nothing(db: Database) -> None:
    db.rollouts.create(SPEC, status())
    saved = db.rollouts.save(status(phase=Phase.STEP, step=0), expected=0, fence=None)
    assert saved.revision == 1
    event = RolloutEvent("r1", NOW, "WeightsChanged", "because", {"share": 0.1})
    with pytest.raises(RevisionConflict, match="at revision 1, not 0"):
        db.rollouts.save(status(), expected=0, fence=None, events=[event])
    assert db.rollouts.events("r1") == []
    db.rollouts.save(saved, expected=1, fence=None, events=[event, event])
    assert db.rollouts.events("r1") == [event, event]


def test_an_old_lease_owner_may_not_save(db: Database) -> None:
    db.rollouts.create(SPEC, status())
    old = db.leases.acquire("control", "a", timedelta(seconds=30))
    assert old is not None
    db.leases.release(old)
    new = db.leases.acquire("control", "b", timedelta(seconds=30))
    assert new is not None
    with pytest.raises(FenceLost, match=f"fence {old.fence} is out of date"):
        db.rollouts.save(status(), expected=0, fence=old.fence)
    assert db.rollouts.save(status(), expected=0, fence=new.fence).revision == 1


# monitors


def test_a_drift_window_is_recorded_once(db: Database) -> None:
    window = DriftWindow("eta", "v1", NOW, NOW + HOUR, 9, "warn", (FeatureDrift("x", 0.2, 0.1, 0.01, "warn", True),))
    db.monitors.record_drift(window)
    db.monitors.record_drift(dataclasses.replace(window, rows=1))
    later = dataclasses.replace(window, start=NOW + HOUR, version="v2")
    db.monitors.record_drift(later)
    assert db.monitors.drift("eta") == [window, later]
    assert db.monitors.drift("eta", version="v1") == [window]
    assert db.monitors.drift("eta", limit=1) == [later]


def test_a_final_performance_is_not_replaced_by_a_provisional_one(db: Database) -> None:
    window = PerformanceWindow("eta", "v1", "mae", NOW, NOW + HOUR, None, 0, 0.0, "pending")
    final = dataclasses.replace(window, value=3.0, rows=10, coverage=1.0, state="final")
    for each in (window, final, dataclasses.replace(final, value=4.0, state="provisional")):
        db.monitors.record_performance(each)
    assert db.monitors.performance("eta") == [final]


def test_an_alert_is_new_once(db: Database) -> None:
    alert = Alert("drift/eta/1", NOW, "page", "eta", "drifted", {"rows": 3})
    assert [db.monitors.alert_once(alert), db.monitors.alert_once(alert)] == [True, False]
    assert db.monitors.alerts() == [alert]
    assert db.monitors.alerts(since=NOW + HOUR) == []


# loop


def test_a_trigger_is_new_once_and_its_end_is_kept(db: Database) -> None:
    trigger = Trigger("t1", "eta", "drift", NOW, {"window": "1"})
    assert [db.loop.put(trigger), db.loop.put(trigger)] == [True, False]
    handled = dataclasses.replace(trigger, state="handled", run="r1")
    db.loop.update(handled)
    assert db.loop.triggers("eta") == [handled]
    with pytest.raises(UnknownName):
        db.loop.update(dataclasses.replace(trigger, id="t2"))


def test_the_story_keeps_its_order(db: Database) -> None:
    events = [LoopEvent(NOW, "eta", kind, "text", {"run": "r"}) for kind in ("TriggerFired", "RunStarted", "Frozen")]
    for event in events:
        db.loop.record(event)
    assert db.loop.story("eta") == events


def test_freezing_all_freezes_each_and_a_models_own_reason_comes_first(db: Database) -> None:
    db.loop.freeze(None, reason="holiday", now=NOW)
    assert db.loop.frozen("eta") == "holiday"
    db.loop.freeze("eta", reason="audit", now=NOW)
    assert db.loop.frozen("eta") == "audit"
    db.loop.thaw("eta")
    db.loop.thaw(None)
    assert db.loop.frozen("eta") is None


# routing


def table(version: int, fence: int = 0) -> RoutingTable:
    return RoutingTable(version, fence, 5, {"eta": ModelRoute("eta", "salt", VersionRef("v1", "p", "d", True))})


def test_without_a_table_the_current_one_is_empty_and_version_0(db: Database) -> None:
    assert db.routing.current() == RoutingTable(0, 0, 0)


def test_a_routing_write_is_a_compare_and_set(db: Database) -> None:
    db.routing.write(table(1), expected=0, fence=0)
    with pytest.raises(RevisionConflict, match="routing table 1 is in force, not 0"):
        db.routing.write(table(1), expected=0, fence=0)
    with pytest.raises(InputError, match="must be 2, not 5"):
        db.routing.write(table(5), expected=1, fence=0)
    db.routing.write(table(2), expected=1, fence=0)
    assert db.routing.current() == table(2)
    assert db.routing.history() == [table(1), table(2)]


def test_a_routing_write_of_a_former_owner_is_refused(db: Database) -> None:
    old = db.leases.acquire("control", "a", timedelta(seconds=30))
    again = db.leases.acquire("control", "a", timedelta(seconds=30))
    other = db.leases.acquire("somewhere", "c", timedelta(seconds=30))
    assert old is not None
    assert again is not None
    assert other is not None
    with pytest.raises(FenceLost):
        db.routing.write(table(1, old.fence), expected=0, fence=old.fence)
    db.routing.write(table(1, other.fence), expected=0, fence=other.fence)
    db.routing.write(table(2, again.fence), expected=1, fence=again.fence)


def test_without_leases_a_lower_fence_than_the_last_written_is_refused(db: Database) -> None:
    db.routing.write(table(1, 7), expected=0, fence=7)
    with pytest.raises(FenceLost):
        db.routing.write(table(2, 6), expected=1, fence=6)


# deployments, audit, outbox


def test_what_is_applied_is_read_back_and_the_same_again_is_no_new_revision(db: Database) -> None:
    assert db.deployments.applied() is None
    first = db.deployments.record_applied("c1", NOW, (VIEW,), definitions="d1", actor="me")
    assert db.deployments.applied() == first
    assert first.views == (VIEW,)
    assert db.deployments.record_applied("c1", NOW + HOUR, (VIEW,), definitions="d1") == first
    second = db.deployments.record_applied("c2", NOW + HOUR, (VIEW,), definitions="d1")
    assert db.deployments.history() == [first, second]


def test_a_watermark_is_set_moved_and_forgotten(db: Database) -> None:
    marks = []
    for at in (NOW, NOW + HOUR, None):
        db.deployments.set_watermark("abc", at)
        marks.append(db.deployments.watermark("abc"))
    assert marks == [NOW, NOW + HOUR, None]


def test_the_audit_trail_is_found_by_subject(db: Database) -> None:
    db.audit.record(NOW, "me", "skip-shadow", "rollout/r1", {"why": "urgent"})
    db.audit.record(NOW + HOUR, "me", "freeze", "loop/eta")
    assert [(e.action, e.details) for e in db.audit.list(subject="rollout/r1")] == [("skip-shadow", {"why": "urgent"})]
    assert [e.action for e in db.audit.list(since=NOW + HOUR)] == ["freeze"]
    assert [e.action for e in db.audit.list()] == ["skip-shadow", "freeze"]


def test_a_message_stays_until_it_is_acknowledged(db: Database) -> None:
    assert db.outbox.put("alias", "eta/v1", {"alias": "champion"}, at=NOW)
    assert not db.outbox.put("alias", "eta/v1", {"alias": "champion"}, at=NOW)
    (message,) = db.outbox.list("alias")
    db.outbox.ack(message.id, at=NOW)
    assert db.outbox.list() == []


def test_everything_is_there_after_reopening(db: Database, url: str) -> None:
    db.versions.add(version())
    db.routing.write(table(1), expected=0, fence=0)
    with connect(url) as again:
        assert again.versions.list("eta") == [version()]
        assert again.routing.current() == table(1)
